"""Go templates and Docker's tables."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from labkit.cli.runners.inspect import indent_json
from labkit.cli.tables import write_rows
from labkit.cli.tabwriter import align
from labkit.errors import InvalidParameter
from labkit.templates.parsing import TemplateError
from labkit.templates.rendering import render

VALUE: dict[str, Any] = {
    "Name": "web",
    "Id": "abc",
    "State": {"Running": True, "Pid": 7},
    "Env": ["A=1", "B=2"],
    "Labels": {"b": "2", "a": "1", "x}}": "9"},
    "Empty": None,
    "Rate": 1.5,
}


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("plain", "plain"),
        ("{{.Name}}/{{ .State.Pid }}", "web/7"),
        ("{{json .State}}", '{"Running":true,"Pid":7}'),
        ("{{range .Env}}<{{.}}>{{end}}", "<A=1><B=2>"),
        ("{{range $i, $e := .Env}}{{$i}}{{$e}};{{end}}", "0A=1;1B=2;"),
        ("{{range $k, $v := .Labels}}{{$k}}={{$v}} {{end}}", "a=1 b=2 x}}=9 "),
        ("{{range .Empty}}x{{else}}none{{end}}", "none"),
        ("{{if .State.Running}}up{{else}}down{{end}}", "up"),
        ("{{if .Empty}}a{{else if .Name}}b{{else}}c{{end}}", "b"),
        ("{{with .State}}{{.Pid}}{{$.Name}}{{end}}", "7web"),
        ("{{$x := .Name}}{{$x}}{{$x}}", "webweb"),
        ('{{index .Labels "x}}"}}{{index .Env 1}}', "9B=2"),
        ('{{join .Env ","}} {{upper .Name}} {{len .Env}}', "A=1,B=2 WEB 2"),
        ('{{.Env | len | printf "%03d"}} {{printf "%-5s|%q" .Name .Name}}', '002 web  |"web"'),
        ('{{if and (eq .Name "web" "db") (not .Empty) (gt .State.Pid 3)}}yes{{end}}', "yes"),
        ("a {{- .Name -}} b", "awebb"),
        ("a{{/* nothing */}}b", "ab"),
        ("{{println .Name}}", "web\n"),
        ("{{.Empty}} {{.State}} {{.Env}} {{.Rate}}", "<no value> map[Pid:7 Running:true] [A=1 B=2] 1.5"),
        ('{{(index .Env 0)}}{{slice .Name 1 3}}{{title "ab"}}', "A=1ebAb"),
        ("{{.ID}}", "abc"),
        ("{{if .State.Health}}{{.State.Health.Status}}{{end}}", ""),
        ('{{"{{"}}{{`}}`}}', "{{}}"),
    ],
)
def test_templates(template: str, text: str) -> None:
    assert render(template, VALUE) == text


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{{", "template: :1: unclosed action"),
        ("x\n{{.A", "template: :2: unclosed action"),
        ("{{foo}}", 'template: :1: function "foo" not defined'),
        ("{{}}", "template: :1: missing value for command"),
        ("{{if}}x{{end}}", "template: :1: missing value for if"),
        ("{{if .Name}}", "template: :1: unexpected EOF"),
        ("{{end}}", "template: :1: unexpected {{end}}"),
        ("{{.Foo}}", 'template: :1:2: executing "" at <.Foo>: map has no entry for key "Foo"'),
        ("ab {{.Name.X}}", 'template: :1:5: executing "" at <.Name.X>: can\'t evaluate field X in type string'),
        ("{{index .Env 9}}", 'template: :1:2: executing "" at <index>: error calling index: index out of range: 9'),
        ("{{$y}}", 'template: :1:2: executing "" at <$y>: undefined variable: $y'),
    ],
)
def test_templates_that_are_wrong(template: str, message: str) -> None:
    with pytest.raises(TemplateError) as caught:
        render(template, VALUE)
    assert str(caught.value) == message


@given(st.text(st.sampled_from("{}.a$|()-\" `'if range end else :=,/*x1"), max_size=30))
def test_any_text_is_a_template_or_refused_as_one(template: str) -> None:
    try:
        render(template, VALUE)
    except TemplateError as error:
        assert str(error).startswith("template: ")  # noqa: PT017 - it may also be a template


ROWS: list[dict[str, Any]] = [{"ID": "1", "Name": lambda: "<a>"}, {"ID": "22", "Name": "b"}]


def test_rows_as_table_template_and_json() -> None:
    headers = {"ID": "ID", "Name": "NAME"}
    assert write_rows("table {{.ID}}\\t{{.Name}}", ROWS, headers, "row") == (
        "ID        NAME\n1         <a>\n22        b\n"
    )
    assert write_rows("{{.Name}}", ROWS, headers, "row") == "<a>\nb\n"
    assert write_rows("json", ROWS[:1], headers, "row") == '{"ID":"1","Name":"\\u003ca\\u003e"}\n'
    assert write_rows("table {{.ID}}\\t{{.Name}}", [], headers, "row") == "ID        NAME\n"


@pytest.mark.parametrize(
    ("kind", "unfit", "unread"),
    [
        ("*formatter.ContainerContext", "failed to execute template", "failed to parse template"),
        ("*formatter.imageContext", "template parsing error", "template parsing error"),
    ],
)
def test_a_wrong_column_is_wrong_even_without_rows(kind: str, unfit: str, unread: str) -> None:
    """docker's `ps` looks at a template before its lists do."""
    with pytest.raises(InvalidParameter, match=rf"^{unfit}: .*can't evaluate field X in type {re.escape(kind)}"):
        write_rows("{{.X}}", [], {"ID": "ID"}, kind)
    with pytest.raises(InvalidParameter, match=f"^{unread}: "):
        write_rows("{{", [], {"ID": "ID"}, kind)


def test_columns_reach_over_neighbouring_lines_only() -> None:
    # text/tabwriter: a line without the cell ends the column.
    assert align("a\tb\nccc\td\n---\nlong long\tx\n", 0, 1) == "a   b\nccc d\n---\nlong long x\n"


def test_wide_characters_take_two_columns() -> None:
    assert align("日本\tx\nab\ty", 0, 1) == "日本 x\nab   y"


def test_json_is_indented_without_being_rewritten() -> None:
    text = '[{"a":{},"b":[],"c":[1.50,"\\u003c{}[],:\\""],"d":{"e":null}}]'
    assert indent_json(text) == (
        '[\n    {\n        "a": {},\n        "b": [],\n        "c": [\n            1.50,\n'
        '            "\\u003c{}[],:\\""\n        ],\n        "d": {\n            "e": null\n        }\n    }\n]'
    )
