"""A trace as data becomes a tree: requests of client and daemon joined, plans below them, down to calls."""

from __future__ import annotations

from typing import Any

from labkit.explain.choice import Choice
from labkit.explain.decode import Style
from labkit.explain.telling import requests, tell
from labkit.explain.tree import Explanation, Node
from labkit.trace import Span, TraceContext

TRACE = "t" * 32
CALL = {"name": "sethostname", "arguments": ["<b>"], "result": 0, "errno": 0, "microseconds": 12.5}
OPERATION = {
    "actor": "init", "name": "SetHostname", "describe": "call this host '<b>'", "man": "sethostname(2)", "error": "",
    "began": 1_000, "ended": 31_000, "calls": [CALL],
}  # fmt: skip
FORK = OPERATION | {"actor": "spawner", "name": "CloneInit", "describe": "fork", "calls": []}


def trace(**more: Any) -> dict[str, Any]:
    plan = {"span_id": "p", "parent_id": "d1", "name": "start", "subject": "abc", "pids": {"init": 42}, "exec_at": 0}
    answered = {"method": "POST", "path": "/containers/abc/start", "status": 204, "began": 500, "ended": 2_000_500}
    return {
        "trace_id": TRACE,
        "requests": [answered | {"span_id": "d1", "parent_id": "c1"}],
        "plans": [plan | {"operations": [FORK, OPERATION]}],
        "transfers": [],
    } | more


def span(identity: str, path: str, began: int) -> Span:
    attributes = {"http.request.method": "POST", "url.path": path, "http.response.status_code": 101}
    return Span(TraceContext(TRACE, identity, "root"), f"POST {path}", "client", began, began + 3_000_000, attributes)


def test_each_level_says_what_was_done_for_the_one_above() -> None:
    told = Explanation((tell(trace(), [span("c1", "/containers/abc/start", 400)], Choice(Style())),)).text()
    assert told.splitlines() == [
        f"trace {TRACE}  · 1 request",
        "└─ POST /containers/abc/start → 204  · 3.0 ms for the client  · 2.0 ms in the daemon",
        "   └─ plan: start abc  · 0.0 ms",
        "      ├─ the spawner  · 1 operation",
        "      │  └─ CloneInit: fork  · sethostname(2)  · 30 µs",
        "      └─ the container's init, between its fork and its exec  · pid 42  · 1 operation",
        "         └─ SetHostname: call this host '<b>'  · sethostname(2)  · 30 µs",
        '            └─ sethostname("<b>") = 0  · 12 µs',
    ]


def test_a_request_that_only_the_client_knows_stands_in_its_place() -> None:
    """An attached stream that hasn't ended in the daemon: the client began it before the start."""
    found = requests(trace(), [span("c0", "/containers/abc/attach", 100), span("c1", "/containers/abc/start", 400)])
    assert [(request.path, request.daemon) for request in found] == [
        ("/containers/abc/attach", None),
        ("/containers/abc/start", 2_000_000),
    ]


def test_spans_of_another_trace_are_not_told() -> None:
    other = Span(TraceContext("o" * 32, "c9", ""), "GET /x", "client", 0, 1, {})
    assert len(tell(trace(), [other], Choice(Style())).children) == 1


def test_only_what_is_asked_for() -> None:
    by_operation = tell(trace(), [], Choice(Style(), only=frozenset({"SetHostname"})))
    by_call = tell(trace(), [], Choice(Style(), only=frozenset({"sethostname"})))
    assert by_operation == by_call
    assert "CloneInit" not in Explanation((by_call,)).text()
    assert tell(trace(), [], Choice(Style(), only=frozenset({"Nothing"}))).children == ()


def test_without_times_nothing_differs_between_two_runs() -> None:
    later = trace(trace_id="u" * 32)
    later["plans"] = [later["plans"][0] | {"pids": {"init": 77}}]
    later["requests"] = [later["requests"][0] | {"ended": 9_000_000}]
    stable = Choice(Style(stable=True), times=False)
    assert tell(trace(), [], stable) == tell(later, [], stable)


def test_an_operation_that_failed_says_why() -> None:
    failed = OPERATION | {"error": "EPERM: Operation not permitted"}
    plan = trace()["plans"][0] | {"operations": [failed]}
    told = Explanation((tell(trace(plans=[plan]), [], Choice(Style(), calls=False)),)).text()
    assert told.endswith("failed: EPERM: Operation not permitted")


def test_html_says_the_same_and_escapes_what_containers_choose() -> None:
    explanation = Explanation((tell(trace(), [], Choice(Style())),))
    bundle = explanation._repr_mimebundle_()
    assert bundle["text/plain"] == explanation.text()
    page = bundle["text/html"]
    assert "<b>" not in page
    assert "<code>sethostname(&quot;&lt;b&gt;&quot;) = 0</code>" in page
    assert "<details><summary>SetHostname: " in page
    assert "<script" not in page
    assert "color" not in page


def test_what_has_nothing_below_it_does_not_fold() -> None:
    assert "<details>" not in Explanation((Node("trace", "t", children=(Node("operation", "o", folded=True),)),)).html()
