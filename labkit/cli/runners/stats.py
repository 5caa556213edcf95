"""`stats`: what containers use, as a table that is drawn anew each second (Engine API `ContainerStats`).

Each look asks for one sample of each container; what its CPU did is the difference to the one before.
"""

from __future__ import annotations

import select
from collections.abc import Iterable, Mapping
from typing import Any

from labkit.cli.grammar import Invocation
from labkit.cli.references import short_id
from labkit.cli.session import Session
from labkit.cli.tables import Row, write_rows
from labkit.cli.units import bytes_size, human_size
from labkit.errors import NotFound

INTERVAL = 1.0
_TABLE = "table {{.ID}}\t{{.Name}}\t{{.CPUPerc}}\t{{.MemUsage}}\t{{.MemPerc}}\t{{.NetIO}}\t{{.BlockIO}}\t{{.PIDs}}"
_HEADERS = {
    "Container": "CONTAINER",
    "ID": "CONTAINER ID",
    "Name": "NAME",
    "CPUPerc": "CPU %",
    "MemUsage": "MEM USAGE / LIMIT",
    "MemPerc": "MEM %",
    "NetIO": "NET I/O",
    "BlockIO": "BLOCK I/O",
    "PIDs": "PIDS",
}
_KIND = "*container.statsContext"
Sample = Mapping[str, Any]


def stats(session: Session, given: Invocation) -> None:
    """Draw the table each second until interrupted; once, two samples later, with --no-stream."""
    looks = _Looks(session, given)
    looks.take(first=True)
    if given.flag("no-stream"):
        _wait()
        looks.take()
        session.out(looks.table())
        return
    with session.streams.live() as live:
        while True:
            live.show(looks.table())
            _wait()
            looks.take()


def _wait() -> None:
    """Until the next look; an interrupt ends it."""
    select.select([], [], [], INTERVAL)


class _Looks:
    """The containers to look at, with the last two samples of each."""

    def __init__(self, session: Session, given: Invocation) -> None:
        self._session = session
        self._named = given.arguments
        self._all = given.flag("all")
        self._template = _TABLE if given.text("format") in ("", "table") else given.text("format")
        self._truncate = not given.flag("no-trunc")
        self._samples: dict[str, tuple[Sample | None, Sample | None]] = {}
        write_rows(self._template, [], _HEADERS, _KIND)  # a wrong template is told before anything is waited for

    def take(self, first: bool = False) -> None:
        """Look at all of them. Raises NotFound at the first look, if one that was named isn't there."""
        query = {"all": self._all}
        listed = self._named or [one["Id"] for one in self._session.client.get("/containers/json", query)]
        found = {}
        for name in listed:
            before = self._samples.get(name, (None, None))[1]
            found[name] = (before, self._sample(name, must_be=first and bool(self._named)))
        self._samples = found

    def _sample(self, name: str, must_be: bool) -> Sample | None:
        try:
            found: Sample = self._session.client.get(f"/containers/{name}/stats", {"stream": "0", "one-shot": "1"})
        except NotFound:
            if must_be:
                raise
            return None
        return found

    def table(self) -> str:
        shown = [(name, *pair) for name, pair in self._samples.items() if pair[1] or name in self._named]
        rows = (row(name, before, sample, self._truncate) for name, before, sample in shown)
        return write_rows(self._template, rows, _HEADERS, _KIND)


def row(name: str, before: Sample | None, sample: Sample | None, truncate: bool) -> Row:
    """One container as docker/cli's `formatter_stats.go` has it; dashes for one that is gone."""
    if sample is None:
        return {
            "Container": name, "ID": "--", "Name": "--", "CPUPerc": "--", "MemUsage": "-- / --", "MemPerc": "--",
            "NetIO": "-- / --", "BlockIO": "-- / --", "PIDs": "--",
        }  # fmt: skip
    memory = sample["memory_stats"]
    used, limit = memory_used(memory), memory.get("limit", 0)
    received, sent = _sums(sample.get("networks") or {})
    read, written = _transfers(sample["blkio_stats"].get("io_service_bytes_recursive") or ())
    return {
        "Container": name,
        "ID": short_id(sample["id"]) if truncate else sample["id"],
        "Name": sample["name"].lstrip("/"),
        "CPUPerc": f"{cpu_percent(before, sample):.2f}%",
        "MemUsage": f"{bytes_size(used)} / {bytes_size(limit)}",
        "MemPerc": f"{used / limit * 100 if limit else 0:.2f}%",
        "NetIO": f"{human_size(received, 3)} / {human_size(sent, 3)}",
        "BlockIO": f"{human_size(read, 3)} / {human_size(written, 3)}",
        "PIDs": str(sample["pids_stats"].get("current", 0)),
    }


def cpu_percent(before: Sample | None, sample: Sample) -> float:
    """The share of one CPU, in percent, that was used since the sample before."""
    now, then = sample["cpu_stats"], (before or sample)["cpu_stats"]
    spent = now["cpu_usage"]["total_usage"] - then["cpu_usage"]["total_usage"]
    passed = now.get("system_cpu_usage", 0) - then.get("system_cpu_usage", 0)
    cpus = now.get("online_cpus") or len(now["cpu_usage"].get("percpu_usage") or ())
    return spent / passed * cpus * 100 if spent > 0 and passed > 0 else 0.0


def memory_used(memory: Mapping[str, Any]) -> int:
    """What is used without the page cache that can go: `total_inactive_file` on cgroup v1, `inactive_file` on v2."""
    used, stats = int(memory.get("usage", 0)), memory.get("stats") or {}
    cache = stats.get("total_inactive_file", stats.get("inactive_file", 0))
    return used - cache if cache < used else used


def _sums(networks: Mapping[str, Mapping[str, int]]) -> tuple[int, int]:
    return sum(one["rx_bytes"] for one in networks.values()), sum(one["tx_bytes"] for one in networks.values())


def _transfers(transfers: Iterable[Mapping[str, Any]]) -> tuple[int, int]:
    """Bytes read and written."""
    totals = {"r": 0, "w": 0}
    for one in transfers:
        kind = one["op"][:1].lower()
        if kind in totals:
            totals[kind] += one["value"]
    return totals["r"], totals["w"]
