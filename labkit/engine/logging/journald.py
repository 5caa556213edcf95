"""The log driver `journald`: systemd's native protocol (systemd.io/JOURNAL_NATIVE_PROTOCOL; moby `logger/journald`).

Logs are read back with journalctl(1), which knows the journal's files; dockerd links to its library instead.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import socket
import struct
from collections.abc import AsyncGenerator, Mapping
from typing import Any

from labkit.engine.clock import rfc3339
from labkit.engine.logging import attributes, options
from labkit.engine.logging.sending import Datagrams, Encode, Sender
from labkit.engine.logs import Piece, Selection, prefix
from labkit.engine.models import ContainerRecord
from labkit.errors import LabkitError, NotImplementedByLabkit

SOCKET = "/run/systemd/journal/socket"
_PRIORITY = {"stdout": "6", "stderr": "3"}
_OWN = (
    "CONTAINER_ID", "CONTAINER_ID_FULL", "CONTAINER_NAME", "CONTAINER_TAG", "IMAGE_NAME", "CONTAINER_PARTIAL_MESSAGE",
    "CONTAINER_LOG_EPOCH", "CONTAINER_LOG_ORDINAL", "SYSLOG_TIMESTAMP", "SYSLOG_IDENTIFIER", "MESSAGE", "PRIORITY",
)  # fmt: skip


def sender(record: ContainerRecord, path: str = SOCKET) -> Sender:
    """What sends a container's output to the journal. Raises LabkitError."""
    if not os.path.exists(path):
        raise LabkitError("journald is not enabled on this host")
    asked = record.HostConfig.LogConfig.Config or {}
    return Sender(Datagrams(f"unixgram {path}", socket.AF_UNIX, path), encoder(record), options.buffer(asked))


def encoder(record: ContainerRecord) -> Encode:
    """How messages look to the journal: the container's fields, then those of the message."""
    tag = attributes.tag(record, "{{.ID}}")
    fixed = {
        "CONTAINER_ID": record.Id[:12],
        "CONTAINER_ID_FULL": record.Id,
        "CONTAINER_NAME": record.Name.lstrip("/"),
        "CONTAINER_TAG": tag,
        "IMAGE_NAME": record.Config.Image,
        "SYSLOG_IDENTIFIER": tag,
        "CONTAINER_LOG_EPOCH": os.urandom(16).hex(),
        **attributes.extra(record, field_name),
    }
    head = b"".join(field(name, value.encode()) for name, value in fixed.items())
    ordinal = 0

    def encode(message: bytes, stream: str, time: int) -> bytes:
        nonlocal ordinal
        ordinal += 1
        whole = message.endswith(b"\n")
        more = {
            "PRIORITY": _PRIORITY[stream],
            "SYSLOG_TIMESTAMP": rfc3339(time),
            "CONTAINER_LOG_ORDINAL": str(ordinal),
            **({} if whole else {"CONTAINER_PARTIAL_MESSAGE": "true"}),
        }
        said = field("MESSAGE", message[:-1] if whole else message)
        return head + b"".join(field(name, value.encode()) for name, value in more.items()) + said

    return encode


def field_name(name: str) -> str:
    """A label's or variable's name as the journal allows it: capitals, digits and `_`, which is not the first."""
    return re.sub(r"[^A-Z0-9]", "_", name.upper()).lstrip("_")


def field(name: str, value: bytes) -> bytes:
    """A field; with its length if there is a line break in it."""
    if b"\n" in value:
        return name.encode() + b"\n" + struct.pack("<Q", len(value)) + value + b"\n"
    return name.encode() + b"=" + value + b"\n"


class Journal:
    """What the journal has of a container, as a client wants it. Raises NotImplementedByLabkit without journalctl."""

    def __init__(self, record: ContainerRecord, selection: Selection, tail: int | None) -> None:
        program = shutil.which("journalctl")
        if program is None:
            raise NotImplementedByLabkit(
                "configured logging driver does not support reading: install journalctl (systemd)"
            )
        self._program = program
        self._container = f"CONTAINER_ID_FULL={record.Id}"
        self._selection = selection
        self._first = arguments(selection, tail)
        self._cursor = ""

    async def read(self, follow: bool) -> AsyncGenerator[Piece, None]:
        """All that there is; with `follow` also what comes, without an end."""
        async for piece in self._run([*self._first, *(["--follow"] if follow else [])]):
            yield piece

    async def rest(self) -> AsyncGenerator[Piece, None]:
        """What `read` had not come to when the container ended: journald may be behind, and journalctl behind it."""
        process = await asyncio.create_subprocess_exec(self._program, "--sync", stderr=asyncio.subprocess.DEVNULL)
        await process.wait()  # a journald that can't be asked has written what it has written
        where = [f"--after-cursor={self._cursor}"] if self._cursor else self._first
        async for piece in self._run(where):
            yield piece

    async def _run(self, where: list[str]) -> AsyncGenerator[Piece, None]:
        argv = [self._program, "--output=json", "--all", "--quiet", *where, self._container]
        process = await asyncio.create_subprocess_exec(*argv, stdout=asyncio.subprocess.PIPE, limit=1 << 20)
        assert process.stdout
        try:
            async for line in process.stdout:
                entry = json.loads(line)
                self._cursor = entry["__CURSOR"]
                if piece := parse(entry, self._selection):
                    yield piece
        finally:
            if process.returncode is None:
                process.kill()
            await process.wait()


def arguments(selection: Selection, tail: int | None) -> list[str]:
    """Where in the journal a client wants to begin."""
    found = [f"--lines={'all' if tail is None else tail}"]
    return found + ([f"--since=@{selection.since // 10**9}"] if selection.since else [])


def parse(entry: Mapping[str, Any], selection: Selection) -> Piece | None:
    """An entry as journalctl prints it; None if the client doesn't want it."""
    stream = "stderr" if entry.get("PRIORITY") == _PRIORITY["stderr"] else "stdout"
    time = int(entry.get("_SOURCE_REALTIME_TIMESTAMP") or entry.get("__REALTIME_TIMESTAMP") or 0) * 1000
    if not selection.wants(stream) or time < selection.since or (selection.until and time > selection.until):
        return None
    said = entry.get("MESSAGE") or ""
    data = bytes(said) if isinstance(said, list) else str(said).encode()  # what isn't UTF-8 comes as numbers
    end = b"" if "CONTAINER_PARTIAL_MESSAGE" in entry else b"\n"
    extra = {name: str(value) for name, value in entry.items() if not name.startswith("_") and name not in _OWN}
    return Piece(stream, prefix(selection, rfc3339(time), extra) + data + end)
