"""Executes the templates of --format on an object or a row, with Docker's template functions.

Values are those of JSON; a row (of `ps`, `images`, …) is a mapping whose values may be functions, called
when the template asks for them, so that nobody pays for a column that isn't shown.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any

from labkit.templates.parsing import Branch, Operand, Pipeline, TemplateError, Text, parse
from labkit.templates.quoting import go_quote

_MISSING = "<no value>"


def render(template: str, value: Any, kind: str = "") -> str:
    """The template executed on a value. `kind` names a row's type in errors. TemplateError if it doesn't fit."""
    return execute(parse(template), value, kind, template)


def execute(nodes: tuple[Any, ...], value: Any, kind: str = "", template: str = "") -> str:
    out: list[str] = []
    _Execution(kind, template, out).run(nodes, value, {"$": value})
    return "".join(out)


class _Execution:
    def __init__(self, kind: str, template: str, out: list[str]) -> None:
        self._kind = kind
        self._template = template
        self._out = out

    def run(self, nodes: tuple[Any, ...], dot: Any, variables: dict[str, Any]) -> None:
        for node in nodes:
            if isinstance(node, Text):
                self._out.append(node.text)
            elif isinstance(node, Branch):
                self._branch(node, dot, dict(variables))
            else:
                value = self.pipeline(node, dot, variables)
                if node.variables:
                    variables[node.variables[0]] = value
                else:
                    self._out.append(go_print(value))

    def _branch(self, node: Branch, dot: Any, variables: dict[str, Any]) -> None:
        value = self.pipeline(node.pipeline, dot, variables)
        names = node.pipeline.variables
        if node.keyword == "range":
            self._range(node, value, dot, variables)
            return
        if names:
            variables[names[0]] = value
        if truth(value):
            self.run(node.body, value if node.keyword == "with" else dot, variables)
        else:
            self.run(node.otherwise, dot, variables)

    def _range(self, node: Branch, value: Any, dot: Any, variables: dict[str, Any]) -> None:
        if isinstance(value, Mapping):
            items = [(key, value[key]) for key in sorted(value)]
        elif isinstance(value, list | tuple):
            items = list(enumerate(value))
        elif isinstance(value, int) and not isinstance(value, bool):
            items = [(number, number) for number in range(value)]
        elif value is None:
            items = []
        else:
            raise TemplateError(f"template: :1: range can't iterate over {go_print(value)}")
        if not items:
            self.run(node.otherwise, dot, variables)
        names = node.pipeline.variables
        for key, item in items:
            if names:
                variables.update(zip(names, (key, item) if len(names) == 2 else (item,), strict=True))
            self.run(node.body, item, dict(variables))

    def pipeline(self, node: Pipeline, dot: Any, variables: dict[str, Any]) -> Any:
        value: Any = None
        for position, command in enumerate(node.commands):
            final = [value] if position else []
            value = self._command(command, dot, variables, final)
        return value

    def _command(self, command: tuple[Operand, ...], dot: Any, variables: dict[str, Any], final: list[Any]) -> Any:
        first, *rest = command
        arguments = [self._operand(operand, dot, variables) for operand in rest] + final
        if first.kind != "call":
            return self._operand(first, dot, variables, arguments)
        try:
            return FUNCTIONS[first.value](*arguments)
        except (TypeError, ValueError, LookupError) as error:
            raise self._problem(first, f"error calling {first.value}: {error}") from error

    def _operand(
        self, operand: Operand, dot: Any, variables: dict[str, Any], arguments: list[Any] | None = None
    ) -> Any:
        if operand.kind == "literal":
            return operand.value
        if operand.kind == "call":
            return self._command((operand,), dot, variables, [])
        if operand.kind == "group":
            value = self.pipeline(operand.value, dot, variables)
        elif operand.kind == "variable":
            if operand.value not in variables:
                raise self._problem(operand, f"undefined variable: {operand.value}")
            value = variables[operand.value]
        else:
            value = dot
        for name in operand.names:
            value = self._field(operand, value, name, arguments or [])
        return value

    def _field(self, operand: Operand, value: Any, name: str, arguments: list[Any]) -> Any:
        if isinstance(value, Mapping):
            if name in value:
                field = value[name]
                return field(*arguments) if callable(field) else field
            if self._kind:
                raise self._problem(operand, f"can't evaluate field {name} in type {self._kind}")
            # Docker's templates also see Go structs, whose fields are the JSON names in another case (ID for Id),
            # and in which a field that JSON leaves out is nil.
            for key in value:
                if key.lower() == name.lower():
                    return value[key]
            if name in _OFTEN_ABSENT:
                return None
            raise self._problem(operand, f"map has no entry for key {go_quote(name)}")
        if value is None:
            raise self._problem(operand, f"nil pointer evaluating interface {{}}.{name}")
        raise self._problem(operand, f"can't evaluate field {name} in type {_go_type(value)}")

    def _problem(self, operand: Operand, what: str) -> TemplateError:
        before = self._template[: operand.at]
        line, column = before.count("\n") + 1, len(before) - before.rfind("\n") - 1
        return TemplateError(f'template: :{line}:{column}: executing "" at <{operand.source}>: {what}')


def truth(value: Any) -> bool:
    """What text/template takes for true: anything but false, 0, nil and the empty."""
    return bool(value)


def go_print(value: Any) -> str:
    """A value as Go's %v prints it."""
    if value is None:
        return _MISSING
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Mapping):
        return "map[" + " ".join(f"{key}:{_inner(value[key])}" for key in sorted(value)) + "]"
    if isinstance(value, list | tuple):
        return "[" + " ".join(_inner(item) for item in value) + "]"
    if isinstance(value, float):
        return f"{value:g}" if abs(value) < 1e21 else f"{value:e}"
    return str(value)


def _inner(value: Any) -> str:
    return "<nil>" if value is None else go_print(value)


def _go_type(value: Any) -> str:
    names = {str: "string", bool: "bool", int: "int", float: "float64", list: "[]interface {}"}
    return names.get(type(value), type(value).__name__)


def go_json(value: Any) -> str:
    """Compact JSON, in UTF-8 and with keys as they came, as Docker's `json` function prints it."""
    if isinstance(value, Mapping) and any(callable(field) for field in value.values()):
        row = {key: field() if callable(field) else field for key, field in value.items() if key not in _METHODS}
        # A row marshals itself, with encoding/json's HTML escapes and its keys in order.
        text = json.dumps(dict(sorted(row.items())), ensure_ascii=False, separators=(",", ":"))
        return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


_OFTEN_ABSENT = {"ExposedPorts", "Health", "Healthcheck", "Init", "Mounts", "OnBuild", "Shell", "StopSignal", "Volumes"}
_METHODS = {"Label"}  # a row's functions that take an argument


def _index(value: Any, *keys: Any) -> Any:
    for key in keys:
        if value is None:
            raise ValueError("index of untyped nil")
        if isinstance(value, Mapping):
            value = value.get(key)
        elif not 0 <= key < len(value):
            raise LookupError(f"index out of range: {key}")
        else:
            value = value[key]
    return value


def _slice(value: Any, *bounds: int) -> Any:
    return value[slice(*bounds)] if len(bounds) > 1 else value[bounds[0] if bounds else 0 :]


def _join(values: Any, separator: str) -> str:
    return separator.join(go_print(item) for item in values or ())


def _truncate(text: str, length: int) -> str:
    return text[:length]


def _pad(text: str, before: int, after: int) -> str:
    return " " * before + text + " " * after if text else text


def _printf(form: str, *values: Any) -> str:
    rest = list(values)

    def one(match: re.Match[str]) -> str:
        verb = match[0][-1]
        if verb == "%":
            return "%"
        value = rest.pop(0)
        if verb == "q":
            return go_quote(go_print(value))
        return (match[0][:-1] + "s") % go_print(value) if verb in "vs" else match[0] % value

    return re.sub(r"%[-+ 0#]*\d*(?:\.\d+)?[%a-zA-Z]", one, form)


def _equal(first: Any, *others: Any) -> bool:
    return any(first == other for other in others)


def _and(*values: Any) -> Any:
    return next((value for value in values if not truth(value)), values[-1])


def _or(*values: Any) -> Any:
    return next((value for value in values if truth(value)), values[-1])


FUNCTIONS: dict[str, Callable[..., Any]] = {
    "json": go_json,
    "join": _join,
    "split": lambda text, separator: text.split(separator),
    "upper": lambda text: text.upper(),
    "lower": lambda text: text.lower(),
    "title": lambda text: text.title(),
    "pad": _pad,
    "truncate": _truncate,
    "print": lambda *values: " ".join(go_print(value) for value in values),
    "println": lambda *values: " ".join(go_print(value) for value in values) + "\n",
    "printf": _printf,
    "len": lambda value: len(value or ""),
    "index": _index,
    "slice": _slice,
    "eq": _equal,
    "ne": lambda first, second: first != second,
    "lt": lambda first, second: first < second,
    "le": lambda first, second: first <= second,
    "gt": lambda first, second: first > second,
    "ge": lambda first, second: first >= second,
    "and": _and,
    "or": _or,
    "not": lambda value: not truth(value),
}
