"""Who a container runs as: a User such as `www-data:www-data` looked up in the container's own passwd and group.

passwd(5), group(5); rules as moby `daemon/oci_linux.go` and runc's `libcontainer/user`. The files are read
through the container's layers, beneath their roots: an image's links can't lead to the host's files.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

from labkit.errors import InvalidParameter
from labkit.images.stack import LayerStack

MOST = (1 << 31) - 1
"""The greatest uid and gid that runc, and so Docker, takes."""
_ID = re.compile("[0-9]{1,10}")
_NUMBER = re.compile("[+-]?[0-9]{1,19}")  # no number of Go's has more digits, and Python refuses to read very long ones


@dataclass(frozen=True, slots=True)
class Identity:
    """A resolved user: numbers, supplementary groups, home directory."""

    uid: int = 0
    gid: int = 0
    groups: tuple[int, ...] = ()
    home: str = "/"


def read_layered(upper: str, lower: Iterable[str], path: str) -> str:
    """A text file as an overlay of these directories (topmost first) shows it; empty if there is none.

    Image layers never change, so what they hold is kept, for containers that have written nothing on the way to it.
    """
    layers = tuple(lower)
    text, plain = _read_lower(layers, path)
    return text if _is_untouched(upper, path if plain else "") else _read((upper, *layers), path)


@lru_cache(maxsize=256)
def _read_lower(layers: tuple[str, ...], path: str) -> tuple[str, bool]:
    """The text, and whether no link is on the way to it."""
    with LayerStack(layers) as stack:
        return stack.read_text(path), stack.is_plain(path)


def _read(layers: tuple[str, ...], path: str) -> str:
    with LayerStack(layers) as stack:
        return stack.read_text(path)


def _is_untouched(upper: str, path: str) -> bool:
    """Whether a container's own layer has nothing at a path, and nothing that hides it; "" asks for the whole layer."""
    if not path:
        with os.scandir(upper) as entries:
            return next(entries, None) is None
    place = upper
    for part in path.split("/"):
        place = f"{place}/{part}"
        try:
            mode = os.lstat(place).st_mode
        except FileNotFoundError:
            return True
        if not stat.S_ISDIR(mode) or _hides(place):
            return False
    return False


def _hides(directory: str) -> bool:
    """Whether overlayfs shows something else than the directory and what lies below it."""
    return any(name.endswith((".opaque", ".redirect")) for name in os.listxattr(directory, follow_symlinks=False))


def resolve(user: str, passwd: str, group: str, added: Iterable[str] = ()) -> Identity:
    """The identity that `user` (name or uid, optionally `:group`) has by these files. Raises InvalidParameter."""
    name, _, group_name = user.partition(":")
    entries = [line.split(":") for line in passwd.splitlines() if line.count(":") >= 6]
    groups = [line.split(":") for line in group.splitlines() if line.count(":") >= 3]
    entry = _find(entries, name or "0")
    uid = int(entry[2]) if entry else _number(name or "0")
    if uid is None:
        raise InvalidParameter(f"unable to find user {name}: no matching entries in passwd file")
    gid = int(entry[3]) if entry else 0
    home = entry[5] if entry and entry[5] else "/"
    if group_name:
        gid = _group_id(groups, group_name)
        supplementary: tuple[int, ...] = ()
    else:
        login = entry[0] if entry else ""
        supplementary = tuple(int(g[2]) for g in groups if login and login in g[3].split(",") and _is_id(g[2]))
    extra = tuple(_group_id(groups, wanted) for wanted in added)
    return Identity(uid, gid, tuple(dict.fromkeys((gid, *supplementary, *extra))), home)


def _is_id(text: str) -> bool:
    return bool(_ID.fullmatch(text)) and int(text) <= MOST


def _number(text: str) -> int | None:
    """A number that stands for itself, with a sign as well; None for what is no number (Go's strconv.Atoi)."""
    if not _NUMBER.fullmatch(text) or not -1 << 63 <= int(text) < 1 << 63:
        return None
    if not 0 <= int(text) <= MOST:
        raise InvalidParameter(f"uids and gids must be in range 0-{MOST}")
    return int(text)


def _find(entries: list[list[str]], name: str) -> list[str] | None:
    """An entry by name, else by number; entries whose numbers aren't numbers don't count."""
    usable = [entry for entry in entries if _is_id(entry[2]) and _is_id(entry[3])]
    by_name = next((entry for entry in usable if entry[0] == name), None)
    return by_name or next((entry for entry in usable if _is_id(name) and int(entry[2]) == int(name)), None)


def _group_id(groups: list[list[str]], wanted: str) -> int:
    for entry in groups:
        if entry[0] == wanted and _is_id(entry[2]):
            return int(entry[2])
    number = _number(wanted)
    if number is None:
        raise InvalidParameter(f"unable to find group {wanted}: no matching entries in group file")
    return number
