"""Attach: a client's raw connection joined to a process's streams (moby `container/stream/attach.go`)."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from typing import Protocol

from labkit.engine.output import Attachment
from labkit.engine.run import Run
from labkit.errors import InvalidParameter

DEFAULT_KEYS = bytes((16, 17))  # ctrl-p, ctrl-q


class Client(Protocol):
    """A hijacked connection, as the API server hands it over."""

    gone: asyncio.Event

    @property
    def congested(self) -> bool: ...
    async def read(self) -> bytes: ...
    def write(self, data: bytes) -> None: ...
    async def drain(self) -> None: ...
    def close(self) -> None: ...


def parse_keys(text: str) -> bytes:
    """Detach keys such as `ctrl-p,ctrl-q` as the bytes that a terminal sends. Raises InvalidParameter."""
    if not text:
        return DEFAULT_KEYS
    found = bytearray()
    for key in text.split(","):
        if len(key) == 1:
            found += key.encode()
        elif match := re.fullmatch(r"ctrl-([a-z@\[\\\]^_])", key):
            found.append(ord(match[1].upper()) & 0x1F)
        else:
            raise InvalidParameter(f"Invalid detach keys ({text}) provided: unknown character: '{key}'")
    return bytes(found)


class KeyWatch:
    """Looks for the detach keys in what is typed; bytes that may be their beginning are held back."""

    def __init__(self, keys: bytes) -> None:
        self.keys = keys
        self.held = b""

    def feed(self, data: bytes) -> tuple[bytes, bool]:
        """What to pass on, and whether the keys were typed."""
        data = self.held + data
        place = data.find(self.keys)
        if place >= 0:
            return data[:place], True
        length = next((n for n in range(len(self.keys) - 1, 0, -1) if data.endswith(self.keys[:n])), 0)
        self.held = data[len(data) - length :]
        return data[: len(data) - length], False


async def attach(
    run: Run,
    client: Client,
    streams: frozenset[str],
    keys: bytes,
    close_stdin: Callable[[], None],
    replay: Callable[[], Awaitable[None]] | None = None,
) -> bool:
    """Join a client to a run until the process ends, the client goes or the detach keys are typed (then True).

    `streams` are those wanted of stdin, stdout, stderr. `close_stdin` is called when the client's input ends.
    `replay` sends what had been written before; what is written meanwhile comes after it.
    """
    attachment = Attachment(client, streams - {"stdin"}, not run.has_terminal)
    if run.output.ended.is_set():
        attachment.done.set()
    if replay:
        await replay()
    run.output.attachments.add(attachment)
    typing = asyncio.create_task(_type(run, client, keys, close_stdin)) if "stdin" in streams else None
    watched = {asyncio.create_task(event.wait()) for event in (attachment.done, client.gone)}
    waiting = watched | ({typing} if typing else set())
    detached = False
    try:
        while waiting & watched == watched and not detached:
            done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            detached = typing in done and typing is not None and typing.result()
        if attachment.done.is_set() and run.began.is_set():
            await run.exited.wait()
            await client.drain()
    finally:
        run.output.attachments.discard(attachment)
        for task in waiting:
            task.cancel()
        client.close()
    return detached


async def _type(run: Run, client: Client, keys: bytes, close_stdin: Callable[[], None]) -> bool:
    """Pass the client's input on; True if the detach keys were typed."""
    watch = KeyWatch(keys) if run.has_terminal else None
    while data := await client.read():
        detach = False
        if watch:
            data, detach = watch.feed(data)
        await run.began.wait()
        await run.write(data)
        if detach:
            return True
    if not client.gone.is_set():
        await run.began.wait()
    close_stdin()
    return False
