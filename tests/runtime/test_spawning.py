"""The daemon's side of the spawner: what it says arrives whole and in order, however busy the spawner is."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
import uvloop

from labkit.errors import Unavailable
from labkit.kernel.process import NewSession
from labkit.plan import Plan, Step
from labkit.runtime import channel
from labkit.runtime.spawning import SpawnerClient

MANY = 2000
PLAN = Plan("start", (Step("init", NewSession()),))


def with_client(work: Callable[[SpawnerClient, socket.socket], Coroutine[Any, Any, None]]) -> None:
    """Run a coroutine with a client and the spawner's end of its connection; nothing stays open."""
    uvloop.run(asyncio.sleep(0))  # libuv keeps some of its own from the first loop on
    before = sorted(os.listdir("/proc/self/fd"))

    async def run() -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        client = SpawnerClient(ours, lambda *_: None, lambda _: None, lambda: None)
        client.listen()
        with theirs:
            await work(client, theirs)
        if client.sock.fileno() >= 0:
            client.close()

    uvloop.run(run())
    assert sorted(os.listdir("/proc/self/fd")) == before


def test_a_burst_waits_for_the_spawner() -> None:
    async def work(client: SpawnerClient, theirs: socket.socket) -> None:
        for number in range(MANY):
            client.drop("x" * 500, str(number))
        assert client.unsent  # more than the socket takes
        heard = []
        for _ in range(MANY):
            received = await asyncio.to_thread(channel.receive, theirs)
            assert received
            heard.append(int(received[0]["names"][0]))
        assert heard == list(range(MANY))
        client.forget("last")
        assert await asyncio.to_thread(channel.receive, theirs) == ({"do": "forget", "key": "last"}, [])

    with_client(work)


def test_descriptors_that_were_closed_meanwhile_arrive() -> None:
    async def work(client: SpawnerClient, theirs: socket.socket) -> None:
        for number in range(MANY):
            client.drop("x" * 500, str(number))
        read, write = os.pipe()
        start = asyncio.ensure_future(client.start("key", PLAN, {"stdin": read}, {}))
        await asyncio.sleep(0)  # until it has asked
        os.close(read)
        for _ in range(MANY):
            assert await asyncio.to_thread(channel.receive, theirs)
        received = await asyncio.to_thread(channel.receive, theirs)
        assert received
        message, (fd,) = received
        assert message["do"] == "start"
        os.write(write, b"hello")
        assert os.read(fd, 10) == b"hello"
        start.cancel()
        for one in (fd, write):
            os.close(one)

    with_client(work)


def test_a_spawner_that_dies_lets_nobody_wait() -> None:
    async def work(client: SpawnerClient, theirs: socket.socket) -> None:
        for number in range(MANY):
            client.drop("x" * 500, str(number))
        start = asyncio.ensure_future(client.start("key", PLAN, {}, {}))
        await asyncio.sleep(0)  # until it has asked
        theirs.close()
        with pytest.raises(Unavailable):
            await start
        assert not client.unsent

    with_client(work)
