"""Archives for the tests, written by Python's tarfile: another reading of the formats than labkit's own."""

from __future__ import annotations

import hashlib
import io
import json
import os
import subprocess
import tarfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from labkit.images.layers import PERMISSIVE, Applied, LayerPolicy, apply_layer


def member(name: str, data: bytes = b"", kind: bytes = tarfile.REGTYPE, **fields: Any) -> tuple[tarfile.TarInfo, bytes]:
    """One member; `fields` are those of TarInfo."""
    info = tarfile.TarInfo(name)
    info.type, info.size, info.mtime = kind, len(data), 1_700_000_000
    info.mode = 0o755 if kind == tarfile.DIRTYPE else 0o644
    for field, value in fields.items():
        setattr(info, field, value)
    return info, data


def directory(name: str, **fields: Any) -> tuple[tarfile.TarInfo, bytes]:
    return member(name, kind=tarfile.DIRTYPE, **fields)


def symlink(name: str, target: str) -> tuple[tarfile.TarInfo, bytes]:
    return member(name, kind=tarfile.SYMTYPE, linkname=target)


def hardlink(name: str, target: str) -> tuple[tarfile.TarInfo, bytes]:
    return member(name, kind=tarfile.LNKTYPE, linkname=target)


def tar(*members: tuple[tarfile.TarInfo, bytes], form: int = tarfile.PAX_FORMAT) -> bytes:
    """A tar of these members."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form) as archive:
        for info, data in members:
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def pieces(data: bytes, size: int = 1000) -> Iterator[bytes]:
    """The data in chunks that fit no block."""
    return (data[at : at + size] for at in range(0, len(data), size))


def apply(data: bytes, root: Path, policy: LayerPolicy = PERMISSIVE) -> Applied:
    """Applies a layer to a directory, which is made."""
    root.mkdir()
    descriptor = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    try:
        return apply_layer(pieces(data), descriptor, policy)
    finally:
        os.close(descriptor)


def listing(root: Path) -> list[str]:
    """Everything below a directory as find(1) tells it: type, mode, owner, size of files, time, link, links."""
    form = r"%P %y %m %U:%G %T@ %n [%l]\n"
    out = subprocess.run(["find", ".", "-mindepth", "1", "-printf", form], cwd=root, capture_output=True, text=True)
    assert out.returncode == 0, out.stderr
    return sorted(out.stdout.splitlines())


def contents(root: Path) -> dict[str, bytes]:
    """The regular files below a directory."""
    files = (path for path in root.rglob("*") if path.is_file() and not path.is_symlink())
    return {str(path.relative_to(root)): path.read_bytes() for path in files}


def config_of(layers: Iterable[bytes], **fields: Any) -> bytes:
    """An image configuration for uncompressed layers."""
    diff_ids = [digest(layer) for layer in layers]
    document = {
        "architecture": "amd64",
        "os": "linux",
        "created": "2024-01-02T03:04:05.678901234Z",
        "config": {"Cmd": ["sh"], "Env": ["A=1"], "x-unknown": {"kept": True}},
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
        "history": [{"created": "2024-01-02T03:04:05Z", "created_by": f"layer {n}"} for n in range(len(diff_ids))],
    }
    return json.dumps(document | fields).encode()


def docker_archive(
    layers: list[bytes], tags: list[str] | None = None, config: bytes | None = None, stored: list[bytes] | None = None
) -> bytes:
    """What `docker save` of Docker 24 and older writes; `stored` are the layers as they lie in it, maybe compressed."""
    document = config_of(layers) if config is None else config
    name = f"{digest(document)[7:]}.json"
    paths = [f"{n:064x}/layer.tar" for n in range(len(layers))]
    manifest = [{"Config": name, "RepoTags": tags, "Layers": paths}]
    blobs = zip(paths, stored or layers, strict=True)
    return tar(
        member(name, document),
        *(member(path, blob) for path, blob in blobs),
        member("manifest.json", json.dumps(manifest).encode()),
    )
