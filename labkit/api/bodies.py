"""Bodies of requests as the structs that the Engine API defines, with tolerance and words of Go's encoding/json.

A null is a field that wasn't given; an integer has 64 bits; the case of a field's name doesn't matter. What doesn't fit
is refused as moby's `httputils.ReadJSON` refuses it: clients show that text.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache
from typing import Any, TypeVar

import msgspec
from msgspec import inspect

from labkit.errors import InvalidParameter
from labkit.volumes.models import Mount

T = TypeVar("T")

_LONG = re.compile(rb"[0-9]{19}")
_NAME = re.compile(rb'"(\w+)"\s*:')
_WRONG = re.compile(r"Expected `.*`, got `(\w+)`(?: - at `\$(.*)`)?")
_STEP = re.compile(r"\.(\w+)|\[(\d+|\.\.\.)\]")
_KINDS = {"str": "string", "int": "number", "float": "number", "bool": "bool", "array": "array", "object": "object"}
_GO_TYPES = {
    inspect.IntType: "int64", inspect.StrType: "string", inspect.BoolType: "bool", inspect.FloatType: "float64",
}  # fmt: skip
_GO_NAMES = {
    "engine.models.CreateBody": "CreateRequest", "engine.models.ExecCreateBody": "ExecOptions",
    "engine.models.ExecStartBody": "ExecStartOptions", "api.volumes.CreateBody": "CreateOptions",
    "network.models.NetworkCreateBody": "CreateRequest",
}  # fmt: skip
"""What moby calls these, where it is another name."""


class PortBinding(msgspec.Struct):
    """One of HostConfig.PortBindings."""

    HostIp: str = ""
    HostPort: str = ""


_CLOSER = {"Mounts": list[Mount], "PortBindings": dict[str, list[PortBinding]]}
"""What is in fields that structs keep as they came."""


def decode(body: bytes, type: type[T]) -> T:
    """A body as a value of `type`. Raises InvalidParameter in Go's words."""
    try:
        return _decode(body, type)
    except msgspec.MsgspecError as error:
        raise InvalidParameter(f"invalid JSON: {error}") from None
    except RecursionError:
        raise InvalidParameter("invalid JSON: exceeded max depth") from None


def _decode(body: bytes, type: type[T]) -> T:
    try:
        found = msgspec.json.decode(body, type=type)
    except msgspec.ValidationError:
        return _decode_slowly(body, type)
    return _decode_slowly(body, type) if _LONG.search(body) or _has_other_case(body, type) else found


def _has_other_case(body: bytes, type: type) -> bool:
    """Whether there may be a field's name in other letters than its own."""
    exact, lower = _names(type)
    return any(name not in exact and name.lower() in lower for name in set(_NAME.findall(body)))


@lru_cache
def _names(type: type) -> tuple[frozenset[bytes], frozenset[bytes]]:
    """The names of all fields within a type, and the same in lower case."""
    exact = frozenset(name.encode() for name in _fields_within(_info(type)))
    return exact, frozenset(name.lower() for name in exact)


def _fields_within(info: inspect.Type) -> Iterator[str]:
    info = _bare(info)
    if isinstance(info, inspect.StructType):
        for field in info.fields:
            yield field.encode_name
            yield from _fields_within(_type_of(field))
    elif isinstance(info, inspect.ListType):
        yield from _fields_within(info.item_type)
    elif isinstance(info, inspect.DictType):
        yield from _fields_within(info.value_type)


def _decode_slowly(body: bytes, type: type[T]) -> T:
    value = msgspec.json.decode(body)
    if value is None:
        return type()
    plain = _plain(value, type)
    _check_integers(plain, type, "")
    try:
        return msgspec.convert(plain, type)
    except msgspec.ValidationError as error:
        raise InvalidParameter(f"invalid JSON: {_in_gos_words(str(error), type)}") from None


def _plain(value: Any, type: type) -> Any:
    """What was sent, as Go would have taken it: without nulls, and each field by its own name."""
    return _in_own_case(_without_nulls(value), _info(type))


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nulls(item) for key, item in value.items() if item is not None}
    return [_without_nulls(item) for item in value] if isinstance(value, list) else value


def _in_own_case(value: Any, info: inspect.Type) -> Any:
    """The same with the names of fields as the type has them. Of two that are the same then, the later one counts."""
    info = _bare(info)
    if isinstance(value, list) and isinstance(info, inspect.ListType):
        return [_in_own_case(item, info.item_type) for item in value]
    if isinstance(value, dict) and isinstance(info, inspect.DictType):
        return {key: _in_own_case(item, info.value_type) for key, item in value.items()}
    if isinstance(value, dict) and isinstance(info, inspect.StructType):
        fields = {field.encode_name.lower(): field for field in info.fields}
        known = ((item, fields.get(key.lower())) for key, item in value.items())
        return {field.encode_name: _in_own_case(item, _type_of(field)) for item, field in known if field}
    return value


def _type_of(field: inspect.Field) -> inspect.Type:
    return _info(_CLOSER[field.name]) if field.name in _CLOSER else field.type


@lru_cache
def _info(type: Any) -> inspect.Type:
    return inspect.type_info(type)


def _check_integers(value: Any, type: type, path: str) -> None:
    """Refuse numbers that no int64 holds."""
    if isinstance(value, dict):
        for key, item in value.items():
            _check_integers(item, type, f"{path}.{key}")
    elif isinstance(value, list):
        for number, item in enumerate(value):
            _check_integers(item, type, f"{path}[{number}]")
    elif isinstance(value, int) and not -1 << 63 <= value < 1 << 63:
        raise InvalidParameter(f"invalid JSON: {_told('number ' + str(value), type, path, 'int64')}")


def _in_gos_words(text: str, type: type) -> str:
    """msgspec's "Expected `int`, got `str` - at `$.HostConfig.Memory`" as encoding/json has it."""
    match = _WRONG.fullmatch(text)
    if match is None or match[1] not in _KINDS:
        return text
    return _told(_KINDS[match[1]], type, match[2] or "", "")


def _told(kind: str, type: type, path: str, wanted: str) -> str:
    owner, names, found = _follow(inspect.type_info(type), path)
    go_type = wanted or _go_type(found)
    if not names:
        return f"json: cannot unmarshal {kind} into Go value of type {go_type}"
    return f"json: cannot unmarshal {kind} into Go struct field {owner}.{'.'.join(names)} of type {go_type}"


def _follow(info: inspect.Type, path: str) -> tuple[str, list[str], inspect.Type]:
    """Go along a path: the innermost struct's name, the names of the fields passed, the type at the end."""
    owner, names = "", []
    for name, _ in _STEP.findall(path):
        info = _bare(info)
        if isinstance(info, inspect.StructType) and name:
            owner = _go_name(info)
            names.append(name)
            info = next((field.type for field in info.fields if field.encode_name == name), inspect.AnyType())
        elif isinstance(info, inspect.ListType):
            info = info.item_type
        elif isinstance(info, inspect.DictType):
            info = info.value_type
    return owner, names, _bare(info)


def _bare(info: inspect.Type) -> inspect.Type:
    """A type without its null and its "not given"; a list, if there is a choice."""
    if not isinstance(info, inspect.UnionType):
        return info
    choices = [one for one in info.types if not isinstance(one, inspect.NoneType)]
    return next((one for one in choices if isinstance(one, inspect.ListType)), choices[0])


def _go_type(info: inspect.Type) -> str:
    if isinstance(info, inspect.ListType):
        return f"[]{_go_type(_bare(info.item_type))}"
    if isinstance(info, inspect.DictType):
        return f"map[string]{_go_type(_bare(info.value_type))}"
    if isinstance(info, inspect.StructType):
        return _go_name(info)
    return _GO_TYPES.get(type(info), "interface {}")


def _go_name(info: inspect.StructType) -> str:
    name = info.cls.__name__
    return _GO_NAMES.get(f"{info.cls.__module__.removeprefix('labkit.')}.{name}", name)
