"""What happened, as data: spans of requests and operations, and the kernel calls within an operation.

A trace is the set of spans that share a trace ID. Requests (client to daemon, daemon to registry) and the
operations of an executed plan are spans alike; they are joined as in W3C Trace Context (the `traceparent`
header), so that a trace can be exported to tools that know OpenTelemetry. Standard library only: the
spawner and the client import this.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from typing import Any, NamedTuple

_TRACEPARENT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})")


@dataclass(frozen=True, slots=True)
class TraceContext:
    """Where a span stands: its trace, itself and its parent (lower-case hex; 16, 8 and 8 bytes)."""

    trace_id: str
    span_id: str
    parent_id: str = ""

    def child(self) -> TraceContext:
        """A new span below this one, in the same trace."""
        return TraceContext(self.trace_id, os.urandom(8).hex(), self.span_id)

    def traceparent(self) -> str:
        """The header value that makes the receiver's span a child of this one."""
        return f"00-{self.trace_id}-{self.span_id}-01"


def new_trace() -> TraceContext:
    """The root of a new trace."""
    return TraceContext(os.urandom(16).hex(), os.urandom(8).hex())


def continue_trace(traceparent: str | None) -> TraceContext:
    """A span below the one that a `traceparent` header names; a new trace if there is none or it is malformed.

    W3C Trace Context, section 3.2: version ff and all-zero IDs are malformed, and a malformed header is ignored.
    """
    match = _TRACEPARENT.match(traceparent or "")
    if not match or match[1] == "ff" or not int(match[2], 16) or not int(match[3], 16):
        return new_trace()
    return TraceContext(match[2], match[3]).child()


class Call(NamedTuple):
    """One kernel call that was made: its name, arguments as passed, result and times.

    `result` is the call's return value, or None for a call that never returns (execve). `errno` is 0 for a call
    that succeeded. `began` and `ended` are nanoseconds of CLOCK_MONOTONIC.
    """

    name: str
    arguments: tuple[Any, ...]
    result: int | str | None
    errno: int
    began: int
    ended: int


class Recorder:
    """Where the bindings of `labkit.kernel` put the calls that they make; off while `calls` is None.

    One for each process: only the single-threaded spawner, its children and a learner's notebook run operations.
    """

    calls: list[tuple[Any, ...]] | None = None

    def start(self) -> list[tuple[Any, ...]]:
        """Record from here on, into the list returned: tuples in the order of `Call`'s fields."""
        self.calls = []
        return self.calls

    def stop(self) -> None:
        self.calls = None


RECORDER = Recorder()


@dataclass(frozen=True, slots=True)
class Span:
    """One thing that took time: a request, a plan, an operation. Times are nanoseconds since the epoch."""

    context: TraceContext
    name: str
    actor: str
    began: int
    ended: int
    attributes: dict[str, Any] = field(default_factory=dict)
    calls: tuple[Call, ...] = ()
    error: str = ""
