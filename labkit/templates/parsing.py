"""Go's text/template, as much of it as --format is used for: read into a tree here, executed by `rendering`.

Actions: fields and keys, variables, pipelines, calls, parentheses, if, range, with, else, comments, trim
markers. The messages are text/template's, because people look them up.
"""

from __future__ import annotations

import re
from typing import Any, NamedTuple

from labkit.errors import InvalidParameter


class Text(NamedTuple):
    text: str


class Operand(NamedTuple):
    """`kind`: literal (value), field (names off the dot), variable (name, names), call (name), group (pipeline)."""

    kind: str
    value: Any
    names: tuple[str, ...]
    at: int
    source: str


class Pipeline(NamedTuple):
    """`variables` are declared (or, for range, bound) to the value of the last of `commands`."""

    commands: tuple[tuple[Operand, ...], ...]
    variables: tuple[str, ...]
    declares: bool


class Branch(NamedTuple):
    """An if, range or with."""

    keyword: str
    pipeline: Pipeline
    body: tuple[Any, ...]
    otherwise: tuple[Any, ...]


_TOKEN = re.compile(
    r"""\s*(?:(?P<string>"(?:[^"\\\n]|\\.)*")|(?P<raw>`[^`]*`)|(?P<char>'(?:[^'\\]|\\.)+')
    |(?P<number>[+-]?\d+(?:\.\d+)?\b)|(?P<field>(?:\.\w+)+)|(?P<dot>\.)
    |(?P<variable>\$\w*(?:\.\w+)*)|(?P<word>\w+)|(?P<mark>:=|[()|,=]))""",
    re.VERBOSE,
)
_ACTION = re.compile(r"\{\{(-\s)?")
_REST_OF_ACTION = re.compile(
    r"""(?:"(?:[^"\\\n]|\\.)*" | `[^`]*` | '(?:[^'\\]|\\.)+' | [^"`'}] | \}(?!\}))* \}\}""", re.VERBOSE
)


class TemplateError(InvalidParameter):
    """A template that can't be read or executed."""

    def named(self, name: str) -> TemplateError:
        """The same of a template with a name."""
        said = str(self).replace("template: :", f"template: {name}:", 1)
        return TemplateError(said.replace('executing ""', f'executing "{name}"', 1))


class _Token(NamedTuple):
    kind: str
    text: str
    at: int


def parse(template: str) -> tuple[Any, ...]:
    """The tree of a template. TemplateError in text/template's wording if it can't be read."""
    parser = _Parser(_split(template), template)
    nodes, end = parser.nodes()
    if end:
        raise parser.problem(f"unexpected {{{{{end}}}}}")
    return nodes


def _split(template: str) -> list[tuple[str, str, int]]:
    """(text or action, its content, its position), trim markers applied and comments left out."""
    pieces: list[tuple[str, str, int]] = []
    at = 0
    trim = False
    while at <= len(template):
        start = _ACTION.search(template, at)
        text = template[at : start.start() if start else len(template)]
        text = text.lstrip() if trim else text
        if start and start[1]:
            text = text.rstrip()
        if text:
            pieces.append(("text", text, at))
        if not start:
            break
        end = _action_end(template, start.end())
        content = template[start.end() : end]
        trim = content.endswith(" -")
        content = content[:-2] if trim else content
        if not (content.startswith("/*") and content.rstrip().endswith("*/")):
            pieces.append(("action", content, start.end()))
        at = end + 2
    return pieces


def _action_end(template: str, at: int) -> int:
    """Where the `}}` is that ends the action: not one within a string."""
    match = _REST_OF_ACTION.match(template, at)
    if not match:
        line = template.count("\n", 0, at) + 1
        raise TemplateError(f"template: :{line}: unclosed action")
    return match.end() - 2


class _Parser:
    def __init__(self, pieces: list[tuple[str, str, int]], template: str) -> None:
        self._pieces = pieces
        self._template = template
        self._next = 0
        self._at = 0
        self._tokens: list[_Token] = []

    def problem(self, what: str) -> TemplateError:
        line = self._template.count("\n", 0, self._at) + 1
        return TemplateError(f"template: :{line}: {what}")

    def nodes(self) -> tuple[tuple[Any, ...], str]:
        """Nodes up to an end or else (returned as the second value, with its action's tokens kept) or the end."""
        nodes: list[Any] = []
        while self._next < len(self._pieces):
            kind, content, self._at = self._pieces[self._next]
            self._next += 1
            if kind == "text":
                nodes.append(Text(content))
                continue
            self._tokens = self._scan(content)
            word = self._tokens[0].text if self._tokens and self._tokens[0].kind == "word" else ""
            if word in ("end", "else"):
                return tuple(nodes), word
            if word in ("if", "range", "with"):
                self._tokens.pop(0)
                nodes.append(self._branch(word))
            else:
                nodes.append(self._whole_pipeline("command"))
        return tuple(nodes), ""

    def _branch(self, keyword: str) -> Branch:
        pipeline = self._whole_pipeline(keyword)
        body, end = self.nodes()
        otherwise: tuple[Any, ...] = ()
        if end == "else":
            self._tokens.pop(0)
            if self._tokens and self._tokens[0].text in ("if", "with"):
                # "else if" nests, and shares the end of the outer action.
                return Branch(keyword, pipeline, body, (self._branch(self._tokens.pop(0).text),))
            otherwise, end = self.nodes()
        if end != "end":
            raise self.problem("unexpected EOF")
        return Branch(keyword, pipeline, body, otherwise)

    def _whole_pipeline(self, where: str) -> Pipeline:
        pipeline = self._pipeline(where)
        if self._tokens:
            raise self.problem(f"unexpected <{self._tokens[0].text}> in {where}")
        return pipeline

    def _pipeline(self, where: str) -> Pipeline:
        variables, declares = self._declaration()
        commands = [self._command()]
        while self._tokens and self._tokens[0].text == "|":
            self._tokens.pop(0)
            commands.append(self._command())
        if not all(commands):
            raise self.problem(f"missing value for {where}")
        return Pipeline(tuple(commands), variables, declares)

    def _declaration(self) -> tuple[tuple[str, ...], bool]:
        """`$x :=`, `$x =` or `$k, $v :=` at the beginning."""
        marks = [token.text for token in self._tokens[:4]]
        for count, mark_at in ((1, 1), (2, 3)):
            named = len(marks) > mark_at and marks[0].startswith("$") and marks[mark_at] in (":=", "=")
            if named and (count == 1 or (marks[1] == "," and marks[2].startswith("$"))):
                del self._tokens[: mark_at + 1]
                return (tuple(marks[0:1]) if count == 1 else (marks[0], marks[2])), marks[mark_at] == ":="
        return (), False

    def _command(self) -> tuple[Operand, ...]:
        operands = []
        while self._tokens and self._tokens[0].text not in ("|", ")"):
            operands.append(self._operand(self._tokens.pop(0)))
        return tuple(operands)

    def _operand(self, token: _Token) -> Operand:
        kind, text, at = token
        if text == "(":
            pipeline = self._pipeline("parenthesized pipeline")
            if not self._tokens or self._tokens.pop(0).text != ")":
                raise self.problem("unclosed left paren")
            chain = self._tokens.pop(0).text if self._tokens and self._tokens[0].kind == "field" else ""
            return Operand("group", pipeline, tuple(chain.split(".")[1:]), at, text)
        if kind == "variable":
            name, *names = text.split(".")
            return Operand("variable", name, tuple(names), at, text)
        if kind in ("field", "dot"):
            return Operand("field", None, tuple(text.split(".")[1:]) if kind == "field" else (), at, text)
        if kind == "word":
            return self._word(text, at)
        if kind == "mark":
            raise self.problem(f"unexpected {text!r} in operand".replace("'", '"'))
        return Operand("literal", _literal(kind, text), (), at, text)

    def _word(self, text: str, at: int) -> Operand:
        from labkit.templates.rendering import FUNCTIONS

        if text in ("true", "false", "nil"):
            return Operand("literal", {"true": True, "false": False, "nil": None}[text], (), at, text)
        if text not in FUNCTIONS:
            raise self.problem(f'function "{text}" not defined')
        return Operand("call", text, (), at, text)

    def _scan(self, content: str) -> list[_Token]:
        tokens: list[_Token] = []
        at = 0
        while content[at:].strip():
            match = _TOKEN.match(content, at)
            if not match or not match.lastgroup:
                raise self.problem(f"unexpected {content[at:].strip()[:1]!r} in command".replace("'", '"'))
            tokens.append(_Token(match.lastgroup, match[match.lastgroup], self._at + match.start(match.lastgroup)))
            at = match.end()
        return tokens


def _literal(kind: str, text: str) -> Any:
    if kind == "raw":
        return text[1:-1]
    if kind == "number":
        return float(text) if "." in text else int(text)
    escapes = {"n": "\n", "t": "\t", "r": "\r", "\\": "\\", '"': '"', "'": "'"}
    unescaped = re.sub(r"\\(.)", lambda match: escapes.get(match[1], match[0]), text[1:-1])
    return ord(unescaped[0]) if kind == "char" else unescaped
