"""The moment after an answer in which the event loop stays awake: only where it pays, and no longer than it says."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Callable

import pytest

from labkit.api.busypoll import QUICK_NS, WINDOW_NS, BusyPoll
from labkit.api.http import Request, Response, Route
from tests.api.serving import Serve, ask

TICK = WINDOW_NS // 10


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """How often the clock was looked at, which goes on by a tenth of the window then and not otherwise."""
    clock = itertools.count(TICK, TICK)
    monkeypatch.setattr(time, "perf_counter_ns", lambda: next(clock))
    return lambda: next(clock) // TICK - 1


async def idle() -> None:
    """Until the loop has nothing more to do."""
    for _ in range(50):
        await asyncio.sleep(0)


def test_it_polls_only_if_the_last_request_came_in_time(looks: Callable[[], int]) -> None:
    async def turns(poll: BusyPoll, took: int = 0) -> int:
        poll.asked()
        poll.answered(took)
        before = looks()
        await idle()
        return looks() - before - 1

    async def check() -> list[int]:
        poll = BusyPoll()
        first = await turns(poll)  # nothing is known yet
        prompt = await turns(poll)  # the second came at once: a third is looked for, until the window is over
        late = await turns(poll)
        promising, after_work = await turns(poll), await turns(poll, QUICK_NS + 1)
        return [first, prompt, late, promising, after_work, await turns(poll)]

    assert asyncio.run(check()) == [0, 8, 0, 8, 0, 0]  # ten, less the first turn and the look at the clock


def test_a_server_sleeps_when_nobody_asks_any_more(serve: Serve) -> None:
    served = serve(Route("GET", "/plain", lambda request: Response(200, b"", "text/plain"), immediate=True))
    with served.connect() as client:
        for _ in range(100):
            assert ask(client, "GET /plain HTTP/1.1").status == 200
        before, began = time.process_time(), time.monotonic()
        time.sleep(0.3)  # nothing happens: that is what is looked at
        assert time.process_time() - before < (time.monotonic() - began) / 3


def test_answers_stay_in_order_while_it_polls(serve: Serve) -> None:
    def number(request: Request) -> Response:
        return Response(200, request.headers["x-number"].encode(), "text/plain")

    served = serve(Route("GET", "/plain", number, immediate=True))
    with served.connect() as one, served.connect() as other:
        for index in range(50):
            for client in (one, other):
                assert ask(client, f"GET /plain HTTP/1.1\nX-Number: {index}").read() == str(index).encode()
