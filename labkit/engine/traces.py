"""The recent traces: what each request did, kept as data and told on demand (`GET /labkit/traces`).

Records of executed plans are kept as they came and turned into spans when somebody asks: a start pays for the
recording only.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

from labkit.plan import Plan, Record
from labkit.registry.exchange import Exchange
from labkit.registry.transfers import Transfer
from labkit.trace import Call, TraceContext

KEPT = 200
PROBE = "probe"
"""The name of the plan of a health check's probe."""
UNKEPT = ("/_ping", "/labkit/traces", "/labkit/endings")
"""Requests that are asked about nothing: they would push out those that matter."""


@dataclass(frozen=True, slots=True)
class RequestSpan:
    """An HTTP request that was answered. Times are nanoseconds since the epoch."""

    context: TraceContext
    method: str
    path: str
    status: int
    began: int
    ended: int


@dataclass(frozen=True, slots=True)
class PlanSpan:
    """A plan that was executed: its records' times plus `offset` are nanoseconds since the epoch."""

    context: TraceContext
    subject: str
    plan: Plan
    records: Callable[[], tuple[Record, ...]]
    offset: int
    pids: dict[str, int]
    exec_at: int = 0


@dataclass(frozen=True, slots=True)
class TransferSpan:
    """A pull or push that was made. Times are nanoseconds since the epoch."""

    context: TraceContext
    transfer: Transfer
    began: int
    ended: int
    error: str = ""


@dataclass(slots=True)
class Trace:
    """All that happened under one trace ID, in the order in which it ended."""

    trace_id: str
    requests: list[RequestSpan] = field(default_factory=list)
    plans: list[PlanSpan] = field(default_factory=list)
    transfers: list[TransferSpan] = field(default_factory=list)


class Traces:
    """The last traces, by ID, and which of them concern a container.

    Of each container's health probes the last one is kept, beside the others: they would push out those that matter.
    """

    def __init__(self) -> None:
        self._kept: OrderedDict[str, Trace] = OrderedDict()
        self._probes: dict[str, Trace | None] = {}

    def request(self, span: RequestSpan) -> None:
        self._trace(span.context.trace_id).requests.append(span)

    def plan(self, span: PlanSpan) -> None:
        if span.plan.name != PROBE:
            self._trace(span.context.trace_id).plans.append(span)
        elif span.subject in self._probes:
            self._probes[span.subject] = Trace(span.context.trace_id, plans=[span])

    def transfer(self, span: TransferSpan) -> None:
        self._trace(span.context.trace_id).transfers.append(span)

    def probed(self, subject: str) -> None:
        """A container is probed from now on: the last probe is kept, until it is gone (`forget`)."""
        self._probes.setdefault(subject, None)

    def forget(self, subject: str) -> None:
        """A container is gone, and with it its last probe."""
        self._probes.pop(subject, None)

    def _trace(self, trace_id: str) -> Trace:
        trace = self._kept.setdefault(trace_id, Trace(trace_id))
        self._kept.move_to_end(trace_id)
        while len(self._kept) > KEPT:
            self._kept.popitem(last=False)
        return trace

    def get(self, trace_id: str) -> Trace | None:
        probes = (one for one in self._probes.values() if one and one.trace_id == trace_id)
        return self._kept.get(trace_id) or next(probes, None)

    def last(self) -> Trace | None:
        """The most recent trace that did something to the machine or moved an image, else the most recent one."""
        acted = next((trace for trace in reversed(self._kept.values()) if trace.plans or trace.transfers), None)
        return acted or next(reversed(self._kept.values()), None)

    def about(self, subject: str) -> list[Trace]:
        """The traces in which a plan was executed for a container, oldest first."""
        found = [trace for trace in self._kept.values() if any(plan.subject == subject for plan in trace.plans)]
        probe = self._probes.get(subject)
        return [*found, probe] if probe else found

    def all(self) -> Iterator[Trace]:
        return iter(self._kept.values())


def to_json(trace: Trace) -> dict[str, Any]:
    """The trace as `GET /labkit/traces/{id}` gives it."""
    return {
        "trace_id": trace.trace_id,
        "requests": [
            {
                "span_id": span.context.span_id,
                "parent_id": span.context.parent_id,
                "method": span.method,
                "path": span.path,
                "status": span.status,
                "began": span.began,
                "ended": span.ended,
            }
            for span in trace.requests
        ],
        "plans": [_plan_to_json(span) for span in trace.plans],
        "transfers": [_transfer_to_json(span) for span in trace.transfers],
    }


def _transfer_to_json(span: TransferSpan) -> dict[str, Any]:
    transfer = span.transfer
    return {
        "span_id": span.context.span_id,
        "parent_id": span.context.parent_id,
        "verb": transfer.verb,
        "reference": transfer.reference,
        "began": span.began,
        "ended": span.ended,
        "error": span.error,
        "rate_limit": transfer.rate_limit,
        "times": dict(transfer.times),
        "exchanges": [_exchange_to_json(exchange) for exchange in list(transfer.exchanges)],
        "blobs": [asdict(blob) for blob in transfer.blobs],
    }


def _exchange_to_json(exchange: Exchange) -> dict[str, Any]:
    found = asdict(exchange)
    found.pop("context")
    return found


def _plan_to_json(span: PlanSpan) -> dict[str, Any]:
    records = span.records()
    began = records[0].began if records else 0
    return {
        "span_id": span.context.span_id,
        "parent_id": span.context.parent_id,
        "name": span.plan.name,
        "subject": span.subject,
        "pids": span.pids,
        "exec_at": span.exec_at + span.offset if span.exec_at else 0,
        "operations": [_operation_to_json(span, record, began) for record in records],
    }


def _operation_to_json(span: PlanSpan, record: Record, began: int) -> dict[str, Any]:
    """An executed operation. `ahead` says that it was done before the plan began, by a parked child."""
    step = span.plan.steps[record.place]
    return {
        "actor": step.actor,
        "name": type(step.operation).__name__,
        "describe": step.operation.describe(),
        "shell": step.operation.shell(),
        "man": step.operation.man,
        "result": record.result,
        "error": record.error,
        "began": record.began + span.offset,
        "ended": record.ended + span.offset,
        "ahead": record.ended < began,
        "calls": [_call_to_json(Call(*call), began) for call in record.calls],
    }


def _call_to_json(call: Call, began: int) -> dict[str, Any]:
    return {
        "name": call.name,
        "arguments": call.arguments,
        "result": call.result,
        "errno": call.errno,
        "microseconds": (call.ended - call.began) / 1000,
        "ahead": call.ended < began,
    }
