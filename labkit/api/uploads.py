"""Request bodies for work on threads, and the JSON lines in which Docker tells the progress of such work.

An archive comes in chunk by chunk on the event loop and is read like a file on a thread. What the thread reports goes
out as jsonmessage lines (moby `pkg/jsonmessage`, `pkg/streamformatter`).
"""

from __future__ import annotations

import asyncio
import queue
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable
from typing import Any, TypeVar

import msgspec

from labkit.errors import InvalidParameter, LabkitError
from labkit.images.progress import Progress, Report

T = TypeVar("T")
Message = dict[str, Any]

_AHEAD = 4 << 20  # bytes that may wait for the thread


class Upload:
    """A request's body as a file that a thread reads; `feed` runs on the event loop and waits for the thread.

    Reading raises what went wrong with the body, so that half an archive never passes for a whole one.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._queue: queue.SimpleQueue[bytes | LabkitError] = queue.SimpleQueue()
        self._room = asyncio.Event()
        self._waiting = 0  # bytes in the queue; changed on the loop only
        self._rest = b""
        self._failure: LabkitError | None = None
        self._ended = False
        self._unwanted = False

    async def feed(self, chunks: AsyncIterator[bytes]) -> None:
        """Passes the body on, to its end; what nobody reads any more is thrown away, so that the client can finish."""
        try:
            async for chunk in chunks:
                while self._waiting >= _AHEAD and not self._unwanted:
                    self._room.clear()
                    await self._room.wait()
                if not self._unwanted:
                    self._waiting += len(chunk)
                    self._queue.put(chunk)
            self._queue.put(b"")
        except LabkitError as error:
            self._queue.put(error)
        except asyncio.CancelledError:
            self._queue.put(InvalidParameter("the client is gone before the whole archive came: unexpected EOF"))
            raise

    def discard(self) -> None:
        """From now on what comes is thrown away. To be called on the event loop."""
        self._unwanted = True
        self._room.set()

    def read(self, size: int, /) -> bytes:
        """What is there, at least one byte unless the body has ended, at most `size`."""
        if not self._rest and not self._ended:
            self._rest = self._next()
        piece, self._rest = self._rest[:size], self._rest[size:]
        return piece

    def _next(self) -> bytes:
        if self._failure:
            raise self._failure
        item = self._queue.get()
        if isinstance(item, LabkitError):
            self._failure = item
            raise item
        self._ended = not item
        if item:
            self._loop.call_soon_threadsafe(self._took, len(item))
        return item

    def _took(self, count: int) -> None:
        self._waiting -= count
        self._room.set()


async def begun(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The same body, its first chunk already read: a client that waits for `100 Continue` gets it before the answer."""
    first = await anext(chunks, b"")

    async def rest() -> AsyncIterator[bytes]:
        if first:
            yield first
            async for chunk in chunks:
                yield chunk

    return rest()


async def messages(
    work: Callable[[Report], T], results: Callable[[T], Iterable[Message]]
) -> AsyncGenerator[bytes, None]:
    """Does work on a thread; yields its progress, then its results, as JSON lines. Raises what the work raises.

    Work that was begun goes on to its end also when the client goes.
    """
    loop = asyncio.get_running_loop()
    reports: asyncio.Queue[Progress | None] = asyncio.Queue()
    task = asyncio.ensure_future(
        asyncio.to_thread(work, lambda progress: _pass_on(loop, reports, progress))  # on the thread
    )
    task.add_done_callback(lambda _: reports.put_nowait(None))
    try:
        while (progress := await reports.get()) is not None:
            yield line(progress_message(progress))
    finally:
        if not task.done():
            task.add_done_callback(lambda done: done.exception())  # nobody is left to hear of it
    for message in results(task.result()):
        yield line(message)


def _pass_on(loop: asyncio.AbstractEventLoop, reports: asyncio.Queue[Progress | None], progress: Progress) -> None:
    loop.call_soon_threadsafe(reports.put_nowait, progress)


async def with_upload(
    chunks: AsyncIterator[bytes], work: Callable[[Upload, Report], T], results: Callable[[T], Iterable[Message]]
) -> AsyncIterator[bytes]:
    """`messages` of work that reads the request's body. All of the body is taken, also when the work fails early."""
    upload = Upload()
    feeding = asyncio.ensure_future(upload.feed(chunks))
    lines = messages(lambda report: work(upload, report), results)
    try:
        try:
            async for sent in lines:
                yield sent
        finally:
            await lines.aclose()
    except LabkitError:
        upload.discard()
        await feeding
        raise
    finally:
        feeding.cancel()


def line(message: Message) -> bytes:
    """One message on its line; dockerd ends lines with CR LF."""
    return msgspec.json.encode(message) + b"\r\n"


def progress_message(progress: Progress) -> Message:
    """A progress report in Docker's form, with the bar that clients without a bar of their own print."""
    if progress.aux is not None:
        return {"progressDetail": {}, "aux": progress.aux}
    message: Message = {"status": progress.status}
    if progress.message:
        return message | ({"id": progress.id} if progress.id else {})
    if progress.current or progress.total:
        detail = {"current": progress.current} | ({"total": progress.total} if progress.total else {})
        message |= {"progressDetail": detail, "progress": _bar(progress)}
    else:
        message["progressDetail"] = {}
    return message | ({"id": progress.id} if progress.id else {})


def _bar(progress: Progress) -> str:
    if not progress.total:
        return human_size(progress.current)
    done = min(50, progress.current * 50 // progress.total)
    arrow = ">" if done < 50 else ""
    bar = f"[{'=' * done}{arrow}{' ' * (50 - done - len(arrow))}]"
    return f"{bar}  {human_size(progress.current)}/{human_size(progress.total)}"


def human_size(size: float) -> str:
    """Bytes in decimal units with four significant digits, as Docker's go-units prints them."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if size < 1000:
            return f"{size:.4g}{unit}"
        size /= 1000
    return f"{size:.4g}PB"
