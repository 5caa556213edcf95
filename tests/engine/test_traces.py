"""The recent traces: which are kept, which is the last, and which are about a container."""

from __future__ import annotations

import json

from labkit.engine.traces import KEPT, PlanSpan, RequestSpan, Traces, to_json
from labkit.kernel.namespaces import SetHostname
from labkit.plan import Plan, Record, Step
from labkit.trace import TraceContext

PLAN = Plan("start", (Step("init", SetHostname("box")),))
RECORD = Record(0, None, 10, 30, [("sethostname", ("box",), 0, 0, 12, 22)])


def request(number: int) -> RequestSpan:
    return RequestSpan(TraceContext(f"trace{number}", "span", "parent"), "GET", "/containers/json", 200, 1, 2)


def plan(number: int, subject: str) -> PlanSpan:
    return PlanSpan(TraceContext(f"trace{number}", "span"), subject, PLAN, lambda: (RECORD,), 1000, {"init": 7}, 5)


def test_the_oldest_goes_first() -> None:
    traces = Traces()
    for number in range(KEPT):
        traces.request(request(number))
    traces.request(request(0))  # heard of again: it is no longer the oldest
    traces.request(request(KEPT))
    assert len(list(traces.all())) == KEPT
    assert traces.get("trace1") is None
    again = traces.get("trace0")
    assert again is not None
    assert len(again.requests) == 2


def test_the_last_is_the_last_that_did_something() -> None:
    traces = Traces()
    assert traces.last() is None
    traces.request(request(1))
    traces.request(request(2))
    assert traces.last() is traces.get("trace2")
    traces.plan(plan(1, "abc"))
    traces.request(request(3))
    assert traces.last() is traces.get("trace1")


def test_about_a_container() -> None:
    traces = Traces()
    for number, subject in enumerate(("abc", "xyz", "abc")):
        traces.plan(plan(number, subject))
    assert [trace.trace_id for trace in traces.about("abc")] == ["trace0", "trace2"]
    assert traces.about("nothing") == []


def test_a_trace_as_json() -> None:
    traces = Traces()
    traces.request(request(1))
    traces.plan(plan(1, "abc"))
    trace = traces.get("trace1")
    assert trace is not None
    told = json.loads(json.dumps(to_json(trace)))
    assert told["requests"][0]["path"] == "/containers/json"
    (span,) = told["plans"]
    assert (span["subject"], span["pids"], span["exec_at"]) == ("abc", {"init": 7}, 1005)
    (operation,) = span["operations"]
    assert (operation["actor"], operation["name"], operation["shell"]) == ("init", "SetHostname", "hostname box")
    assert (operation["began"], operation["ended"]) == (1010, 1030)
    call = {"name": "sethostname", "arguments": ["box"], "result": 0, "errno": 0, "microseconds": 0.01, "ahead": False}
    assert operation["calls"] == [call]
