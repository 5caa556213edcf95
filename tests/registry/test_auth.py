"""Challenges, tokens and their cache; against docker-registry with passwords and with a token server."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from hypothesis import given
from hypothesis import strategies as st

from labkit.errors import LabkitError, NotFound, Unauthorized
from labkit.images.references import parse
from labkit.registry.auth import Authorizer, Challenge, merge_scopes, parse_challenges
from labkit.registry.cancelling import Cancelled
from labkit.registry.credentials import ANONYMOUS, Credentials
from labkit.registry.endpoints import Endpoint
from labkit.registry.exchange import Exchange
from labkit.registry.repository import Repository
from labkit.registry.transport import Patience, Transport
from tests.registry.conftest import Script, TokenRegistry
from tests.registry.pushing import push_small
from tests.support.registries import PASSWORD, USER, Asked, Registry

QUICK = Patience(connect=5, read=5, attempts=3, pause=0.01)
WRONG = Credentials(USER, "wrong")
RIGHT = Credentials(USER, PASSWORD)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("Basic realm=x", [Challenge("basic", {"realm": "x"})]),
        (
            'Bearer realm="https://a/t?x=1,2",service="s",scope="repository:a:pull,push"',
            [Challenge("bearer", {"realm": "https://a/t?x=1,2", "service": "s", "scope": "repository:a:pull,push"})],
        ),
        (
            'Basic realm="a", Bearer REALM="b" , ',
            [Challenge("basic", {"realm": "a"}), Challenge("bearer", {"realm": "b"})],
        ),
        (r'Basic realm="say \"hi\" \\"', [Challenge("basic", {"realm": r'say "hi" \\'[:-1]})]),
        ("Negotiate abc==, Basic realm=x", [Challenge("negotiate"), Challenge("basic", {"realm": "x"})]),
        ("Negotiate, Basic realm = x", [Challenge("negotiate"), Challenge("basic", {"realm": "x"})]),
        ("", []),
        ('"', []),
    ],
)  # fmt: skip
def test_challenges(value: str, expected: list[Challenge]) -> None:
    assert list(parse_challenges([value])) == expected


@given(st.lists(st.text(max_size=200), max_size=3))
def test_any_header_is_parsed(values: list[str]) -> None:
    for challenge in parse_challenges(values):
        assert challenge.scheme == challenge.scheme.lower()


@given(
    st.dictionaries(st.from_regex(r"[a-z]{1,8}", fullmatch=True), st.text(alphabet='ab \\",=', max_size=9), min_size=1)
)
def test_quoted_parameters_come_back(parameters: dict[str, str]) -> None:
    escaped = {name: value.replace("\\", "\\\\").replace('"', '\\"') for name, value in parameters.items()}
    header = "Bearer " + ", ".join(f'{name}="{value}"' for name, value in escaped.items())
    assert parse_challenges([header]) == (Challenge("bearer", parameters),)


def test_scopes_of_one_resource_are_one() -> None:
    scopes = ("repository:a:pull", "repository:b:pull", "repository:a:pull,push", "repository:h:1/x:pull")
    assert merge_scopes(scopes) == ("repository:a:pull,push", "repository:b:pull", "repository:h:1/x:pull")


def asked_tokens(seen: list[Exchange]) -> list[Exchange]:
    return [exchange for exchange in seen if "/token?" in exchange.url]


def test_a_password_opens_a_registry(secure_registry: Registry) -> None:
    seen: list[Exchange] = []
    reference = parse(f"{secure_registry.host}/auth/app:1")
    document = push_small(reference, RIGHT)
    with Repository(reference, credentials=RIGHT, observe=seen.append) as repository:
        assert repository.manifest("1").body == document
        assert repository.tags() == ["1"]
    assert [exchange.status for exchange in seen] == [401, 200, 200]
    assert dict(seen[0].received)["WWW-Authenticate"] == 'Basic realm="test"'
    assert dict(seen[1].sent)["Authorization"] == f"Basic {USER}:(hidden)"
    assert PASSWORD not in str(seen)


def test_without_a_password(secure_registry: Registry) -> None:
    with Repository(parse(f"{secure_registry.host}/auth/app")) as repository, pytest.raises(Unauthorized) as raised:
        repository.manifest("1")
    assert str(raised.value) == "no basic auth credentials"


def test_a_wrong_password_is_tried_once(secure_registry: Registry) -> None:
    seen: list[Exchange] = []
    with (
        Repository(parse(f"{secure_registry.host}/auth/app"), credentials=WRONG, observe=seen.append) as repository,
        pytest.raises(Unauthorized) as raised,
    ):
        repository.manifest("1")
    assert str(raised.value) == "unauthorized: authentication required"
    assert len(seen) == 2


def test_a_token_opens_a_registry_and_is_kept(token_registry: TokenRegistry) -> None:
    reference = parse(f"{token_registry.registry.host}/tokens/app:1")
    document = push_small(reference, RIGHT)
    seen: list[Exchange] = []
    with Repository(reference, credentials=RIGHT, observe=seen.append) as repository:
        assert repository.manifest("1").body == document
        assert repository.tags() == ["1"]
    (token,) = asked_tokens(seen)
    query = token_registry.tokens.asked[-1].query
    assert query == {"service": ["test-registry"], "scope": ["repository:tokens/app:pull"], "account": [USER]}
    assert dict(token.sent)["Authorization"] == f"Basic {USER}:(hidden)"
    assert "Bearer (hidden)" in str(seen)


def test_anonymous_may_pull_and_not_push(token_registry: TokenRegistry) -> None:
    reference = parse(f"{token_registry.registry.host}/tokens/app:1")
    document = push_small(reference, RIGHT)
    with Repository(reference) as repository:
        assert repository.manifest("1").body == document
    with pytest.raises(LabkitError, match=r"^denied: requested access to the resource is denied$"):
        push_small(reference, ANONYMOUS, name=b"another")


def test_an_identity_token_is_exchanged(token_registry: TokenRegistry) -> None:
    reference = parse(f"{token_registry.registry.host}/tokens/identity:1")
    document = push_small(reference, Credentials(identity_token="identity"))
    with Repository(reference, credentials=Credentials(identity_token="identity")) as repository:
        assert repository.manifest("1").body == document
    seen = token_registry.tokens.asked[-1]
    assert seen.method == "POST"
    assert b"grant_type=refresh_token" in seen.body
    assert b"scope=repository%3Atokens%2Fidentity%3Apull" in seen.body


def test_the_token_server_refuses(token_registry: TokenRegistry) -> None:
    reference = parse(f"{token_registry.registry.host}/tokens/app:1")
    with Repository(reference, credentials=WRONG) as repository, pytest.raises(Unauthorized) as raised:
        repository.manifest("1")
    assert str(raised.value) == "unauthorized: incorrect username or password"


def test_a_registry_token_is_used_as_it_is(token_registry: TokenRegistry) -> None:
    reference = parse(f"{token_registry.registry.host}/tokens/ready:1")
    document = push_small(reference, RIGHT)
    token = token_registry.tokens.token(["repository:tokens/ready:pull"], all_of_them=True)
    seen: list[Exchange] = []
    with Repository(reference, credentials=Credentials(registry_token=token), observe=seen.append) as repository:
        assert repository.manifest("1").body == document
    assert [exchange.status for exchange in seen if exchange.status] == [200]
    with (
        Repository(reference, credentials=Credentials(registry_token="no.such.token")) as repository,
        pytest.raises(Unauthorized),
    ):
        repository.manifest("1")


def unbelieving(asked: Asked) -> None:
    """A registry that gives tokens and never believes them."""
    if asked.path.startswith("/token"):
        return asked.say(200, b'{"token": "t"}')
    realm = f"http://{asked.headers['Host']}/token"
    return asked.say(401, b"{}", WWW_Authenticate=f'Bearer realm="{realm}",service="s"')


def test_a_401_without_end_ends(script: Script) -> None:
    server = script(unbelieving)
    with Repository(parse(f"{server.host}/a/b"), patience=QUICK) as repository, pytest.raises(Unauthorized) as raised:
        repository.manifest("1")
    assert str(raised.value) == "unauthorized: authentication required"
    paths = [seen.path.partition("?")[0] for seen in server.seen if seen.path.startswith("/")]
    assert paths == ["/v2/a/b/manifests/1", "/token", "/v2/a/b/manifests/1"]


def test_insufficient_scope_is_dockers_denied(script: Script) -> None:
    def answer(asked: Asked) -> None:
        if asked.path.startswith("/token"):
            return asked.say(200, b'{"access_token": "t"}')
        realm = f"http://{asked.headers['Host']}/token"
        error = ',error="insufficient_scope"' if asked.headers["Authorization"] else ""
        fault = b'{"errors":[{"code":"UNAUTHORIZED","message":"authentication required"}]}'
        return asked.say(401, fault, WWW_Authenticate=f'Bearer realm="{realm}",service="s"{error}')

    server = script(answer)
    with Repository(parse(f"{server.host}/a/b"), patience=QUICK) as repository, pytest.raises(NotFound) as raised:
        repository.manifest("1")
    assert str(raised.value) == (
        f"pull access denied for {server.host}/a/b, repository does not exist or may require 'docker login': "
        "denied: requested access to the resource is denied"
    )


@contextmanager
def authorizer(url: str, credentials: Credentials, clock: list[float]) -> Iterator[Authorizer]:
    transport = Transport(Endpoint(url), lambda exchange: None, Cancelled(), patience=QUICK)
    try:
        yield Authorizer(url, credentials, transport.send, lambda: clock[0])
    finally:
        transport.close()


def test_tokens_are_kept_by_scope_until_they_run_out(script: Script) -> None:
    server = script(
        lambda asked: asked.say(200, json.dumps({"token": f"t{len(server.seen)}", "expires_in": 300}).encode())
    )
    clock = [0.0]
    challenge = Challenge("bearer", {"realm": f"{server.url}/token", "service": "s"})
    with authorizer(server.url, ANONYMOUS, clock) as known:
        assert known.known(("a:pull",)) == ""
        assert known.answer((challenge,), ("a:pull",), "") == "Bearer t1"
        assert known.known(("a:pull",)) == "Bearer t1"
        assert known.known(("b:pull",)) == "Bearer t2"
        clock[0] = 294
        assert known.known(("a:pull",)) == "Bearer t1"
        clock[0] = 296
        assert known.known(("a:pull",)) == "Bearer t3"
        assert known.answer((challenge,), ("a:pull",), "Bearer t1") == "Bearer t3", "another thread got a new one"
        assert known.answer((challenge,), ("a:pull",), "Bearer t3") == "Bearer t4", "a token that is refused is renewed"


def test_many_threads_ask_for_one_token(script: Script) -> None:
    server = script(lambda asked: asked.say(200, b'{"token": "t"}'))
    challenge = Challenge("bearer", {"realm": f"{server.url}/token"})
    found: list[str] = []
    with authorizer(server.url, ANONYMOUS, [0.0]) as known:
        threads = [
            threading.Thread(target=lambda: found.append(known.answer((challenge,), ("a:pull",), ""))) for _ in range(8)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert found == ["Bearer t"] * 8
    assert len(server.seen) == 1


@pytest.mark.parametrize("realm", ["", "file:///etc/passwd", "ftp://x/", "http://token.example.com/token"])
def test_credentials_go_to_no_odd_realm(realm: str) -> None:
    with authorizer("https://r.example.com", RIGHT, [0.0]) as known, pytest.raises(LabkitError) as raised:
        known.answer((Challenge("bearer", {"realm": realm}),), (), "")
    assert raised.value.status in (401, 403)


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"{}", b'{"token": ""}', b'{"token": "a\\r\\nX: y"}', b'{"token": "' + b"x" * (2 << 20)]
)
def test_a_token_server_that_talks_nonsense(script: Script, body: bytes) -> None:
    server = script(lambda asked: asked.say(200, body))
    with authorizer(server.url, ANONYMOUS, [0.0]) as known, pytest.raises(LabkitError):
        known.answer((Challenge("bearer", {"realm": f"{server.url}/token"}),), (), "")
