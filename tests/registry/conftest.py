"""Registries that the tests of this folder talk to."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass

import pytest

from tests.support.registries import (
    Asked,
    KeyPair,
    Registry,
    Scripted,
    TokenServer,
    make_key_pair,
    running_registry,
    scripted,
)

Script = Callable[[Callable[[Asked], None]], Scripted]


@dataclass(frozen=True)
class TokenRegistry:
    """A real registry, and the token server that it sends its clients to."""

    registry: Registry
    tokens: TokenServer


@pytest.fixture(scope="session")
def key_pair(tmp_path_factory: pytest.TempPathFactory) -> KeyPair:
    return make_key_pair(tmp_path_factory.mktemp("keys"))


@pytest.fixture(scope="session")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    """A docker-registry that lets everybody in."""
    with running_registry(tmp_path_factory.mktemp("registry")) as running:
        yield running


@pytest.fixture(scope="session")
def secure_registry(tmp_path_factory: pytest.TempPathFactory, key_pair: KeyPair) -> Iterator[Registry]:
    """A docker-registry with TLS and a password."""
    with running_registry(tmp_path_factory.mktemp("secure"), key_pair, passwords=True) as running:
        yield running


@pytest.fixture(scope="session")
def token_registry(tmp_path_factory: pytest.TempPathFactory, key_pair: KeyPair) -> Iterator[TokenRegistry]:
    """A docker-registry that believes the tokens of a token server."""
    tokens = TokenServer(key_pair)
    with scripted(tokens.answer) as server:
        auth = tokens.auth(f"{server.url}/token")
        with running_registry(tmp_path_factory.mktemp("tokens"), auth=auth) as running:
            yield TokenRegistry(running, tokens)


@pytest.fixture
def script() -> Iterator[Script]:
    """Makes servers that answer what a test wants."""
    with ExitStack() as stack:
        yield lambda answer: stack.enter_context(scripted(answer))
