"""Pulls and pushes as they are told: every request, every blob, where the time went, and no secret."""

from __future__ import annotations

from typing import Any

from labkit.explain.choice import Choice
from labkit.explain.decode import Style
from labkit.explain.telling import tell
from labkit.explain.tree import Explanation

ID = "ab" * 32
EXCHANGE = {
    "method": "GET", "url": f"https://hub/v2/app/blobs/sha256:{ID}", "purpose": f"blob sha256:{ID}", "status": 206,
    "began": 2_000_000, "ended": 5_500_000, "size": 10, "error": "",
    "sent": [["Accept", "*/*"], ["Authorization", "Bearer (hidden)"], ["Range", "bytes=5-9"]],
    "received": [["Content-Type", "x/y"], ["Content-Range", "bytes 5-9/10"], ["RateLimit-Limit", "100;w=21600"]],
}  # fmt: skip
REFUSED = {**EXCHANGE, "status": 0, "began": 1_000_000, "error": "connection refused", "sent": [], "received": []}


def trace(**changes: Any) -> dict[str, Any]:
    transfer = {
        "span_id": "s2", "parent_id": "s1", "verb": "pull", "reference": "hub/app:1", "began": 0, "ended": 9_000_000,
        "error": "", "rate_limit": "99 of 100 pulls left", "times": {"sync and make visible": 500_000},
        "exchanges": [EXCHANGE, REFUSED],
        "blobs": [
            {"role": "layer", "digest": f"sha256:{ID}", "size": 2_000_000, "media_type": "t", "fate": "downloaded",
             "times": {"network": 4_000_000, "unpack": 2_000_000}},
        ],
    }  # fmt: skip
    request = {"span_id": "s1", "parent_id": "", "method": "POST", "path": "/images/create", "status": 200}
    return {
        "trace_id": "cd" * 16,
        "requests": [{**request, "began": 0, "ended": 10_000_000}],
        "plans": [],
        "transfers": [{**transfer, **changes}],
    }


def text(data: dict[str, Any], choice: Choice) -> list[str]:
    return Explanation((tell(data, (), choice),)).text().splitlines()


def test_a_pull_with_times() -> None:
    assert text(trace(), Choice(Style())) == [
        "trace cdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcd  · 1 request",
        "└─ POST /images/create → 200  · 10.0 ms in the daemon",
        "   └─ pull hub/app:1  · 9.0 ms  · 99 of 100 pulls left",
        "      ├─ asked of the registry  · 2 requests",
        "      │  ├─ GET https://hub/v2/app/blobs/sha256:abababababab → no answer  · blob sha256:abababababab  · 4.5 ms"
        "  · connection refused",
        "      │  └─ GET https://hub/v2/app/blobs/sha256:abababababab → 206  · blob sha256:abababababab  · 3.5 ms",
        "      │     ├─ > Authorization: Bearer (hidden)",
        "      │     ├─ > Range: bytes=5-9",
        "      │     ├─ < Content-Range: bytes 5-9/10",
        "      │     └─ < RateLimit-Limit: 100;w=21600",
        "      └─ what became of each blob  · 1 blob",
        "         ├─ layer sha256:abababababab  · 2MB  · downloaded",
        "         │  ├─ network ████████████████████  · 4.0 ms",
        "         │  └─ unpack  ██████████  · 2.0 ms",
        "         └─ sync and make visible ████████████████████  · 0.5 ms",
    ]


def test_the_same_on_every_run() -> None:
    """Without times, IDs and the words of other programs."""
    told = text(trace(), Choice(Style(stable=True), times=False))
    assert told[3:5] == [
        "      ├─ asked of the registry  · 2 requests",
        "      │  ├─ GET https://hub/v2/app/blobs/sha256:… → no answer  · blob sha256:…",
    ]
    assert not [line for line in told if " ms" in line or "refused" in line or "█" in line]


def test_one_that_failed_says_why() -> None:
    told = text(trace(error="no space left on device", rate_limit=""), Choice(Style(), times=False))
    assert told[2] == "   └─ pull hub/app:1  · failed: no space left on device"


def test_a_choice_of_operations_leaves_it_out() -> None:
    assert len(text(trace(), Choice(Style(), only=frozenset(["mount"])))) == 1
