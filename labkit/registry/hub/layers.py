"""The layers of the hub's images: trees that package tools have written become tars that are the same every time.

What a build leaves behind (caches, logs, lists, locks, identities: debuerreotype(1) removes the like) goes, and times
that are the build's own become that of the newest packaged file. Then equal package versions give equal bytes, as
reproducible-builds.org asks for.
"""

from __future__ import annotations

import io
import os
import shutil
import stat
import tarfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from labkit.errors import InvalidParameter
from labkit.images.faults import disk_errors
from labkit.images.stack import LayerStack
from labkit.images.streams import Digest
from labkit.images.writing import layer_tar
from labkit.registry.hub.recipes import File

_EMPTIED = ("dev", "proc", "sys", "run", "tmp", "var/tmp", "var/cache/apt", "var/cache/ldconfig", "var/lib/apt/lists")
_LEFTOVERS = (
    "etc/hostname",  # the builder's own
    "etc/resolv.conf",
    "etc/apt/apt.conf.d/00mmdebstrap",
    "etc/*-",  # what passwd(5) and group(5) were before
    "var/cache/debconf/*-old",
    "var/lib/dpkg/*-old",
    "var/lib/dpkg/lock*",
    "var/lib/dpkg/triggers/Lock",
    "usr/lib/python3*/**/__pycache__",  # compiled anew when it is needed; the bytes differ from run to run
    "usr/share/**/__pycache__",
)


@dataclass(frozen=True, slots=True)
class Member:
    """One member of a tar; regular files by default."""

    name: str
    mode: int
    data: bytes = b""
    kind: bytes = tarfile.REGTYPE
    link: str = ""


@dataclass(frozen=True, slots=True)
class Layer:
    """A tar on disk, its digest, and the time (seconds) of what is newest in it."""

    tar: Path
    diff_id: str
    size: int
    created: int


def in_order(members: Iterable[Member]) -> list[Member]:
    """Each name once, sorted: parents before what is in them."""
    return sorted({member.name: member for member in members}.values(), key=lambda member: member.name)


def write_tar(members: Iterable[Member], created: int) -> bytes:
    """A tar without anything that differs from one build to the next."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for member in members:
            info = tarfile.TarInfo(member.name)
            info.mode, info.mtime, info.size = member.mode, created, len(member.data)
            info.type, info.linkname = member.kind, member.link
            archive.addfile(info, io.BytesIO(member.data))
    return buffer.getvalue()


def files_tar(files: Mapping[str, File], links: Mapping[str, str], created: int) -> bytes:
    """A tar of a recipe's own files and links, without directories: those that are there stay as they are."""
    members = [Member(path, file.mode, file.text.encode()) for path, file in files.items()]
    members += [Member(path, 0o777, b"", tarfile.SYMTYPE, target) for path, target in links.items()]
    return write_tar(in_order(members), created)


def cleaned(tree: Path, lower: Sequence[Path], removed: Iterable[str], began: int) -> int:
    """Takes out of a tree what the build left behind, and gives files from after `began` (nanoseconds) one time.

    `tree` is a whole root, or overlayfs's upper directory over `lower`; returns the time in seconds.
    """
    with disk_errors(f"cleaning {tree}"):
        for directory in _EMPTIED:
            _empty(tree / directory)
        _remove_logs(tree / "var/log")
        for pattern in (*_LEFTOVERS, *removed):
            for path in _matching(tree, pattern):
                _remove(path)
        if lower:
            _prune(tree, lower)
        return _clamp(tree, began)


def _matching(tree: Path, pattern: str) -> list[Path]:
    """What a pattern stands for; without a `*` also a link that leads nowhere outside of the image."""
    if "*" in pattern:
        return sorted(tree.glob(pattern))
    return [tree / pattern] if os.path.lexists(tree / pattern) else []


def _empty(directory: Path) -> None:
    if directory.is_dir() and not directory.is_symlink():
        for name in os.listdir(directory):
            _remove(directory / name)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


def _remove_logs(directory: Path) -> None:
    for path in directory.rglob("*"):
        if path.is_file() and not path.is_symlink():
            path.unlink()


def _prune(tree: Path, lower: Sequence[Path]) -> None:
    """Removes empty directories that only repeat one of the layers below."""
    for name, _, _ in os.walk(tree, topdown=False):
        directory = Path(name)
        if directory != tree and not os.listdir(directory) and _repeats(directory, directory.relative_to(tree), lower):
            directory.rmdir()


def _repeats(directory: Path, path: Path, lower: Sequence[Path]) -> bool:
    own = directory.lstat()
    opaque = any(name.endswith(".overlay.opaque") for name in os.listxattr(directory))
    below = next((layer / path for layer in lower if os.path.lexists(layer / path)), None)
    if opaque or below is None:
        return False
    status = below.lstat()
    return (status.st_mode, status.st_uid, status.st_gid) == (own.st_mode, own.st_uid, own.st_gid)


def _clamp(tree: Path, began: int) -> int:
    paths = [tree, *(Path(top, name) for top, directories, files in os.walk(tree) for name in (*directories, *files))]
    times = {path: path.lstat().st_mtime_ns for path in paths}
    packaged = [time for path, time in times.items() if time < began and stat.S_ISREG(path.lstat().st_mode)]
    if not packaged:
        raise InvalidParameter(f"{tree} holds no file of a package")
    newest = max(packaged) // 10**9
    for path, time in times.items():
        if time >= began:
            os.utime(path, (newest, newest), follow_symlinks=False)
    return newest


def write_layer(directories: Sequence[Path], target: Path, created: int) -> Layer:
    """The layer that the first of the directories is on top of the others (topmost first), as a tar at `target`."""
    with LayerStack([str(directory) for directory in directories]) as stack:
        return _stored(layer_tar(stack), target, created)


def keep_layer(tar: bytes, target: Path, created: int) -> Layer:
    """A layer that was made in memory."""
    return _stored([tar], target, created)


def _stored(pieces: Iterable[bytes], target: Path, created: int) -> Layer:
    with disk_errors(f"writing {target}"), open(target, "xb") as file, Digest() as hashing:
        for piece in hashing.through(iter(pieces)):
            file.write(piece)
    return Layer(target, hashing.digest(), hashing.size, created)
