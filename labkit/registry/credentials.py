"""What `docker login` stored, as the command sends it with each request: X-Registry-Auth and X-Registry-Config.

Engine API, section Authentication: base64url of a JSON AuthConfig. The daemon stores none of it.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass, field
from typing import TypeVar

import msgspec

from labkit.errors import InvalidParameter

_HUB_SERVER = "https://index.docker.io/v1/"
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Credentials:
    """How to prove oneself to a registry: a password, an identity token (OAuth 2 refresh token) or a registry token.

    Empty ones are anonymous. What is secret doesn't show in the repr.
    """

    username: str = ""
    password: str = field(default="", repr=False)
    identity_token: str = field(default="", repr=False)
    registry_token: str = field(default="", repr=False)
    server: str = ""

    @property
    def basic(self) -> str:
        """The value of an Authorization header (RFC 7617); empty without a name and a password."""
        if not self.username and not self.password:
            return ""
        return "Basic " + base64.b64encode(f"{self.username}:{self.password}".encode()).decode()


ANONYMOUS = Credentials()


class _AuthConfig(msgspec.Struct, frozen=True):
    """The Engine API's `AuthConfig`."""

    username: str | None = None
    password: str | None = None
    auth: str | None = None
    serveraddress: str | None = None
    identitytoken: str | None = None
    registrytoken: str | None = None


def _credentials(config: _AuthConfig, server: str = "") -> Credentials:
    username, password = config.username or "", config.password or ""
    if config.auth and not username and not password:
        username, password = _pair(config.auth)
    return Credentials(
        username,
        password,
        config.identitytoken or "",
        config.registrytoken or "",
        config.serveraddress or server,
    )


def _pair(encoded: str) -> tuple[str, str]:
    """The name and password of an `auth` field, as the configuration file has it."""
    try:
        name, _, password = base64.b64decode(encoded, validate=True).decode().partition(":")
    except ValueError as error:  # not base64, or not UTF-8
        raise InvalidParameter("invalid auth configuration: the field auth isn't base64 of NAME:PASSWORD") from error
    return name, password.rstrip("\0")


def _decode(value: str, kind: type[_T], header: str) -> _T:
    """The JSON in a header. Its text is never repeated in the error: it holds a password."""
    bare = value.rstrip("=")
    try:
        document = base64.b64decode(bare + "=" * (-len(bare) % 4), b"-_", validate=True)
    except ValueError:
        raise InvalidParameter(f"invalid {header} header: it isn't base64url") from None
    try:
        return msgspec.json.decode(document or b"{}", type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise InvalidParameter(f"invalid {header} header: it doesn't hold the JSON of an AuthConfig") from None


def decode_auth(value: str) -> Credentials:
    """The credentials of an X-Registry-Auth header; anonymous where it is empty. Raises InvalidParameter."""
    return _credentials(_decode(value, _AuthConfig, "X-Registry-Auth"))


def decode_auth_body(document: bytes) -> Credentials:
    """The credentials in the body of `POST /auth`. Raises InvalidParameter."""
    try:
        return _credentials(msgspec.json.decode(document or b"{}", type=_AuthConfig))
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise InvalidParameter("invalid AuthConfig: it isn't the JSON of one") from None


def decode_config(value: str) -> dict[str, Credentials]:
    """The credentials of an X-Registry-Config header, by server. Raises InvalidParameter."""
    configs = _decode(value, dict[str, _AuthConfig], "X-Registry-Config")
    return {server: _credentials(config, server) for server, config in configs.items()}


def choose(configs: dict[str, Credentials], domain: str) -> Credentials:
    """Those for a registry among all that a client sent; Docker Hub's go by its old index's address."""
    wanted = _HUB_SERVER if domain == "docker.io" else domain
    for server, credentials in configs.items():
        if server == wanted or server.removeprefix("https://").removeprefix("http://").partition("/")[0] == domain:
            return credentials
    return ANONYMOUS
