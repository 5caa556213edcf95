"""Proving oneself to a registry: challenges, Basic authentication, and the bearer tokens of Docker's token servers.

RFC 7235 (`WWW-Authenticate`), RFC 7617 (Basic), RFC 6750 (Bearer); the token protocol is that of the Distribution
project (distribution.github.io, "Token Authentication Specification" and "OAuth2 Token Authentication").
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

import msgspec

from labkit.errors import LabkitError, Unauthorized
from labkit.registry.credentials import Credentials
from labkit.registry.exchange import shown_url
from labkit.registry.faults import registry_error
from labkit.registry.transport import Answer, Request, origin

CLIENT_ID = "docker"
_TOKEN_LIMIT = 1 << 20  # bytes of a token server's answer
_SHORTEST = 60.0  # seconds that a token is good for at least, whatever its server says (as in the Distribution client)
_MARGIN = 5.0  # seconds before its end that a token isn't used any more
_TOKEN = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_PARAMETER = re.compile(rf'({_TOKEN})\s*=\s*(?:"((?:[^"\\]|\\.)*)"|({_TOKEN}))')
_SCHEME = re.compile(rf"({_TOKEN})(?:\s+([A-Za-z0-9._~+/-]+=*)(?=\s*(?:,|$)))?")

Send = Callable[[Request], Answer]


@dataclass(frozen=True, slots=True)
class Challenge:
    """One way in that a server offers: the scheme and the names of the parameters are in lower case."""

    scheme: str
    parameters: dict[str, str] = field(default_factory=dict)


def parse_challenges(values: Iterable[str]) -> tuple[Challenge, ...]:
    """The challenges of WWW-Authenticate headers, each of which may hold several. What is malformed ends its header."""
    return tuple(challenge for value in values for challenge in _parse(value))


def _parse(value: str) -> list[Challenge]:
    found: list[Challenge] = []
    at = 0
    while at < len(value):
        if value[at] in " \t,":
            at += 1
        elif found and (parameter := _PARAMETER.match(value, at)):
            name, quoted, plain = parameter.groups()
            said = plain if quoted is None else re.sub(r"\\(.)", r"\1", quoted)
            found[-1].parameters.setdefault(name.lower(), said)
            at = parameter.end()
        elif scheme := _SCHEME.match(value, at):
            found.append(Challenge(scheme[1].lower()))
            at = scheme.end()
        else:
            break
    return found


def merge_scopes(scopes: Iterable[str]) -> tuple[str, ...]:
    """The scopes with one entry for each resource: `repository:a:pull` and `repository:a:push` are `…:pull,push`."""
    actions: dict[str, list[str]] = {}
    for scope in scopes:
        resource, _, wanted = scope.rpartition(":")
        known = actions.setdefault(resource, [])
        known.extend(action for action in wanted.split(",") if action not in known)
    return tuple(f"{resource}:{','.join(wanted)}" for resource, wanted in actions.items())


class _TokenAnswer(msgspec.Struct, frozen=True):
    """What a token server says; `access_token` is the name in OAuth 2."""

    token: str = ""
    access_token: str = ""
    expires_in: float = 0
    refresh_token: str = ""


@dataclass(frozen=True, slots=True)
class Token:
    """A bearer token; `until` is on the monotonic clock. `identity` is the refresh token of a login."""

    value: str = field(repr=False)
    until: float
    identity: str = field(default="", repr=False)


class Authorizer:
    """The authorization for one endpoint: what it asks for, and the tokens at hand. Safe for many threads."""

    def __init__(self, url: str, credentials: Credentials, send: Send, clock: Callable[[], float] = time.monotonic):
        self._url = url
        self._credentials = credentials
        self._send = send
        self._clock = clock
        self._lock = threading.Lock()
        self._basic = ""
        self._tokens: dict[tuple[str, ...], Token] = {}
        self._challenge: Challenge | None = None

    def known(self, scopes: tuple[str, ...]) -> str:
        """The header's value for a request; empty as long as the endpoint hasn't asked for any.

        A token that has run out is renewed. Raises what `answer` raises.
        """
        with self._lock:
            if self._credentials.registry_token:
                return f"Bearer {self._credentials.registry_token}"
            if self._challenge is None or self._basic:
                return self._basic
            return self._bearer(self._challenge, scopes)

    def answer(self, challenges: tuple[Challenge, ...], scopes: tuple[str, ...], used: str) -> str:
        """The header's value that meets a challenge; empty if there is nothing (else) than what was `used` to try.

        Raises Unauthorized where credentials are missing or the token server refuses them.
        """
        with self._lock:
            if self._credentials.registry_token:
                return ""  # it was used, and there is no other
            for challenge in challenges:
                if challenge.scheme == "bearer":
                    self._challenge = challenge
                    return self._fresh_bearer(challenge, scopes, used)
                if challenge.scheme == "basic":
                    return self._first_basic(used)
            return ""

    def login(self, challenges: tuple[Challenge, ...]) -> tuple[str, str]:
        """The header's value that proves a login, and the identity token if the server gives one."""
        for challenge in challenges:
            if challenge.scheme == "bearer":
                token = self._fetch(challenge, (), offline=True)
                return f"Bearer {token.value}", token.identity
            if challenge.scheme == "basic":
                return self._first_basic(""), ""
        return "", ""

    def _first_basic(self, used: str) -> str:
        if not self._credentials.basic:
            raise Unauthorized("no basic auth credentials")
        self._basic = self._credentials.basic
        return "" if used == self._basic else self._basic

    def _fresh_bearer(self, challenge: Challenge, scopes: tuple[str, ...], used: str) -> str:
        """A token that isn't the one that was refused; another thread may have got it meanwhile."""
        current = self._tokens.get(scopes)
        if current and used not in ("", f"Bearer {current.value}") and current.until > self._clock():
            return f"Bearer {current.value}"
        if current and used == f"Bearer {current.value}":
            del self._tokens[scopes]
        value = self._bearer(challenge, scopes)
        return "" if value == used else value

    def _bearer(self, challenge: Challenge, scopes: tuple[str, ...]) -> str:
        token = self._tokens.get(scopes)
        if token is None or token.until <= self._clock():
            wanted = merge_scopes((*scopes, *challenge.parameters.get("scope", "").split()))
            token = self._tokens[scopes] = self._fetch(challenge, wanted)
        return f"Bearer {token.value}"

    def _fetch(self, challenge: Challenge, scopes: tuple[str, ...], offline: bool = False) -> Token:
        """Asks the token server."""
        realm = challenge.parameters.get("realm", "")
        if not realm:
            raise Unauthorized("no realm specified for token auth challenge")
        if origin(realm)[0] == "http" and origin(self._url)[0] == "https":
            raise Unauthorized(f"refusing to ask the token server {shown_url(realm)}: it isn't encrypted")
        service = challenge.parameters.get("service", "")
        make = _oauth_request if self._credentials.identity_token else _basic_request
        with self._send(make(realm, service, scopes, self._credentials, offline)) as answer:
            if answer.status != 200:
                raise registry_error(answer)
            body = answer.read(_TOKEN_LIMIT, "the token server's answer")
        return self._token(body)

    def _token(self, body: bytes) -> Token:
        try:
            said = msgspec.json.decode(body, type=_TokenAnswer, strict=False)
        except (msgspec.DecodeError, UnicodeDecodeError):
            raise LabkitError("unable to decode token response: it isn't the JSON of one") from None
        value = said.token or said.access_token
        if not value or not value.isascii() or not value.isprintable():
            raise Unauthorized("authorization server did not include a token in the response")
        return Token(value, self._clock() + max(said.expires_in, _SHORTEST) - _MARGIN, said.refresh_token)


def _basic_request(
    realm: str, service: str, scopes: tuple[str, ...], credentials: Credentials, offline: bool
) -> Request:
    """GET with the password, if there is one."""
    parts = urlsplit(realm)
    query = parse_qsl(parts.query, keep_blank_values=True)
    query += [("service", service)] if service else []
    query += [("scope", scope) for scope in scopes]
    query += [("offline_token", "true"), ("client_id", CLIENT_ID)] if offline else []
    query += [("account", credentials.username)] if credentials.username else []
    url = urlunsplit((parts.scheme, parts.netloc, parts.path, urlencode(query), ""))
    headers = {"Authorization": credentials.basic} if credentials.basic else {}
    return Request("GET", url, "ask the token server for a token", headers)


def _oauth_request(
    realm: str, service: str, scopes: tuple[str, ...], credentials: Credentials, offline: bool
) -> Request:
    """POST with the identity token of an earlier login."""
    form = {"grant_type": "refresh_token", "service": service, "client_id": CLIENT_ID, "scope": " ".join(scopes)}
    body = urlencode({**form, "refresh_token": credentials.identity_token}).encode()
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    return Request("POST", realm, "ask the token server for a token", headers, body)
