"""X-Registry-Auth and X-Registry-Config, as clients send them; secrets don't show."""

from __future__ import annotations

import base64
import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from labkit.errors import InvalidParameter
from labkit.registry.credentials import ANONYMOUS, Credentials, choose, decode_auth, decode_auth_body, decode_config


def encoded(value: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).decode()


@given(st.text(min_size=1), st.text(), st.booleans())
def test_a_header_comes_back_with_and_without_padding(username: str, password: str, padded: bool) -> None:
    header = encoded({"username": username, "password": password, "serveraddress": "r:5000", "email": "x"})
    found = decode_auth(header if padded else header.rstrip("="))
    assert found == Credentials(username, password, server="r:5000")


@pytest.mark.parametrize("header", ["", "e30=", "e30", encoded({"username": "", "password": None})])
def test_empty_is_anonymous(header: str) -> None:
    assert decode_auth(header) == ANONYMOUS


def test_tokens_and_the_old_field_auth() -> None:
    assert decode_auth(encoded({"identitytoken": "i"})) == Credentials(identity_token="i")
    assert decode_auth(encoded({"registrytoken": "r"})) == Credentials(registry_token="r")
    old = base64.b64encode(b"me:pass:word").decode()
    assert decode_auth(encoded({"auth": old})) == Credentials("me", "pass:word")


@pytest.mark.parametrize("header", ["!!!!", "e3", base64.urlsafe_b64encode(b"[1]").decode(), encoded({"auth": "%"})])
def test_malformed_is_refused(header: str) -> None:
    with pytest.raises(InvalidParameter):
        decode_auth(header)


@given(st.binary())
def test_whatever_comes_is_decoded_or_refused(data: bytes) -> None:
    for header in (base64.urlsafe_b64encode(data).decode(), data.decode("latin-1")):
        with contextlib.suppress(InvalidParameter):
            decode_auth(header)


def test_a_refusal_does_not_repeat_the_password() -> None:
    with pytest.raises(InvalidParameter) as raised:
        decode_auth(encoded({"username": "me", "password": ["hunter2"]}))
    assert "hunter2" not in str(raised.value)
    assert raised.value.__cause__ is None


def test_secrets_do_not_show() -> None:
    credentials = Credentials("me", "pass", "identity", "registry")
    assert repr(credentials) == "Credentials(username='me', server='')"


def test_the_body_of_a_login() -> None:
    assert decode_auth_body(b'{"username":"a","password":"b","serveraddress":"c"}') == Credentials("a", "b", server="c")
    with pytest.raises(InvalidParameter):
        decode_auth_body(b'"secret"')


def test_the_registry_of_many() -> None:
    config = {"https://index.docker.io/v1/": {"username": "hub"}, "r:5000": {"username": "r"}}
    config["https://other.example.com/v1/"] = {"username": "other"}
    found = decode_config(encoded(config))
    domains = ("docker.io", "r:5000", "other.example.com", "r:5001")
    assert [choose(found, domain).username for domain in domains] == ["hub", "r", "other", ""]


def test_basic_is_utf8() -> None:
    assert Credentials("ü", "ß:").basic == "Basic " + base64.b64encode("ü:ß:".encode()).decode()
    assert ANONYMOUS.basic == ""
