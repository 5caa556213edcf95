"""From a trace as data (`GET /labkit/traces/ID`, the client's own spans) to the tree that tells it.

Trace, request, plan, process, operation, kernel call: each level says what was done on behalf of the one above.
Client and daemon each have a span for a request; the daemon's names the client's as its parent, because the
request carried a `traceparent` header (W3C Trace Context).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from labkit.explain.choice import Choice, count, milliseconds
from labkit.explain.decode import ELIDED, decode
from labkit.explain.transfers import transfer_node
from labkit.explain.tree import Node
from labkit.trace import Span

Data = dict[str, Any]

ACTORS = {
    ("start", "init"): "the container's init, between its fork and its exec",
    ("exec", "init"): "the new process, between its fork and its exec",
    ("probe", "init"): "the probe of its health, between its fork and its exec",
}
"""Who an operation's actor is, where its name alone doesn't say it."""


@dataclass(frozen=True, slots=True)
class Request:
    """One HTTP request, as client and daemon saw it; either may be missing. Times in nanoseconds."""

    method: str
    path: str
    status: int
    began: int
    client: int | None
    daemon: int | None
    plans: tuple[Data, ...]
    transfers: tuple[Data, ...] = ()


def tell(trace: Data, client_spans: Iterable[Span], choice: Choice) -> Node:
    """The tree of one trace; `client_spans` are those that the asker has of it."""
    found = requests(trace, [span for span in client_spans if span.context.trace_id == trace["trace_id"]])
    told = tuple(_request(request, choice) for request in found if not choice.only or _wanted(request.plans, choice))
    identity = ELIDED if choice.style.stable else trace["trace_id"]
    own = tuple(_plan(plan, choice) for plan in _unasked(trace, found) if not choice.only or _wanted([plan], choice))
    remark = count(found, "request") if found or not own else BY_ITSELF
    return Node("trace", f"trace {identity}", (remark,), (*told, *own))


BY_ITSELF = "the daemon by itself: a restart or a health probe"
"""Said of a trace that no request began."""


def _unasked(trace: Data, requests: Iterable[Request]) -> list[Data]:
    """The plans of a trace that belong to no request."""
    asked = [plan for request in requests for plan in request.plans]
    return [plan for plan in trace["plans"] if plan not in asked]


AHEAD = "done ahead, by a child that waited"
"""Said of what a parked child did (`labkit.runtime.parking`) before anybody asked for the container."""


def requests(trace: Data, spans: Iterable[Span]) -> list[Request]:
    """The requests of a trace in the order in which they began, the client's and the daemon's view of each joined."""
    asked = {span.context.span_id: span for span in spans}
    joined = []
    for answered in trace["requests"]:
        span = asked.pop(answered["parent_id"], None)
        plans = tuple(plan for plan in trace["plans"] if plan["parent_id"] == answered["span_id"])
        began = span.began if span else answered["began"]
        client = span.ended - span.began if span else None
        daemon = answered["ended"] - answered["began"]
        what = (answered["method"], answered["path"], answered["status"])
        moved = tuple(transfer for transfer in trace["transfers"] if transfer["parent_id"] == answered["span_id"])
        joined.append(Request(*what, began, client, daemon, plans, moved))
    joined += [_unanswered(span, trace["plans"]) for span in asked.values()]
    return sorted(joined, key=lambda request: request.began)


def _unanswered(span: Span, plans: Iterable[Data]) -> Request:
    """A request that the daemon has no span of: not ended there (a wait, an attached stream), or never arrived."""
    told = tuple(plan for plan in plans if plan["parent_id"] == span.context.span_id)
    found = span.attributes
    status = found.get("http.response.status_code", 0)
    what = (found["http.request.method"], found["url.path"], status)
    return Request(*what, span.began, span.ended - span.began, None, told)


def _wanted(plans: Iterable[Data], choice: Choice) -> bool:
    return any(_chosen(operation, choice) for plan in plans for operation in plan["operations"])


def _chosen(operation: Data, choice: Choice) -> bool:
    names = {operation["name"], *(call["name"] for call in operation["calls"])}
    return not choice.only or bool(names & choice.only)


def _request(request: Request, choice: Choice) -> Node:
    outcome = str(request.status or "no answer")
    times = []
    if choice.times and request.client is not None:
        times.append(f"{milliseconds(request.client)} for the client")
    if choice.times and request.daemon is not None:
        times.append(f"{milliseconds(request.daemon)} in the daemon")
    said = f"{request.method} {choice.style.words(request.path)} → {outcome}"
    moved = () if choice.only else tuple(transfer_node(transfer, choice) for transfer in request.transfers)
    return Node("request", said, tuple(times), (*moved, *(_plan(plan, choice) for plan in request.plans)))


def _plan(plan: Data, choice: Choice) -> Node:
    operations = [operation for operation in plan["operations"] if _chosen(operation, choice)]
    processes = tuple(
        _process(plan, actor, list(members), choice)
        for actor, members in groupby(operations, key=lambda operation: operation["actor"])
    )
    remarks = []
    if choice.times and (took := _duration(plan)):
        remarks.append(milliseconds(took))
    return Node("plan", f"plan: {plan['name']} {choice.style.words(plan['subject'])}", tuple(remarks), processes)


def _duration(plan: Data) -> int:
    if not plan["operations"]:
        return 0
    end = max(plan["exec_at"], plan["operations"][-1]["ended"])
    return int(end - plan["operations"][0]["began"])


def _process(plan: Data, actor: str, operations: list[Data], choice: Choice) -> Node:
    pid = plan["pids"].get(actor)
    who = ACTORS.get((plan["name"], actor), f"the {actor}")
    remarks = [] if choice.style.stable else [*([f"pid {pid}"] if pid else []), count(operations, "operation")]
    told = tuple(operation_node(operation, choice) for operation in operations)
    return Node("process", who, tuple(remarks), told, folded=choice.folded)


def operation_node(operation: Data, choice: Choice) -> Node:
    """One executed operation with its calls."""
    said = f"{operation['name']}: {choice.style.words(operation['describe'])}"
    remarks = [operation["man"]] if operation["man"] else []
    if choice.times:
        remarks.append(_us((operation["ended"] - operation["began"]) / 1000))
    if choice.times and operation.get("ahead"):
        remarks.append(AHEAD)
    if operation["error"]:
        remarks.append(f"failed: {operation['error']}")
    calls = tuple(_calls(operation["calls"], choice, bool(operation.get("ahead")))) if choice.calls else ()
    return Node("operation", said, tuple(remarks), calls, folded=choice.folded)


def _calls(calls: Iterable[Data], choice: Choice, operation_ahead: bool) -> Iterator[Node]:
    for call in calls:
        shown = decode(call["name"], call["arguments"], call["result"], call["errno"], choice.style)
        timed = choice.times and call["result"] is not None
        remarks = [_us(call["microseconds"])] if timed else []
        if choice.times and call.get("ahead") and not operation_ahead:
            remarks.append(AHEAD)
        yield Node("call", str(shown), tuple(remarks), code=True)


def _us(microseconds: float) -> str:
    return f"{microseconds:.0f} µs" if microseconds >= 10 else f"{microseconds:.1f} µs"
