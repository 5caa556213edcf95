"""Requests made from the Engine API's own definition, against a daemon that runs: no 5xx, no hang, nothing left.

schemathesis makes requests of each operation, right and wrong ones; a second test gives each field of a new container
values at and beyond the edges of its type, and starts what could be created. What reaches registries is left out.
"""

from __future__ import annotations

import contextlib
import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

from tests.support.daemon import PATIENCE, Daemon, UnixConnection, busybox, make_busybox
from tests.support.dockerd import isolated

pytestmark = pytest.mark.root
DEFINITION = Path(__file__).parents[3] / "shared/reference/docker-engine-api-v1.50.yaml"
if not DEFINITION.is_file():
    pytest.skip("the Engine API's definition doesn't lie beside this checkout", allow_module_level=True)


@schemathesis.serializer("application/x-tar")
def tar(context: Any, value: Any) -> bytes:
    """A body that says it is an archive: what it is said to be the daemon has to find out."""
    return value if isinstance(value, bytes) else str(value).encode(errors="replace")


SCHEMA = schemathesis.openapi.from_path(DEFINITION)
ALL: list[Any] = list(SCHEMA.get_all_operations())
OPERATIONS = {result.ok().label: result.ok() for result in ALL}
OUTSIDE = ("/images/create", "/images/{name}/push", "/images/search", "/auth", "/distribution/{name}/json", "/build")
"""They reach a registry, whose answers aren't labkit's."""
LABELS = sorted(label for label, operation in OPERATIONS.items() if operation.path not in OUTSIDE)

KNOWN = {"containers": ("web", "done"), "networks": ("lab", "bridge"), "volumes": ("vol",), "images": ("busybox",)}
PROGRAM = ["sh", "-c", "trap exit TERM; while :; do sleep 0.1; done"]
CHECKS = list(HealthCheck)


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A daemon in a network namespace of its own: some requests make networks."""
    make_busybox(tmp_path_factory.mktemp("image"))
    with isolated(tmp_path_factory.mktemp("fuzz")) as daemon:
        yield daemon
        daemon.remove_all()
        daemon.docker("network", "prune", "-f")
        daemon.docker("volume", "prune", "-af")
        assert "Traceback" not in daemon.log.read_text()


@pytest.fixture
def furnished(engine: Daemon) -> Daemon:
    """With a container that runs, one that has ended, a network, a volume and an image."""
    if engine.request("GET", "/images/busybox/json")[0] != 200:
        engine.docker("import", str(busybox()), "busybox")
    engine.remove_all()
    engine.docker("network", "create", "lab", check=False)
    engine.docker("volume", "create", "vol")
    engine.docker("run", "-d", "--name", "web", "busybox", *PROGRAM)
    engine.docker("run", "--name", "done", "busybox", "true")
    return engine


def send(engine: Daemon, method: str, path: str, headers: dict[str, str], body: bytes) -> tuple[int, bytes]:
    """One request. The beginning of a stream is answer enough; no head in time is a hang, and fails."""
    with contextlib.closing(UnixConnection(str(engine.socket))) as connection:
        connection.timeout = PATIENCE
        connection.connect()
        connection.request(method, path, body or None, headers)
        sock = connection.sock
        with contextlib.closing(connection.getresponse()) as answer, sock:
            sock.settimeout(0.05)
            found = b""
            with contextlib.suppress(TimeoutError, ConnectionError, ValueError):
                found = answer.read(4096)
            return answer.status, found


def check(what: str, status: int, answer: bytes) -> None:
    kernel = b"Cannot update container" in answer  # the kernel has refused a value
    known = status == 501 or kernel or b"is not paused" in answer  # dockerd has 500 for these, too
    assert status < 500 or known, f"{what}: {status}: {answer!r}"
    if status >= 400 and answer:
        assert json.loads(answer)["message"], what


def prepared(case: Any) -> requests.PreparedRequest:
    words = ("method", "url", "headers", "params", "json", "data", "files", "cookies")
    given_words = case.as_transport_kwargs(base_url="http://engine")
    return requests.Request(**{name: given_words[name] for name in words if name in given_words}).prepare()


def target(case: Any, known: str) -> None:
    """Have a request be about something that there is, and wait for nothing long."""
    if known and case.path_parameters:
        case.path_parameters = dict.fromkeys(case.path_parameters, known)
    if isinstance(case.query, dict) and "t" in case.query:
        case.query["t"] = "1"


def fuzz(engine: Daemon, label: str, count: int) -> None:
    operation = OPERATIONS[label]
    kind = operation.path.split("/")[1]
    names = st.sampled_from((*KNOWN.get(kind, ()), *KNOWN.get(kind, ()), ""))

    @seed(1)
    @settings(max_examples=count, deadline=None, database=None, suppress_health_check=CHECKS)
    @given(case=operation.as_strategy(), known=names)
    def run(case: Any, known: str) -> None:
        target(case, known)
        request = prepared(case)
        body = request.body.encode() if isinstance(request.body, str) else request.body or b""
        parts = urlsplit(request.url or "")
        path = f"{parts.path}?{parts.query}" if parts.query else parts.path
        status, answer = send(engine, str(request.method), path, dict(request.headers), body)
        check(f"{request.method} {path} {body[:300]!r}", status, answer)

    run()
    assert engine.request("GET", "/containers/json")[0] == 200


@pytest.mark.parametrize("label", LABELS)
def test_requests_by_the_definition(furnished: Daemon, label: str) -> None:
    fuzz(furnished, label, 4)


@pytest.mark.long
@pytest.mark.timeout(600)
@pytest.mark.parametrize("label", LABELS)
def test_many_requests_by_the_definition(furnished: Daemon, label: str) -> None:
    fuzz(furnished, label, 150)


def definition(name: str) -> dict[str, Any]:
    found: dict[str, Any] = SCHEMA.raw_schema["definitions"][name]
    return found


def properties(schema: dict[str, Any]) -> dict[str, Any]:
    """The fields of a definition, those that it has from others too."""
    if "$ref" in schema:
        return properties(definition(schema["$ref"].rsplit("/", 1)[1]))
    found = dict(schema.get("properties", {}))
    for part in schema.get("allOf", ()):
        found |= properties(part)
    return found


TEXTS = (
    "", "a", "/", "/tmp", "..", "host", "none", "container:web", "container:nonesuch", "0", "-1", "a:b", "a=b", "é",
    "\0", "private", "bridge", "lab", "x" * 300, "80/tcp", "1.2.3.4", "::1", "CAP_CHOWN", "/dev/null", "/etc/passwd:/x",
    "vol:/v",
)  # fmt: skip
NUMBERS = (0, 1, -1, 2, 10, 100, 1000, 1 << 16, 1 << 20, 1 << 23, 1 << 31, (1 << 63) - 1, -(1 << 63), 1 << 63, 1.5)
ANYTHING: st.SearchStrategy[Any] = st.sampled_from(
    [None, True, 0, -1, 1.5, "", "a", [], ["a"], {}, {"a": "b"}, [None], [[]]]
)


def values(schema: dict[str, Any], depth: int = 0) -> st.SearchStrategy[Any]:
    """Values of a field: by its type, now and then of another one."""
    if depth > 3:
        return ANYTHING
    kind = schema.get("type", "")
    if "$ref" in schema or "allOf" in schema or schema.get("properties"):
        fields = {name: values(field, depth + 1) for name, field in properties(schema).items()}
        found: st.SearchStrategy[Any]
        if fields:
            found = st.fixed_dictionaries({}, optional=fields)
        else:
            found = values(definition(schema["$ref"].rsplit("/", 1)[1]), depth + 1) if "$ref" in schema else ANYTHING
    elif "enum" in schema:
        found = st.sampled_from(schema["enum"])
    elif kind == "array":
        found = st.lists(values(schema.get("items", {}), depth + 1), max_size=3)
    elif kind == "object":
        inner = schema.get("additionalProperties")
        found = st.dictionaries(
            st.sampled_from(TEXTS), values(inner, depth + 1) if isinstance(inner, dict) else ANYTHING, max_size=2
        )
    else:
        simple: dict[str, Any] = {"string": TEXTS, "integer": NUMBERS, "number": NUMBERS, "boolean": (True, False)}
        found = st.sampled_from(simple[kind]) if kind in simple else ANYTHING
    return st.one_of(found, found, found, found, ANYTHING)


def bodies() -> st.SearchStrategy[dict[str, Any]]:
    """A container that could be made, with up to three fields of anything."""
    config, host = properties(definition("ContainerConfig")), properties(definition("HostConfig"))
    pairs = [("", name, field) for name, field in config.items()] + [("HostConfig", *pair) for pair in host.items()]
    one = st.sampled_from(pairs).flatmap(lambda pair: st.tuples(st.just(pair[:2]), values(pair[2])))

    def made(chosen: list[tuple[tuple[str, str], Any]]) -> dict[str, Any]:
        body: dict[str, Any] = {"Image": "busybox", "Cmd": ["true"], "HostConfig": {"NetworkMode": "none"}}
        for (where, name), value in chosen:
            (body["HostConfig"] if where else body)[name] = value
        return body

    return st.lists(one, min_size=1, max_size=3).map(made)


def make_and_start(engine: Daemon, count: int) -> None:
    @seed(1)
    @settings(max_examples=count, deadline=None, database=None, suppress_health_check=CHECKS)
    @given(body=bodies())
    def run(body: dict[str, Any]) -> None:
        said = json.dumps(body)
        kind = {"Content-Type": "application/json"}
        status, answer = send(engine, "POST", "/containers/create", kind, said.encode())
        check(said, status, answer)
        if status != 201:
            return
        identity = json.loads(answer)["Id"]
        status, answer = send(engine, "POST", f"/containers/{identity}/start", {}, b"")
        assert status in (204, 304, 400, 404, 409, 500, 501), (said, status, answer)  # 500: the kernel has refused
        assert status != 500 or b"OCI runtime create failed" in answer, (said, answer)
        status, answer = send(engine, "GET", f"/containers/{identity}/json", {}, b"")
        assert status == 200, (said, answer)
        status, answer = send(engine, "DELETE", f"/containers/{identity}?force=1&v=1", {}, b"")
        assert status == 204, (said, status, answer)

    run()


def test_fields_of_a_new_container(furnished: Daemon) -> None:
    make_and_start(furnished, 150)


@pytest.mark.long
@pytest.mark.timeout(1200)
def test_all_fields_of_a_new_container(furnished: Daemon) -> None:
    make_and_start(furnished, 5000)


NO_HTTP = {
    "zeros": b"\0" * 100,
    "version": b"GET / HTTP/9.9\r\n\r\n",
    "endless": b"G" * 2_000_000,
    "two lengths": b"POST /x HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
    "TLS": b"\x16\x03\x01\x02\x00",
}


@pytest.mark.parametrize("raw", NO_HTTP.values(), ids=NO_HTTP)
def test_what_is_no_http(engine: Daemon, raw: bytes) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(PATIENCE)
        sock.connect(str(engine.socket))
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            sock.sendall(raw)
            sock.shutdown(socket.SHUT_WR)
            while sock.recv(1 << 16):
                pass
    assert engine.request("GET", "/version")[0] == 200
