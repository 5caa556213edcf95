"""Pulls and pushes as they are told: every request, every blob, where the time went, and no secret."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from labkit.client import Client
from labkit.client.credentials import AuthConfig
from labkit.errors import NotFound
from labkit.explain import explain
from labkit.explain.choice import Choice
from labkit.explain.decode import Style
from labkit.explain.telling import tell
from labkit.explain.tree import Explanation
from tests.support.registries import PASSWORD, USER, TokenServer, make_key_pair, running_registry, scripted

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
        "      ├─ what became of each blob  · 1 blob",
        "      │  └─ layer sha256:abababababab  · 2MB  · downloaded",
        "      │     ├─ network ████████████████████  · 4.0 ms",
        "      │     └─ unpack  ██████████  · 2.0 ms",
        "      └─ where the time went",
        "         ├─ network               ████████████████████  · 4.0 ms",
        "         ├─ unpack                ██████████  · 2.0 ms",
        "         └─ sync and make visible ██  · 0.5 ms",
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


def test_requests_that_were_under_way_at_once_read_the_same_each_time() -> None:
    """Without times: those about layers by layer, whichever began first; all others where they were."""
    first, second = ("12" * 32, "34" * 32)
    blob = {"role": "layer", "size": 1, "media_type": "t", "fate": "uploaded", "times": {}}
    asked = ("manifests/1", f"blobs/{second}", f"uploads/?to={first}", f"uploads/?to={second}", "manifests/2")
    exchanges = [
        {**EXCHANGE, "url": f"http://r/{path}", "purpose": "", "began": began, "sent": [], "received": []}
        for began, path in enumerate(asked)
    ]
    blobs = [{**blob, "digest": first}, {**blob, "digest": second}]
    told = text(trace(exchanges=exchanges, blobs=blobs), Choice(Style(stable=True), times=False))
    assert [line.split("http://r/")[1].split(" ")[0] for line in told if "http://r/" in line] == [
        "manifests/1", "uploads/?to=…", "blobs/…", "uploads/?to=…", "manifests/2",
    ]  # fmt: skip


def test_what_moves_no_blobs_tells_of_none() -> None:
    told = text(trace(verb="login", blobs=[], times={}), Choice(Style()))
    assert not [line for line in told if "blob  " in line or "time went" in line]


def test_names_of_uploads_are_left_out_where_the_next_run_has_others() -> None:
    url = "http://r/v2/app/blobs/uploads/0b2c7d0e-1111-2222-3333-444455556666?_state=(hidden)"
    exchange = {**EXCHANGE, "url": url, "purpose": "blob"}
    told = text(trace(exchanges=[exchange], blobs=[]), Choice(Style(stable=True), times=False))
    assert "GET http://r/v2/app/blobs/uploads/…?_state=(hidden) → 206" in told[4]


@pytest.fixture
def tokens(tmp_path: Path) -> Iterator[str]:
    """A registry that wants tokens."""
    server = TokenServer(make_key_pair(tmp_path / "keys"))
    with (
        scripted(server.answer) as answering,
        running_registry(tmp_path / "registry", auth=server.auth(f"{answering.url}/token")) as registry,
    ):
        yield registry.host


def moved(client: Client, method: str, path: str, query: dict[str, str], auth: AuthConfig) -> str:
    """What is told of a pull or push, after it."""
    said = list(client.request(method, path, query, headers=auth.headers()).messages())
    assert "error" not in said[-1], said[-1]
    return explain(client, [], client.spans).text()


@pytest.mark.root
def test_a_push_and_a_pull_with_tokens(engine: str, tokens: str) -> None:
    name, auth = f"{tokens}/app", AuthConfig(USER, PASSWORD, serveraddress=tokens)
    with closing(Client(engine)) as client:
        client.post("/images/labbb/tag", {"repo": name, "tag": "1"})
        pushed = moved(client, "POST", f"/images/{name}/push", {"tag": "1"}, auth)
        client.request("DELETE", f"/images/{name}:1").body()
    with closing(Client(engine)) as client:
        pulled = moved(client, "POST", "/images/create", {"fromImage": name, "tag": "1"}, auth)
        assert explain(client, [name], ()).text() == explain(client, [f"{name}:1"], ()).text()
        with pytest.raises(NotFound, match="No trace of nosuch"):
            explain(client, ["nosuch:1"], ())
        client.request("DELETE", f"/images/{name}:1").body()
    for told in (pushed, pulled):
        assert "→ 401" in told
        assert "< WWW-Authenticate: Bearer realm=" in told
        assert f"> Authorization: Basic {USER}:(hidden)" in told
        assert "> Authorization: Bearer (hidden)" in told
        assert PASSWORD not in told
        assert "where the time went" in told
    assert "PUT " in pushed
    assert "compressed to" in pushed
    assert "skipped: already here" in pulled or "skipped: the image is here already" in pulled


@pytest.mark.root
def test_a_login_is_told_too_and_keeps_its_secret(engine: str, tokens: str) -> None:
    with closing(Client(engine)) as client:
        answer = client.post("/auth", body=AuthConfig(USER, PASSWORD, serveraddress=tokens).fields())
        told = explain(client, [], client.spans).text()
    assert answer == {"Status": "Login Succeeded", "IdentityToken": "identity"}
    assert f"login {tokens}" in told
    assert "POST /auth → 200" in told
    assert PASSWORD not in told
    assert "identity" not in told
