"""Search and login: real registries, and a stand-in for Docker Hub's index."""

from __future__ import annotations

import json

import pytest

from labkit.errors import InvalidParameter, LabkitError, Unauthorized, Unavailable
from labkit.images.references import parse
from labkit.registry import searching
from labkit.registry.credentials import Credentials
from labkit.registry.endpoints import Settings
from labkit.registry.exchange import Exchange
from labkit.registry.searching import SearchResult, login, search, server_domain, split_term
from labkit.registry.transport import Patience
from tests.registry.conftest import Script, TokenRegistry
from tests.registry.pushing import push_small
from tests.support.registries import PASSWORD, USER, Asked, Registry

QUICK = Patience(connect=5, read=5, attempts=2, pause=0.001)
RIGHT, WRONG = Credentials(USER, PASSWORD), Credentials(USER, "wrong")
FOUND = [
    {"name": "nginx", "description": "web", "is_official": True, "is_automated": False, "star_count": 100},
    {"name": "me/nginx", "description": None, "star_count": 3},
]  # fmt: skip


@pytest.mark.parametrize(
    ("term", "expected"),
    [
        ("nginx", ("docker.io", "nginx")),
        ("library/nginx", ("docker.io", "nginx")),
        ("me/nginx", ("docker.io", "me/nginx")),
        ("docker.io/nginx", ("docker.io", "nginx")),
        ("localhost/nginx", ("localhost", "nginx")),
        ("r:5000/a/b", ("r:5000", "a/b")),
    ],
)
def test_what_is_searched_where(term: str, expected: tuple[str, str]) -> None:
    assert split_term(term) == expected


@pytest.mark.parametrize(
    ("limit", "filters", "message"),
    [
        (101, {}, "limit 101 is outside the range of [1, 100]"),
        (-1, {}, "limit -1 is outside the range of [1, 100]"),
        (0, {"foo": ["bar"]}, "invalid filter 'foo'"),
        (0, {"stars": ["many"]}, "invalid filter 'stars=many'"),
        (0, {"is-official": ["a"]}, "invalid filter 'is-official=[a]'"),
    ],
)
def test_what_is_no_search(limit: int, filters: dict[str, list[str]], message: str) -> None:
    with pytest.raises(InvalidParameter) as raised:
        search("x", limit, filters)
    assert str(raised.value) == message


def test_a_url_is_no_term() -> None:
    with pytest.raises(InvalidParameter, match=r"repository name \(https://r/x\) should not have a scheme"):
        search("https://r/x")


@pytest.mark.parametrize(
    ("filters", "names"),
    [
        ({}, ["nginx", "me/nginx"]),
        ({"stars": ["3", "50"]}, ["nginx"]),
        ({"is-official": ["false"]}, ["me/nginx"]),
        ({"is-automated": ["true"]}, []),
    ],
)
def test_hubs_index(
    script: Script, monkeypatch: pytest.MonkeyPatch, filters: dict[str, list[str]], names: list[str]
) -> None:
    server = script(lambda asked: asked.say(200, json.dumps({"num_results": 2, "results": FOUND}).encode()))
    monkeypatch.setattr(searching, "_INDEX", server.host)
    found = search("nginx & co", 7, filters, patience=QUICK)
    assert [result.name for result in found] == names
    assert server.seen[-1].query == {"q": ["nginx & co"], "n": ["7"]}


def test_hub_is_away_and_a_mirror_has_a_catalogue(registry: Registry) -> None:
    push_small(parse(f"{registry.host}/library/searched:1"))
    push_small(parse(f"{registry.host}/me/searched:1"))
    settings = Settings(mirrors=(f"http://{registry.host}",), certs=())
    found = search("searched", settings=settings, patience=QUICK)
    assert found == [SearchResult("searched", is_official=True), SearchResult("me/searched")]


def test_hub_is_away_and_there_is_no_mirror(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(searching, "_INDEX", "index.invalid")
    with pytest.raises(Unavailable, match=r'^Get "https://index\.invalid/v2/": dial tcp: lookup index\.invalid'):
        search("nginx", patience=QUICK)


def test_the_catalogue_of_a_registry_without_search(registry: Registry) -> None:
    push_small(parse(f"{registry.host}/catalogued/app:1"))
    found = search(f"{registry.host}/CATALOGUED", patience=QUICK)
    assert found == [SearchResult(f"{registry.host}/catalogued/app")]
    assert search(f"{registry.host}/nothing-like-it", patience=QUICK) == []


@pytest.mark.parametrize("body", [b"", b"[]", b'{"results": [1]}'])
def test_results_that_are_none(script: Script, body: bytes) -> None:
    server = script(lambda asked: asked.say(200, body))
    with pytest.raises(LabkitError, match="can't be read"):
        search(f"{server.host}/x", patience=QUICK)


@pytest.mark.parametrize(
    ("server", "domain"),
    [("", "docker.io"), ("https://index.docker.io/v1/", "docker.io"), ("docker.io", "docker.io"), ("r:5000", "r:5000"),
     ("https://r.example.com/v2/", "r.example.com"), ("localhost", "localhost")],
)  # fmt: skip
def test_the_server_of_a_login(server: str, domain: str) -> None:
    assert server_domain(server) == domain


def test_login_with_a_password(secure_registry: Registry) -> None:
    assert login(secure_registry.host, RIGHT, patience=QUICK) == ("Login Succeeded", "")
    with pytest.raises(Unauthorized) as raised:
        login(secure_registry.host, WRONG, patience=QUICK)
    url = f"https://{secure_registry.host}/v2/"
    assert str(raised.value) == f"login attempt to {url} failed with status: 401 Unauthorized"


def test_login_where_nobody_asks(registry: Registry) -> None:
    assert login(f"http://{registry.host}", RIGHT, patience=QUICK) == ("Login Succeeded", "")


def test_login_for_an_identity_token(token_registry: TokenRegistry) -> None:
    host = token_registry.registry.host
    seen: list[Exchange] = []
    assert login(host, RIGHT, observe=seen.append, patience=QUICK) == ("Login Succeeded", "identity")
    assert token_registry.tokens.asked[-1].query["offline_token"] == ["true"]
    assert login(host, Credentials(identity_token="identity"), patience=QUICK)[0] == "Login Succeeded"
    with pytest.raises(Unauthorized) as raised:
        login(host, WRONG, patience=QUICK)
    assert str(raised.value) == f'Get "http://{host}/v2/": unauthorized: incorrect username or password'
    assert PASSWORD not in str(seen)
    assert "identity" not in str([told.received for told in seen])


def test_login_at_what_is_no_registry(script: Script) -> None:
    def answer(asked: Asked) -> None:
        asked.say(404)

    server = script(answer)
    with pytest.raises(LabkitError, match="received unexpected HTTP status: 404 Not Found"):
        login(server.host, RIGHT, patience=QUICK)
