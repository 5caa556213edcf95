"""What `docker login` keeps on the client's side: `~/.docker/config.json` and credential helpers.

The file is Docker's own (docker/cli `cli/config`), so that one login serves `docker` and `labkit`; programs named
docker-credential-NAME keep secrets elsewhere (docker-credential-helpers: an action as argument, JSON on the streams).
The engine stores nothing: credentials go with each request, as X-Registry-Auth. Imported by what needs a registry only.
"""

from __future__ import annotations

import base64
import binascii
import json
import os
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from labkit.errors import InvalidParameter, LabkitError

HUB_SERVER = "https://index.docker.io/v1/"
"""Under which name Docker Hub's credentials are kept: the address of its first API."""
_TOKEN_USER = "<token>"  # in place of a name, where a helper keeps an identity token
_UNKNOWN_TO_HELPER = "credentials not found in native keychain"


class AuthConfig(NamedTuple):
    """Who one is at a registry (Engine API `AuthConfig`). Its secrets don't show in the repr."""

    username: str = ""
    password: str = ""
    identitytoken: str = ""
    registrytoken: str = ""
    serveraddress: str = ""

    def __repr__(self) -> str:
        return f"AuthConfig(username={self.username!r}, serveraddress={self.serveraddress!r})"

    @property
    def is_anonymous(self) -> bool:
        return not any(self[:4])

    def fields(self) -> dict[str, str]:
        """The fields that aren't empty."""
        return {name: value for name, value in zip(self._fields, self, strict=True) if value}

    def headers(self) -> dict[str, str]:
        """The header that shows a request's credentials; none for the anonymous."""
        if self.is_anonymous:
            return {}
        return {"X-Registry-Auth": base64.urlsafe_b64encode(json.dumps(self.fields()).encode()).decode()}


class HelperError(LabkitError):
    """A credential helper is missing or failed, in the words of docker-credential-helpers."""


def server_of(image: str) -> str:
    """The name under which the credentials for an image's (or a search term's) registry are kept."""
    first, slash, _ = image.partition("/")
    is_host = slash and ("." in first or ":" in first or first == "localhost" or first.lower() != first)
    return HUB_SERVER if not is_host or first in ("docker.io", "index.docker.io") else first


def hostname(server: str) -> str:
    """The host (and port) of a server's name, which older versions of Docker wrote as a URL."""
    return server.partition("://")[2].partition("/")[0] if "://" in server else server.partition("/")[0]


def directory() -> str:
    """Where Docker's client keeps its configuration; empty where there is no home."""
    if chosen := os.environ.get("DOCKER_CONFIG"):
        return chosen
    home = os.environ.get("HOME") or _home_of_user()
    return os.path.join(home, ".docker") if home else ""


def _home_of_user() -> str:
    import pwd

    try:
        return pwd.getpwuid(os.getuid()).pw_dir
    except KeyError:
        return ""  # a user of a container, whom the machine doesn't know


class Configuration:
    """The configuration file as it is. `problem` says in Docker's words why it can't be read, where that is so."""

    def __init__(self, path: str, document: dict[str, Any], problem: str = "") -> None:
        self.path = path
        self.problem = problem
        self._document = document

    def get(self, server: str) -> AuthConfig:
        """The credentials for a server; anonymous if there are none. HelperError if its helper fails."""
        kept = self._kept(server)
        helper = self._helper(server)
        if not helper:
            return kept
        found = _Helper(helper).get(server)
        if found.is_anonymous:
            return kept._replace(username="", password="", identitytoken="")
        return found._replace(registrytoken=kept.registrytoken)

    def store(self, auth: AuthConfig) -> bool:
        """Keeps credentials; True if that put a password into the file. LabkitError if they can't be kept."""
        helper = self._helper(auth.serveraddress)
        if helper:
            _Helper(helper).store(auth)
            self._write(auth.serveraddress, {})
            return False
        if self._auths.get(auth.serveraddress) == _entry(auth):
            return False  # as it was
        self._write(auth.serveraddress, _entry(auth))
        return bool(auth.password)

    def erase(self, server: str) -> None:
        """Forgets a server's credentials. LabkitError if they can't be forgotten."""
        helper = self._helper(server)
        if helper:
            _Helper(helper).erase(server)
        if server in self._auths:
            self._write(server, None)

    def servers(self) -> list[str]:
        """The servers that credentials are kept for."""
        return sorted({*self._auths, *(self._document.get("credHelpers") or {})})

    @property
    def _auths(self) -> dict[str, Any]:
        return self._document.get("auths") or {}

    def _kept(self, server: str) -> AuthConfig:
        """What the file itself has for a server, or for a URL on it."""
        legacy = (kept for name, kept in self._auths.items() if hostname(name) == server)
        entry: dict[str, Any] = self._auths.get(server) or next(legacy, {})
        user, password = _decoded(entry.get("auth") or "")
        tokens = (entry.get("identitytoken") or "", entry.get("registrytoken") or "")
        username, password = entry.get("username") or user, entry.get("password") or password
        return AuthConfig(username, password, *tokens, serveraddress=server)

    def _helper(self, server: str) -> str:
        helpers, store = self._document.get("credHelpers") or {}, self._document.get("credsStore") or ""
        is_blank = not helpers and not store and not self._auths and not self.problem
        return _default_store() if is_blank else str(helpers.get(server) or store)

    def _write(self, server: str, entry: Mapping[str, Any] | None) -> None:
        """Puts an entry into the file, or takes it out, leaving all that we don't know as it is."""
        if self.problem:
            raise InvalidParameter(f"{self.path} is left as it is: {self.problem}. Mend it, or take it away")
        if not self.path:
            raise InvalidParameter("there is no home directory to keep credentials in: set HOME or DOCKER_CONFIG")
        auths = {name: kept for name, kept in self._auths.items() if name != server}
        if entry is not None:
            auths[server] = dict(entry)
        self._document["auths"] = dict(sorted(auths.items()))
        _replace(self.path, json.dumps(self._document, indent="\t", ensure_ascii=False))


def _entry(auth: AuthConfig) -> dict[str, str]:
    """Credentials as the file has them; an identity token stands instead of the password."""
    pair = f"{auth.username}:{auth.password}" if auth.username or auth.password else ""
    fields = {"auth": base64.b64encode(pair.encode()).decode(), "identitytoken": auth.identitytoken}
    return {name: value for name, value in (fields | {"registrytoken": auth.registrytoken}).items() if value}


def _decoded(auth: str) -> tuple[str, str]:
    """Name and password. ValueError in Docker's words if they aren't there."""
    if not auth:
        return "", ""
    try:
        user, colon, password = base64.b64decode(auth, validate=True).decode().partition(":")
    except binascii.Error as error:
        wrong = re.search(r"[^A-Za-z0-9+/]", auth)
        raise ValueError(f"illegal base64 data at input byte {wrong.start() if wrong else len(auth)}") from error
    if not colon or not user:
        raise ValueError("Invalid auth configuration file")
    return user, password.strip("\0")


def _default_store() -> str:
    """The helper that Docker uses where the file names none, and holds no credentials."""
    from shutil import which

    name = "pass" if which("pass") else "secretservice"
    return name if which(f"docker-credential-{name}") else ""


def load() -> Configuration:
    """The configuration; an empty one if there is none, or (with its `problem`) if it can't be read."""
    folder = directory()
    path = os.path.join(folder, "config.json") if folder else ""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            text = file.read()
    except FileNotFoundError:
        return Configuration(path, {})
    except OSError as error:
        return Configuration(path, {}, f"Error loading config file: open {path}: {(error.strerror or '').lower()}")
    try:
        return Configuration(path, _checked(_parsed(text)))
    except ValueError as error:
        return Configuration(path, {}, f"Error parsing config file ({path}): {error}")


_GO_SYNTAX = {
    "Expecting property name": "looking for beginning of object key string",
    "Expecting value": "looking for beginning of value",
    "Expecting ':'": "after object key",
    "Expecting ','": "after object key:value pair",
}


def _parsed(text: str) -> Any:
    """The JSON at the start of the text; nothing is an empty configuration. ValueError in the words of Go's reader."""
    text = text.strip()
    try:
        return json.JSONDecoder().raw_decode(text)[0] if text else {}
    except json.JSONDecodeError as error:
        where = next((told for said, told in _GO_SYNTAX.items() if error.msg.startswith(said)), "")
        if error.pos >= len(text) or error.msg.startswith("Unterminated"):
            raise ValueError("unexpected EOF") from error
        raise ValueError(f"invalid character '{text[error.pos]}' {where or 'in string'}") from error


def _checked(document: Any) -> dict[str, Any]:
    """The document, if it has the shape of a configuration file. ValueError otherwise."""
    if not isinstance(document, dict):
        raise ValueError(f"json: cannot unmarshal {_go_kind(document)} into Go value of type configfile.ConfigFile")
    for name in ("auths", "credHelpers"):
        if not isinstance(members := document.get(name), dict | None):
            raise ValueError(f"json: cannot unmarshal {_go_kind(members)} into Go struct field ConfigFile.{name}")
    for entry in (document.get("auths") or {}).values():
        if not isinstance(entry, dict):
            kind = _go_kind(entry)
            raise ValueError(
                f"json: cannot unmarshal {kind} into Go struct field ConfigFile.auths of type types.AuthConfig"
            )
        if not all(isinstance(entry.get(name) or "", str) for name in ("auth", *AuthConfig._fields)):
            raise ValueError("json: cannot unmarshal into Go struct field AuthConfig of type string")
        _decoded(entry.get("auth") or "")
    return document


def _go_kind(value: Any) -> str:
    kinds = {str: "string", bool: "bool", int: "number", float: "number", list: "array", dict: "object"}
    return kinds.get(type(value), "null")


def _replace(path: str, text: str) -> None:
    """Writes the file in one step, readable by its owner only; a link stays a link, and an owner stays the owner."""
    path = os.path.realpath(path)
    temporary = f"{path}.{os.getpid()}"
    try:
        os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            with open(descriptor, "w", encoding="utf-8") as file:
                if os.path.exists(path) and os.geteuid() == 0:
                    owner = os.stat(path)
                    os.fchown(descriptor, owner.st_uid, owner.st_gid)
                file.write(text)
                file.flush()
                os.fsync(descriptor)
            os.replace(temporary, path)
        except BaseException:
            os.unlink(temporary)
            raise
    except OSError as error:
        raise InvalidParameter(f"{error.filename or path}: {(error.strerror or '').lower()}") from error


class _Helper:
    """One program of the docker-credential-helpers protocol."""

    def __init__(self, name: str) -> None:
        self._program = f"docker-credential-{name}"

    def get(self, server: str) -> AuthConfig:
        try:
            said = self._run("get", server, "error getting credentials")
        except HelperError as error:
            if f"`{_UNKNOWN_TO_HELPER}`" in str(error):
                return AuthConfig(serveraddress=server)
            raise
        try:
            found = json.loads(said)
            user, secret = str(found["Username"]), str(found["Secret"])
        except (ValueError, KeyError, TypeError) as error:
            raise HelperError(f"error getting credentials - {self._program} answered no credentials") from error
        if user == _TOKEN_USER:
            return AuthConfig(identitytoken=secret, serveraddress=server)
        return AuthConfig(user, secret, serveraddress=server)

    def store(self, auth: AuthConfig) -> None:
        user, secret = (_TOKEN_USER, auth.identitytoken) if auth.identitytoken else (auth.username, auth.password)
        document = {"ServerURL": auth.serveraddress, "Username": user, "Secret": secret}
        self._run("store", json.dumps(document), "error storing credentials")

    def erase(self, server: str) -> None:
        self._run("erase", server, "error erasing credentials")

    def _run(self, action: str, given: str, failure: str) -> str:
        """What the program answers. HelperError if it is missing or fails."""
        import subprocess

        try:
            done = subprocess.run([self._program, action], input=given.encode(), stdout=subprocess.PIPE, check=False)
        except FileNotFoundError as error:
            reason = f'exec: "{self._program}": executable file not found in $PATH'
            raise HelperError(f"{failure} - err: {reason}, out: ``") from error
        except OSError as error:
            reason = f"fork/exec {self._program}: {(error.strerror or '').lower()}"
            raise HelperError(f"{failure} - err: {reason}, out: ``") from error
        said = done.stdout.decode("utf-8", "replace").strip()
        if done.returncode:
            status = f"exit status {done.returncode}" if done.returncode > 0 else f"signal {-done.returncode}"
            raise HelperError(f"{failure} - err: {status}, out: `{said}`")
        return said
