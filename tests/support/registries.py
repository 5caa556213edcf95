"""Real registries for tests: Debian's docker-registry on loopback, plain, with TLS and passwords, and with tokens.

Also a server that answers whatever a test scripts: token servers, and registries that lie.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import IO, Any
from urllib.parse import parse_qs, urlsplit

from tests.support.daemon import PATIENCE

USER, PASSWORD = "learner", "secret"
_HTPASSWD = "learner:$2b$04$mdd/XY9tRo0c4jeSXJplauP.ZjscjUWNnN/qefpluLFIaOIEGyfgi\n"  # bcrypt of "secret"


@dataclass(frozen=True)
class Registry:
    """A registry that runs: its host:port, the files it keeps, and what a client needs to trust and to enter it."""

    host: str
    root: Path
    certificate: Path | None = None
    username: str = ""
    password: str = ""


@dataclass(frozen=True)
class KeyPair:
    """A private key and a certificate that signs itself, for localhost and 127.0.0.1."""

    key: Path
    certificate: Path


def make_key_pair(folder: Path, name: str = "server") -> KeyPair:
    folder.mkdir(parents=True, exist_ok=True)
    pair = KeyPair(folder / f"{name}.key", folder / f"{name}.crt")
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", f"/CN={name}",
         "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1", "-keyout", pair.key, "-out", pair.certificate],
        check=True, capture_output=True, timeout=PATIENCE,
    )  # fmt: skip
    return pair


@contextlib.contextmanager
def running_registry(
    root: Path, tls: KeyPair | None = None, passwords: bool = False, auth: str = ""
) -> Iterator[Registry]:
    """docker-registry on a free port of loopback; `auth` is the YAML of another way in than passwords."""
    root.mkdir(parents=True, exist_ok=True)
    http = (
        f"addr: '127.0.0.1:0', tls: {{certificate: {tls.certificate}, key: {tls.key}}}"
        if tls
        else "addr: '127.0.0.1:0'"
    )
    if passwords:
        (root / "htpasswd").write_text(_HTPASSWD)
        auth = f"htpasswd: {{realm: test, path: {root}/htpasswd}}"
    lines = [
        "version: 0.1",
        "log: {level: info, accesslog: {disabled: true}}",
        f"storage: {{filesystem: {{rootdirectory: {root}/data}}, delete: {{enabled: true}}}}",
        f"http: {{{http}}}",
        f"auth: {{{auth}}}" if auth else "",
    ]
    (root / "config.yml").write_text("\n".join(lines))
    with open(root / "log", "wb") as log:
        process = subprocess.Popen(
            ["docker-registry", "serve", root / "config.yml"], stdout=log, stderr=subprocess.PIPE
        )
        assert process.stderr
        host = _listening(process.stderr)
        drain = threading.Thread(target=lambda: log.writelines(process.stderr or ()))
        drain.start()
        try:
            secret = {"username": USER, "password": PASSWORD} if passwords else {}
            yield Registry(host, root / "data", tls.certificate if tls else None, **secret)
        finally:
            process.terminate()
            process.wait(PATIENCE)
            drain.join(PATIENCE)
            process.stderr.close()


def _listening(errors: IO[bytes]) -> str:
    """The address that the registry says it listens at."""
    said = []
    for line in errors:
        said.append(line.decode())
        if "listening on " in said[-1]:
            return said[-1].split("listening on ")[1].split('"')[0].split(",")[0].strip()
    raise AssertionError("docker-registry ended: " + "".join(said))


@dataclass(frozen=True)
class Seen:
    """A request that a scripted server got."""

    method: str
    path: str
    headers: Message
    body: bytes = b""

    @property
    def query(self) -> dict[str, list[str]]:
        return parse_qs(urlsplit(self.path).query)


@dataclass
class Scripted:
    """A server whose answers a test writes: a function of the request and the raw connection to the client."""

    answer: Callable[[Asked], None]
    seen: list[Seen] = field(default_factory=list)
    host: str = ""

    @property
    def url(self) -> str:
        return f"http://{self.host}"

    def paths(self, method: str = "GET") -> list[str]:
        return [seen.path for seen in self.seen if seen.method == method]


class Asked(BaseHTTPRequestHandler):
    """A request, with short ways to answer it."""

    protocol_version = "HTTP/1.1"
    request_seen: Seen

    def say(self, status: int, body: bytes = b"", **headers: str) -> None:
        """Answer; `Some_Header` is Some-Header. Content-Length is the body's unless it is given."""
        self.send_response(status)
        for name, value in {"Content_Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def end(self) -> None:
        """End the connection after this answer, however much of it there was."""
        self.close_connection = True

    def log_message(self, format: str, *args: object) -> None:
        """Tests look at what was seen, not at a log."""


@contextlib.contextmanager
def scripted(answer: Callable[[Asked], None]) -> Iterator[Scripted]:
    """A scripted server on a free port of loopback, without TLS."""
    server = Scripted(answer)

    connections: list[socket.socket] = []

    class Answering(Asked):
        def setup(self) -> None:
            connections.append(self.request)
            super().setup()

        def handle_any(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            self.request_seen = Seen(self.command, self.path, self.headers, body)
            server.seen.append(self.request_seen)
            try:
                server.answer(self)
            except (BrokenPipeError, ConnectionResetError):
                self.close_connection = True  # the client had enough of it

        do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = handle_any

    class Listener(ThreadingHTTPServer):
        daemon_threads = False

        def handle_error(self, request: Any, client_address: Any) -> None:
            if not isinstance(sys.exception(), ConnectionError):  # clients may go when they like
                super().handle_error(request, client_address)

    listener = Listener(("127.0.0.1", 0), Answering)
    server.host = f"127.0.0.1:{listener.server_address[1]}"
    thread = threading.Thread(target=lambda: listener.serve_forever(0.02))
    thread.start()
    try:
        yield server
    finally:
        listener.shutdown()
        thread.join(PATIENCE)
        for connection in connections:
            with contextlib.suppress(OSError):  # it has ended
                connection.shutdown(socket.SHUT_RDWR)
        listener.server_close()


def _base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


class TokenServer:
    """Docker's token protocol with tokens that a real registry believes (JSON Web Tokens, RS256)."""

    def __init__(self, keys: KeyPair) -> None:
        self._keys = keys
        self.asked: list[Seen] = []

    def auth(self, realm: str) -> str:
        """The registry's configuration that sends its clients here."""
        settings = f"realm: '{realm}', service: test-registry, issuer: test-issuer"
        return f"token: {{{settings}, rootcertbundle: {self._keys.certificate}}}"

    def answer(self, asked: Asked) -> None:
        """Everything for the user with the right password or identity token, pulls for the anonymous."""
        seen = asked.request_seen
        self.asked.append(seen)
        form = {**seen.query, **parse_qs(seen.body.decode())}
        given = seen.headers.get("Authorization", "")
        right = "Basic " + base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
        known = given == right or form.get("refresh_token") == ["identity"]
        if not known and (given or "refresh_token" in form):
            fault = {"errors": [{"code": "UNAUTHORIZED", "message": "incorrect username or password"}]}
            return asked.say(401, json.dumps(fault).encode(), Content_Type="application/json")
        scopes = [scope for value in form.get("scope", []) for scope in value.split()]
        said: dict[str, object] = {"token": self.token(scopes, all_of_them=known), "expires_in": 300}
        if "offline_token" in form:
            said["refresh_token"] = "identity"
        return asked.say(200, json.dumps(said).encode(), Content_Type="application/json")

    def token(self, scopes: list[str], all_of_them: bool) -> str:
        access = []
        for scope in scopes:
            kind, name, actions = scope.split(":")
            granted = [action for action in actions.split(",") if all_of_them or action == "pull"]
            access.append({"type": kind, "name": name, "actions": granted})
        der = subprocess.run(
            ["openssl", "x509", "-in", self._keys.certificate, "-outform", "DER"], check=True, capture_output=True
        ).stdout
        head = {"typ": "JWT", "alg": "RS256", "x5c": [base64.b64encode(der).decode()]}
        now = int(time.time())
        claims = {
            "iss": "test-issuer", "sub": USER, "aud": "test-registry", "exp": now + 300, "nbf": now - 60, "iat": now,
            "jti": hashlib.sha256(str(scopes).encode()).hexdigest()[:16], "access": access,
        }  # fmt: skip
        signed = ".".join(_base64url(json.dumps(part).encode()) for part in (head, claims))
        signature = subprocess.run(
            ["openssl", "dgst", "-sha256", "-sign", self._keys.key],
            input=signed.encode(), check=True, capture_output=True, timeout=PATIENCE,
        ).stdout  # fmt: skip
        return f"{signed}.{_base64url(signature)}"
