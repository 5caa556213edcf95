"""A base layer without a registry: made from programs of this machine, with a report of what came from where.

It is Debian's busybox-static with a link for each applet, laid out as Docker's official image of that name; where
busybox is not installed, the machine's own programs with the libraries that they need (ldd(1)). The same programs give
the same bytes.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tarfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from labkit.errors import NotFound
from labkit.registry.hub.layers import Member, in_order, write_tar

BUSYBOX_PLACES = (Path("/bin/busybox"), Path("/usr/bin/busybox"))

# What lessons need of a shell and its tools, where there is no busybox.
_PROGRAMS = (
    "[ awk basename cat chmod chown cp cut date dd df dirname du echo env expr false find free grep gzip head hostname "
    "id ip kill ln ls mkdir mktemp mount mv nc ping printenv printf ps pwd readlink rm rmdir sed seq sh sleep sort "
    "stat stty sync tail tar tee test timeout top touch tr true umount uname uniq wc wget which whoami xargs yes"
)

_PASSWD = """root:x:0:0:root:/root:/bin/sh
daemon:x:1:1:daemon:/usr/sbin:/bin/false
bin:x:2:2:bin:/bin:/bin/false
sys:x:3:3:sys:/dev:/bin/false
sync:x:4:100:sync:/bin:/bin/sync
mail:x:8:8:mail:/var/spool/mail:/bin/false
www-data:x:33:33:www-data:/var/www:/bin/false
operator:x:37:37:Operator:/var:/bin/false
nobody:x:65534:65534:nobody:/home:/bin/false
"""
_GROUP = """root:x:0:
daemon:x:1:
bin:x:2:
sys:x:3:
adm:x:4:
tty:x:5:
disk:x:6:
mail:x:8:
www-data:x:33:
users:x:100:
nobody:x:65534:
"""
_FILES = {
    "etc/passwd": _PASSWD,
    "etc/group": _GROUP,
    "etc/hosts": "127.0.0.1\tlocalhost\n::1\tlocalhost\n",
    "etc/hostname": "localhost\n",
    "etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\n",
}
_DIRECTORIES = {
    "bin": 0o755,
    "dev": 0o755,
    "etc": 0o755,
    "home": 0o755,
    "proc": 0o755,
    "root": 0o700,
    "sys": 0o755,
    "tmp": 0o1777,
    "usr": 0o755,
    "usr/sbin": 0o755,
    "var": 0o755,
    "var/spool": 0o755,
    "var/spool/mail": 0o755,
    "var/www": 0o755,
}
_LIBRARY = re.compile(r"^\s*(?:\S+ => )?(/\S+) \(0x[0-9a-f]+\)$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Taken:
    """One file that went in: its path in the image, on this machine, and the package it is from ("" if unknown)."""

    path: str
    source: str
    package: str


@dataclass(frozen=True)
class Contents:
    """What the layer will hold: real files by path, and hard links to them."""

    files: dict[str, Path] = field(default_factory=dict)
    links: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Programs:
    """What the layer is made of, and the time of the newest program; `applets` are names for one busybox."""

    contents: Contents
    taken: tuple[Taken, ...]
    created: int

    @property
    def applets(self) -> int:
        return len(self.contents.links)

    def layer(self) -> bytes:
        """The tar."""
        parents = {str(parent) for path in self.contents.files for parent in Path(path).parents} - {"."}
        members = [Member(path, _DIRECTORIES.get(path, 0o755), b"", tarfile.DIRTYPE) for path in parents]
        members += [Member(path, mode, b"", tarfile.DIRTYPE) for path, mode in _DIRECTORIES.items()]
        members += [Member(path, 0o644, text.encode()) for path, text in _FILES.items()]
        members += [Member(path, 0o755, source.read_bytes()) for path, source in self.contents.files.items()]
        links = [Member(path, 0o755, b"", tarfile.LNKTYPE, target) for path, target in self.contents.links.items()]
        return write_tar([*in_order(members), *in_order(links)], self.created)


def gather(busybox: Sequence[Path] = BUSYBOX_PLACES) -> Programs:
    """Finds the programs. `busybox` says where to look for that one. Raises NotFound if there is not even a shell."""
    found = next((path for path in busybox if path.is_file() and os.access(path, os.X_OK)), None)
    contents = _from_busybox(found) if found else _from_programs(_PROGRAMS.split())
    packages = packages_of(contents.files.values())
    taken = tuple(Taken(f"/{path}", str(source), packages[source]) for path, source in sorted(contents.files.items()))
    return Programs(contents, taken, int(max(path.stat().st_mtime for path in contents.files.values())))


def _from_busybox(program: Path) -> Contents:
    applets = subprocess.run([program, "--list"], capture_output=True, text=True, check=True).stdout.split()
    files = {"bin/busybox": program} | {str(path)[1:]: path for path in libraries(program)}
    return Contents(files, {f"bin/{applet}": "bin/busybox" for applet in applets if applet != "busybox"})


def _from_programs(names: Iterable[str]) -> Contents:
    files: dict[str, Path] = {}
    for name in names:
        if found := shutil.which(name):
            program = Path(found).resolve()
            files[f"bin/{name}"] = program
            files |= {str(path)[1:]: path for path in libraries(program)}
    if "bin/sh" not in files:
        raise NotFound("this machine has neither busybox nor sh to make an image of: install busybox-static")
    return Contents(files)


def libraries(program: Path) -> list[Path]:
    """The dynamic loader and the libraries of a program, as it will look for them; none if it is static or a script."""
    listed = subprocess.run(["ldd", program], capture_output=True, text=True, env={"PATH": os.environ["PATH"]})
    return sorted(Path(path) for path in _LIBRARY.findall(listed.stdout)) if listed.returncode == 0 else []


def packages_of(paths: Iterable[Path]) -> dict[Path, str]:
    """`NAME VERSION` of the Debian package of each file; "" where dpkg is missing or doesn't know it."""
    dpkg = shutil.which("dpkg-query")
    spellings = {path: _spellings(path) for path in paths}
    if not dpkg:
        return dict.fromkeys(spellings, "")
    wanted = {spelling for group in spellings.values() for spelling in group}
    # It fails if it doesn't know one of them, and answers for the others.
    found = subprocess.run([dpkg, "-S", *sorted(wanted)], capture_output=True, text=True).stdout
    owners = {path: names.split(",")[0] for names, _, path in (row.partition(": ") for row in found.splitlines())}
    shown = subprocess.run(
        [dpkg, "-W", "-f", "${binary:Package}\t${Package}\t${Version}\n", *sorted(set(owners.values()))],
        capture_output=True,
        text=True,
    ).stdout
    versions: dict[str, str] = {}
    for row in shown.splitlines():
        qualified, name, version = row.split("\t")
        versions |= {qualified: f"{name} {version}", name: f"{name} {version}"}
    return {
        path: next((versions.get(owners[spelling], "") for spelling in group if spelling in owners), "")
        for path, group in spellings.items()
    }


def _spellings(path: Path) -> list[str]:
    """The paths under which dpkg may know a file: since /bin and /lib are links into /usr, with or without /usr."""
    real = str(path.resolve())
    return [str(path), real, real.removeprefix("/usr"), f"/usr{path}"]
