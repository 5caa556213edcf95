"""Writing layers: directories become tars, the opposite of `layers.apply_layer`.

OCI image-spec `layer.md`; moby `pkg/archive`. Headers are ustar, with pax records only where ustar has no room (long or
non-ASCII names, large numbers, extended attributes), in the order of names: the same tree gives the same bytes. Times
are whole seconds and there are no names of users, as dockerd writes them.
"""

from __future__ import annotations

import logging
import os
import stat
import struct
from collections.abc import Iterable, Iterator

from labkit.images import tar
from labkit.images.faults import disk_error, disk_errors
from labkit.images.layers import OPAQUE, OVERLAY_PRIVATE, WHITEOUT
from labkit.images.stack import LayerStack, Node
from labkit.images.streams import CHUNK
from labkit.images.tar import BLOCK, Entry

_log = logging.getLogger(__name__)

_HEADER = struct.Struct("100s8s8s8s12s12s8sc100s8s32s32s8s8s155s12x")
_BLANK_SUM = b" " * 8
END = bytes(2 * BLOCK)
"""The end of an archive."""
_NAME_ROOM = 100  # bytes of a name in a ustar header
_ID_ROOM = 1 << 21  # of owners: seven octal digits
_NUMBER_ROOM = 1 << 33  # of sizes and times: eleven octal digits
_HOST_OWN = frozenset(("security.selinux", "security.ima", "security.evm"))  # attributes that mean something here only
KINDS = {
    stat.S_IFREG: tar.REGULAR,
    stat.S_IFDIR: tar.DIRECTORY,
    stat.S_IFLNK: tar.SYMLINK,
    stat.S_IFCHR: tar.CHARACTER,
    stat.S_IFBLK: tar.BLOCK_DEVICE,
    stat.S_IFIFO: tar.FIFO,
}


def root_tar(stack: LayerStack) -> Iterator[bytes]:
    """The tar of all that is seen in a stack of layers, in pieces: what `docker export` gives."""
    return _pieces(_tar(stack, stack.walk()))


def layer_tar(stack: LayerStack, mount_points: frozenset[bytes] = frozenset()) -> Iterator[bytes]:
    """The tar of what the topmost layer changes, in pieces: what `docker commit` makes a layer of.

    Empty files and directories at `mount_points` are the runtime's, and are left out with the copies of lower
    directories that it made for them: dockerd keeps these in a layer of their own.
    """
    with disk_errors("reading a container's files"):
        found = list(stack.changes())
    own = [node for node in found if node.path not in mount_points]
    used = {node.path.rpartition(b"/")[0] for node in own}
    touched = {path.rpartition(b"/")[0] for path in mount_points} - used

    def is_runtimes(node: Node) -> bool:
        if stat.S_ISDIR(node.status.st_mode):
            bare = node.path not in used and not node.opaque
            return bare and (node.path in mount_points or (node.path in touched and stack.is_copy(node)))
        return node.path in mount_points and stat.S_ISREG(node.status.st_mode) and not node.status.st_size

    return _pieces(_tar(stack, (node for node in found if not is_runtimes(node))))


def _pieces(parts: Iterable[bytes]) -> Iterator[bytes]:
    """Joins small parts: whoever reads takes turns with threads at each piece."""
    waiting: list[bytes] = []
    size = 0
    for part in parts:
        waiting.append(part)
        size += len(part)
        if size >= CHUNK:
            yield b"".join(waiting)
            waiting, size = [], 0
    yield b"".join(waiting)


def _tar(stack: LayerStack, nodes: Iterable[Node]) -> Iterator[bytes]:
    links: dict[tuple[int, int], bytes] = {}  # (layer, inode): the first name of a file that has several
    path = b""
    try:
        for node in nodes:
            path = node.path
            yield from _member(stack, node, links)
    except OSError as error:
        raise disk_error(error, f"reading /{os.fsdecode(path)[:300]} of a container") from error
    yield END


def _member(stack: LayerStack, node: Node, links: dict[tuple[int, int], bytes]) -> Iterator[bytes]:
    status = node.status
    if node.is_whiteout:
        parent, slash, name = node.path.rpartition(b"/")
        yield header(Entry(parent + slash + WHITEOUT + name, tar.REGULAR, 0o600, 0, 0, 0, _seconds(status)))
    elif stat.S_ISDIR(status.st_mode):
        yield from _directory(stack, node)
    elif status.st_nlink > 1 and (first := links.setdefault((node.layer, status.st_ino), node.path)) != node.path:
        yield header(_entry(node, link=first, kind=tar.HARDLINK))
    elif stat.S_ISREG(status.st_mode):
        yield from _file(stack, node)
    elif stat.S_ISSOCK(status.st_mode):
        _log.info("%s: sockets are not archived", os.fsdecode(node.path))  # as tar(1) and dockerd have it
    else:
        link = stack.read_link(node) if stat.S_ISLNK(status.st_mode) else b""
        with stack.opened(node.layer, node.path, os.O_PATH) as file:
            if file >= 0:
                yield header(_entry(node, link=link, xattrs=_attributes(f"/proc/self/fd/{file}")))


def _directory(stack: LayerStack, node: Node) -> Iterator[bytes]:
    """A directory's entry. The root has one only if it isn't as every unpacker makes it."""
    with stack.opened(node.layer, node.path, os.O_RDONLY | os.O_DIRECTORY) as directory:
        if directory < 0:
            return
        xattrs = _attributes(directory)
    status = node.status
    plain = (status.st_mode & 0o7777, status.st_uid, status.st_gid) == (0o755, 0, 0)
    if node.path or not plain or xattrs:
        yield header(_entry(node, xattrs=xattrs))
    if node.opaque:
        yield header(Entry(node.path + b"/" + OPAQUE, tar.REGULAR, 0o600, 0, 0, 0, _seconds(status)))


def _file(stack: LayerStack, node: Node) -> Iterator[bytes]:
    with stack.opened(node.layer, node.path, os.O_RDONLY | os.O_NONBLOCK) as file:
        status = os.fstat(file) if file >= 0 else node.status
        if file < 0 or not stat.S_ISREG(status.st_mode):
            return
        size = left = status.st_size
        yield header(_entry(Node(node.path, node.layer, status), size=size, xattrs=_attributes(file)))
        while left and (piece := os.read(file, min(left, CHUNK))):
            left -= len(piece)
            yield piece
        if left:
            _log.warning("%s shrank by %d bytes while it was read: padded with zeros", os.fsdecode(node.path), left)
        yield from zeros(left + -size % BLOCK)


def zeros(count: int) -> Iterator[bytes]:
    """So many zero bytes, in pieces."""
    for _ in range(count // CHUNK):
        yield bytes(CHUNK)
    yield bytes(count % CHUNK)


def _seconds(status: os.stat_result) -> int:
    return status.st_mtime_ns // 10**9 * 10**9


def _entry(
    node: Node, size: int = 0, link: bytes = b"", kind: bytes = b"", xattrs: dict[str, bytes] | None = None
) -> Entry:
    status = node.status
    kind = kind or KINDS[stat.S_IFMT(status.st_mode)]
    name = (node.path or b".") + b"/" if kind == tar.DIRECTORY else node.path
    device = (
        (os.major(status.st_rdev), os.minor(status.st_rdev)) if kind in (tar.CHARACTER, tar.BLOCK_DEVICE) else (0, 0)
    )
    mode = status.st_mode & 0o7777
    return Entry(name, kind, mode, status.st_uid, status.st_gid, size, _seconds(status), link, *device, xattrs or {})


def _attributes(file: int | str) -> dict[str, bytes]:
    """The extended attributes that belong to the file, in order; overlayfs's own and the host's stay here."""
    names = (name for name in os.listxattr(file) if not name.startswith(OVERLAY_PRIVATE) and name not in _HOST_OWN)
    return {name: os.getxattr(file, name) for name in sorted(names)}


def header(entry: Entry) -> bytes:
    """The header of one member: ustar, after a pax header where that is too narrow (pax(1)). Its data comes after."""
    records: list[tuple[str, bytes]] = []
    for key, text in (("path", entry.name), ("linkpath", entry.link)):
        if len(text) > _NAME_ROOM or not text.isascii():
            records.append((key, text))
    seconds = entry.mtime // 10**9
    for key, number, room in (
        ("uid", entry.uid, _ID_ROOM),
        ("gid", entry.gid, _ID_ROOM),
        ("size", entry.size, _NUMBER_ROOM),
        ("mtime", seconds, _NUMBER_ROOM),
    ):
        if not 0 <= number < room:
            records.append((key, b"%d" % number))
    records += [(f"SCHILY.xattr.{name}", value) for name, value in entry.xattrs.items()]
    return (_pax(entry, records) if records else b"") + _ustar(entry, entry.kind, entry.size)


def _pax(entry: Entry, records: list[tuple[str, bytes]]) -> bytes:
    data = b"".join(_record(key, value) for key, value in sorted(records))
    return _ustar(entry, b"x", len(data)) + data + bytes(-len(data) % BLOCK)


def _record(key: str, value: bytes) -> bytes:
    """`LENGTH KEY=VALUE\\n`, where the length counts its own digits too."""
    rest = b" %b=%b\n" % (os.fsencode(key), value)
    length = len(rest)
    while length != len(rest) + len(str(length)):
        length = len(rest) + len(str(length))
    return b"%d" % length + rest


def _ustar(entry: Entry, kind: bytes, size: int) -> bytes:
    """One block. What doesn't fit is cut: a pax record has it. A pax header has the name of what it is for, as Go's."""
    parent, slash, base = entry.name.rstrip(b"/").rpartition(b"/")
    name = parent + slash + b"PaxHeaders.0/" + base if kind == b"x" else entry.name
    meta = kind == b"x"
    block = _HEADER.pack(
        _ascii(name[:_NAME_ROOM]),
        b"%07o" % (0 if meta else entry.mode),
        _octal(0 if meta else entry.uid, _ID_ROOM, 7),
        _octal(0 if meta else entry.gid, _ID_ROOM, 7),
        _octal(size, _NUMBER_ROOM, 11),
        _octal(0 if meta else entry.mtime // 10**9, _NUMBER_ROOM, 11),
        _BLANK_SUM,
        kind,
        b"" if meta else _ascii(entry.link[:_NAME_ROOM]),
        b"ustar\x0000",
        b"",
        b"",
        b"%07o" % entry.major,
        b"%07o" % entry.minor,
        b"",
    )
    return block[:148] + b"%06o\0 " % sum(block) + block[156:]


def _octal(number: int, room: int, digits: int) -> bytes:
    return b"%0*o" % (digits, number if 0 <= number < room else 0)


def _ascii(text: bytes) -> bytes:
    return text if text.isascii() else bytes(byte if byte < 128 else 95 for byte in text)
