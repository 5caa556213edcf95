"""Fifty clients at once that do what people do: every answer is right, and in the end nothing has grown."""

from __future__ import annotations

import itertools
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.load.measuring import Taken, taken
from tests.support.daemon import Daemon, running

pytestmark = [pytest.mark.root, pytest.mark.timeout(900)]
CLIENTS = 50
GROWTH = 12 * 1024
"""KiB by which memory may grow between a first round of the work and the end: what is kept for who asks is bounded."""


@pytest.fixture
def own(tmp_path: Path, busybox_archive: None) -> Iterator[Daemon]:
    with running(tmp_path) as daemon:
        yield daemon


class Client:
    """One of many: it makes containers of its own name, and looks at everybody's."""

    def __init__(self, daemon: Daemon, number: int) -> None:
        self.daemon = daemon
        self.number, self.name = number, f"client{number}"
        self.random = random.Random(number)
        self.done: Counter[str] = Counter()

    def must(self, method: str, path: str, body: Any = None, also: tuple[int, ...] = ()) -> Any:
        status, answer = self.daemon.request(method, path, body)
        assert status < 300 or status in also, (method, path, status, answer)
        return answer

    def works(self) -> list[Callable[[], None]]:
        return [self.run, self.run, self.exec, self.pause, self.restart, self.look, self.network, self.volume]

    def create(self, script: str, network: str = "none") -> None:
        body = {
            "Image": "busybox",
            "Cmd": ["sh", "-c", script],
            "StopTimeout": 0,
            "HostConfig": {"NetworkMode": network},
        }
        self.must("POST", f"/containers/create?name={self.name}", body)
        self.must("POST", f"/containers/{self.name}/start")

    def remove(self) -> None:
        self.must("DELETE", f"/containers/{self.name}?force=1&v=1")

    def run(self) -> None:
        code = self.random.randrange(100)
        self.create(f"echo {self.name}; exit {code}", self.random.choice(["none", "bridge"]))
        assert self.must("POST", f"/containers/{self.name}/wait")["StatusCode"] == code
        self.remove()

    def exec(self) -> None:
        self.create("sleep 1000")
        body = {"Cmd": ["sh", "-c", "exit 7"]}
        identity = self.must("POST", f"/containers/{self.name}/exec", body)["Id"]
        self.must("POST", f"/exec/{identity}/start", {"Detach": True})
        self.must("GET", f"/containers/{self.name}/top")
        self.remove()

    def pause(self) -> None:
        self.create("sleep 1000")
        self.must("POST", f"/containers/{self.name}/pause")
        assert self.must("GET", f"/containers/{self.name}/json")["State"]["Paused"] is True
        self.must("POST", f"/containers/{self.name}/unpause")
        self.must("POST", f"/containers/{self.name}/stop?t=0")
        self.remove()

    def restart(self) -> None:
        self.create("sleep 1000", "bridge")
        self.must("POST", f"/containers/{self.name}/restart?t=0")
        self.must("POST", f"/containers/{self.name}/rename?name={self.name}-again")
        self.must("POST", f"/containers/{self.name}-again/rename?name={self.name}")
        self.remove()

    def look(self) -> None:
        for path in ("/containers/json?all=1", "/images/json", "/info", "/networks", "/volumes", "/_ping?x=1"):
            if not path.startswith("/_ping"):
                self.must("GET", path)

    def network(self) -> None:
        subnet = f"10.{200 + self.number}.0.0/24"  # of its own: fifty clients would use up the pools
        self.must("POST", "/networks/create", {"Name": self.name, "IPAM": {"Config": [{"Subnet": subnet}]}})
        self.create("sleep 1000", self.name)
        self.remove()
        self.must("DELETE", f"/networks/{self.name}")

    def volume(self) -> None:
        self.must("POST", "/volumes/create", {"Name": self.name})
        self.must("DELETE", f"/volumes/{self.name}")

    def work_until(self, end: float) -> None:
        works = self.works()
        while time.monotonic() < end:
            work = self.random.choice(works)
            work()
            self.done[work.__name__] += 1


def rounds(daemon: Daemon, clients: list[Client], seconds: float) -> Taken:
    """Have all clients work at once for so long; what daemon and spawner take after."""
    end, failures = time.monotonic() + seconds, []

    def work(client: Client) -> None:
        try:
            client.work_until(end)
        except Exception as error:  # noqa: BLE001  it is told by the test's own thread
            failures.append(f"{client.name}: {error!r}")

    threads = [threading.Thread(target=work, args=(client,)) for client in clients]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures, failures
    assert daemon.request("GET", "/containers/json?all=1")[1] == []
    return settled(daemon)


def settled(daemon: Daemon) -> Taken:
    """What both take once they have done what is left to do behind the last answer."""
    before = taken(daemon)
    for _ in itertools.repeat(None, 50):
        time.sleep(0.1)  # nothing tells when the last descriptor has gone
        if (now := taken(daemon)).daemon_descriptors == before.daemon_descriptors:
            return now
        before = now
    return before


@pytest.mark.parametrize("seconds", [20, pytest.param(600, marks=pytest.mark.long)])
def test_fifty_clients(own: Daemon, seconds: int) -> None:
    clients = [Client(own, number) for number in range(CLIENTS)]
    first = rounds(own, clients, min(10, seconds / 2))
    last = rounds(own, clients, seconds)
    done = sum((client.done for client in clients), Counter())
    print(f"{sum(done.values())} pieces of work, {dict(done)}; {first} {last}")
    assert last.daemon_descriptors <= first.daemon_descriptors + 3
    assert last.spawner_descriptors <= first.spawner_descriptors + 3
    assert last.memory < first.memory + GROWTH
