"""Lists as `ps`, `images` and `history` print them: --format on rows, aligned tables, headers (docker/cli formatter).

A row maps a column's name to its value or to a function that gives it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from labkit.cli.tabwriter import align
from labkit.errors import InvalidParameter
from labkit.templates.parsing import TemplateError, parse
from labkit.templates.rendering import execute

Row = Mapping[str, Any]
_PROBLEMS = {"*formatter.ContainerContext": ("failed to parse template", "failed to execute template")}
"""What `ps` says of a template that it can't use; the other lists have one sentence for both."""


def write_rows(template: str, rows: Iterable[Row], headers: Mapping[str, str], kind: str) -> str:
    """The text of a list. `template` as --format takes it: `table`, `table TEMPLATE`, `json` or a template.

    `kind` is what Docker calls a row's type in its errors. InvalidParameter in Docker's wording.
    """
    is_table = template.startswith("table")
    text = template.removeprefix("table") if is_table else "{{json .}}" if template == "json" else template
    text = text.strip(" ").replace("\\t", "\t").replace("\\n", "\n")
    unread, unfit = _PROBLEMS.get(kind, ("template parsing error",) * 2)
    try:
        tree = parse(text)
    except TemplateError as error:
        raise InvalidParameter(f"{unread}: {error}") from error
    titles = {**headers, "Label": _label_header}
    try:
        header = execute(tree, titles, kind, text)  # also for other formats: a wrong field is wrong without rows too
        body = "".join(execute(tree, row, kind, text) + "\n" for row in rows)
    except TemplateError as error:
        raise InvalidParameter(f"{unfit}: {error}") from error
    if not is_table:
        return body
    return align(header + "\n" + body)


def _label_header(name: str) -> str:
    """`com.example.some-label` heads its column as `some label`."""
    return name.rpartition(".")[2].replace("-", " ").replace("_", " ")
