"""A stack of layers read as overlayfs would show it, without a mount: for `export`, `commit`, `diff`, and /etc/passwd.

Kernel documentation, filesystems/overlayfs: a 0:0 character device hides what lies below, and so does a directory that
is "opaque"; other directories are merged. The topmost layer may belong to a running container: every path is opened by
the kernel without following links (openat2(2)), and what vanishes while it is read is left out.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from types import TracebackType

from labkit.errors import NotImplementedByLabkit
from labkit.images.faults import disk_errors
from labkit.images.layers import PERMISSIVE
from labkit.kernel.paths import RESOLVE_NO_MAGICLINKS, RESOLVE_NO_SYMLINKS, openat2

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY
_NO_LINKS = RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS
_LINKS = 40  # how many links a path may lead through, as for the kernel (path_resolution(7))
_GONE = frozenset((errno.ENOENT, errno.ENOTDIR, errno.ELOOP))  # or replaced by a link


@dataclass(frozen=True, slots=True)
class Node:
    """A file of the stack: its path below the root (which is b""), and the layer that it is from (0: the topmost).

    `opaque` is told of directories in a walk over changes.
    """

    path: bytes
    layer: int
    status: os.stat_result
    opaque: bool = False

    @property
    def is_whiteout(self) -> bool:
        return stat.S_ISCHR(self.status.st_mode) and self.status.st_rdev == 0


@dataclass(slots=True)
class _Merged:
    """A name in a directory: the file that is seen, and the layers (topmost first) that make up a directory."""

    status: os.stat_result
    layers: list[int]
    open: bool = field(init=False)  # whether lower layers can still add something

    def __post_init__(self) -> None:
        self.open = stat.S_ISDIR(self.status.st_mode)


class LayerStack:
    """The directories of layers, topmost first; a context manager that holds them open.

    `attributes` is the prefix of overlayfs's own extended attributes here. Methods raise OSError unless they say
    otherwise, and NotImplementedByLabkit for a layer written with features of overlayfs that labkit doesn't ask for.
    """

    def __init__(self, directories: Sequence[str], attributes: str = PERMISSIVE.attributes) -> None:
        self._directories = directories
        self._attributes = attributes
        self._roots: list[int] = []
        self._exit = ExitStack()

    def __enter__(self) -> LayerStack:
        with ExitStack() as opened, disk_errors("reading layers"):
            for directory in self._directories:
                self._roots.append(os.open(directory, _DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC))
                opened.callback(os.close, self._roots[-1])
            self._exit = opened.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._exit.close()
        self._roots.clear()

    @contextmanager
    def opened(self, layer: int, path: bytes, flags: int) -> Iterator[int]:
        """A descriptor of a file in one layer, itself and not what a link leads to; -1 if it has gone meanwhile."""
        try:
            file = openat2(self._roots[layer], path, flags | os.O_NOFOLLOW, 0, _NO_LINKS)
        except OSError as error:
            if error.errno not in _GONE:
                raise
            file = -1
        try:
            yield file
        finally:
            if file >= 0:
                os.close(file)

    def walk(self) -> Iterator[Node]:
        """All that is seen, the root first, then in the order of names, a directory's content right after it."""
        return (node for node in self._walk(list(range(len(self._roots))), False) if not node.is_whiteout)

    def below(self, path: str) -> Iterator[Node]:
        """The file that a path leads to, through links, and if it is a directory, all that is seen in it, as `walk`.

        The paths of the nodes are from the root of the stack.
        """
        found, layers = self._trace(path, list(range(len(self._roots))))
        if found is None:
            return iter(())
        return (node for node in self._walk(layers, False, found) if not node.is_whiteout)

    def changes(self) -> Iterator[Node]:
        """What the topmost layer alone has, whiteouts and opaque directories too, in the same order."""
        return self._walk([0], True)

    def is_copy(self, directory: Node) -> bool:
        """Whether a directory of the topmost layer has the mode and owner that it has in the layers below."""
        below = self._find(os.fsdecode(directory.path), list(range(1, len(self._roots))))
        return below is not None and _mode_and_owner(below.status) == _mode_and_owner(directory.status)

    def _walk(self, layers: list[int], marks: bool, start: Node | None = None) -> Iterator[Node]:
        first = start or Node(b"", 0, os.fstat(self._roots[0]))
        pending = [(first.path, _Merged(first.status, layers))]
        while pending:
            path, merged = pending.pop()
            children: dict[bytes, _Merged] = {}
            opaque = False
            if stat.S_ISDIR(merged.status.st_mode):
                children, opaque = self._children(path, merged.layers)
            yield Node(path, merged.layers[0], merged.status, marks and opaque)
            prefix = path + b"/" if path else b""
            pending += [(prefix + name, children[name]) for name in sorted(children, reverse=True)]

    def _children(self, path: bytes, layers: list[int]) -> tuple[dict[bytes, _Merged], bool]:
        """A directory's merged content; whether it hides all below the last of the layers that it is read from."""
        found: dict[bytes, _Merged] = {}
        for layer in layers:
            with self.opened(layer, path, _DIRECTORY) as directory:
                if directory < 0:
                    continue
                for name in os.listdir(directory):
                    with suppress(FileNotFoundError):
                        status = os.stat(name, dir_fd=directory, follow_symlinks=False)
                        _merge(found, os.fsencode(name), status, layer)
                if path and self._is_opaque(directory):  # a root never is
                    return found, True
        return found, False

    def _is_opaque(self, directory: int | str) -> bool:
        """Whether a directory hides what lies below it. Raises NotImplementedByLabkit if it stands for another one."""
        names = os.listxattr(directory)
        if f"{self._attributes}redirect" in names:
            raise NotImplementedByLabkit(
                "overlayfs has renamed a directory of this container by a redirect, which labkit can't follow: "
                "switch that off (echo N > /sys/module/overlay/parameters/redirect_dir) and make the container anew"
            )
        name = f"{self._attributes}opaque"
        return name in names and os.getxattr(directory, name) == b"y"

    def find(self, path: str) -> Node | None:
        """The file that a path leads to from the root, through links; None if there is none."""
        return self._find(path, list(range(len(self._roots))))

    def is_plain(self, path: str) -> bool:
        """Whether no link is on the way to a path, be there something at its end or not."""
        parent, layers = b"", list(range(len(self._roots)))
        for part in path.split("/"):
            found = self._look_up(parent, layers, os.fsencode(part))
            if found is None:
                return True
            parent, layers = found[0].path, found[1]
            if stat.S_ISLNK(found[0].status.st_mode):
                return False
        return True

    def _find(self, path: str, layers: list[int]) -> Node | None:
        return self._trace(path, layers)[0]

    def _trace(self, path: str, layers: list[int]) -> tuple[Node | None, list[int]]:
        """The file that a path leads to, and the layers that make it up; None if there is none."""
        if not layers:
            return None, []
        rest = [os.fsencode(part) for part in reversed(path.split("/"))]
        root = Node(b"", layers[0], os.fstat(self._roots[layers[0]])), layers
        places = [root]  # the directories on the way, each with the layers that make it up
        node, links = root[0], 0
        while rest:
            part = rest.pop()
            if part in (b"", b".", b".."):
                places = places[:-1] or [root] if part == b".." else places
                node, layers = places[-1]
                continue
            found = self._look_up(places[-1][0].path, places[-1][1], part)
            if found is None:
                return None, []
            node, layers = found
            if stat.S_ISLNK(node.status.st_mode):
                links += 1
                target = self.read_link(node)
                if links > _LINKS or not target:
                    return None, []
                places = [root] if target.startswith(b"/") else places
                rest += reversed(target.split(b"/"))
            elif stat.S_ISDIR(node.status.st_mode):
                places.append((node, layers))
            elif rest:
                return None, []
        return node, layers

    def _look_up(self, parent: bytes, layers: list[int], name: bytes) -> tuple[Node, list[int]] | None:
        """One name in a directory that these layers make up, with its own layers; None if nothing is seen there."""
        path = parent + b"/" + name if parent else name
        found: dict[bytes, _Merged] = {}
        for layer in layers:
            with self.opened(layer, path, os.O_PATH) as file:
                if file < 0:
                    continue
                _merge(found, path, os.fstat(file), layer)
                if not found[path].open or self._is_opaque(f"/proc/self/fd/{file}"):
                    break
        if path not in found:
            return None
        node = Node(path, found[path].layers[0], found[path].status)
        return None if node.is_whiteout else (node, found[path].layers)

    def read_link(self, node: Node) -> bytes:
        """What a symbolic link says; b"" if it has gone."""
        with self.opened(node.layer, node.path, os.O_PATH) as link:
            return os.fsencode(os.readlink("", dir_fd=link)) if link >= 0 else b""

    def read_text(self, path: str, limit: int = 1 << 20) -> str:
        """The first `limit` bytes of the regular file that a path leads to; empty if there is none.

        Raises what `disk_errors` makes of an OSError.
        """
        with disk_errors(f"reading /{path} of a container"):
            node = self.find(path)
            return self._read_text(node, limit) if node and stat.S_ISREG(node.status.st_mode) else ""

    def _read_text(self, node: Node, limit: int) -> str:
        with self.opened(node.layer, node.path, os.O_RDONLY | os.O_NONBLOCK) as file:
            regular = file >= 0 and stat.S_ISREG(os.fstat(file).st_mode)
            return os.read(file, limit).decode("utf-8", "replace") if regular else ""


def _merge(found: dict[bytes, _Merged], name: bytes, status: os.stat_result, index: int) -> None:
    """Adds what the next lower layer has under a name."""
    present = found.get(name)
    if present is None:
        found[name] = _Merged(status, [index])
    elif present.open and stat.S_ISDIR(status.st_mode):
        present.layers.append(index)
    else:
        present.open = False


def _mode_and_owner(status: os.stat_result) -> tuple[int, int, int]:
    return status.st_mode, status.st_uid, status.st_gid
