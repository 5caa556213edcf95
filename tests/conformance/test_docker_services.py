"""What a course does with networks: nginx, redis and postgres talk to each other by name; a page comes out of a port.

The images are of `labkit hub`, made of Debian's packages.
"""

from __future__ import annotations

import time
import urllib.request
from collections.abc import Iterator

import pytest

from tests.support.daemon import PATIENCE, Daemon

pytestmark = [pytest.mark.root, pytest.mark.timeout(400)]


@pytest.fixture(scope="module")
def services(hub: Daemon) -> Iterator[Daemon]:
    """A daemon with the three images, and a network `shop` with a container of each."""
    daemon = hub
    daemon.docker("network", "create", "shop")
    daemon.docker("run", "-d", "--network", "shop", "--name", "cache", "redis")
    password = "POSTGRES_PASSWORD=secret"
    daemon.docker(
        "run", "-d", "--network", "shop", "--name", "db", "-e", password, "-e", "POSTGRES_DB=shop", "postgres"
    )
    daemon.docker("run", "-d", "--network", "shop", "--name", "web", "-p", "80", "nginx")
    yield daemon
    daemon.remove_all()
    daemon.docker("network", "rm", "shop")
    daemon.docker("volume", "prune", "-f")


def eventually(daemon: Daemon, *command: str) -> str:
    """The output of a command in a container, once it succeeds: a database takes its time to be ready."""
    deadline = time.monotonic() + PATIENCE
    while (done := daemon.docker("exec", *command, check=False)).returncode and time.monotonic() < deadline:
        time.sleep(0.2)  # the program inside tells nobody when it is ready
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode().strip()


def test_redis_by_name(services: Daemon) -> None:
    assert eventually(services, "cache", "redis-cli", "-h", "cache", "ping") == "PONG"
    assert eventually(services, "cache", "redis-cli", "-h", "cache.shop", "set", "answer", "42") == "OK"


def test_postgres_by_name(services: Daemon) -> None:
    ask = ("psql", "-h", "db", "-U", "postgres", "shop", "-tAc")
    assert eventually(services, "-e", "PGPASSWORD=secret", "db", *ask, "select 6 * 7") == "42"
    wrong = services.docker("exec", "-e", "PGPASSWORD=wrong", "db", *ask, "select 1", check=False)
    assert b"password authentication failed" in wrong.stderr


def test_they_see_each_other(services: Daemon) -> None:
    """From web: the database's and the cache's ports are open, by name."""
    for name, port in (("db", 5432), ("cache", 6379)):
        eventually(services, "web", "bash", "-c", f"exec 3<>/dev/tcp/{name}/{port}")
    addresses = [services.inspect(name)["NetworkSettings"]["Networks"]["shop"]["IPAddress"] for name in ("db", "cache")]
    found = services.out("exec", "web", "getent", "ahostsv4", "db", "cache").split()
    assert addresses[0] in found


def test_the_page_comes_out_of_the_port(services: Daemon) -> None:
    port = services.out("port", "web", "80/tcp").splitlines()[0].rpartition(":")[2]
    for host in ("127.0.0.1", "[::1]"):
        with urllib.request.urlopen(f"http://{host}:{port}/", timeout=PATIENCE) as page:
            assert page.status == 200
            assert b"nginx" in page.read()
    assert eventually(services, "web", "bash", "-c", "exec 3<>/dev/tcp/web/80") == ""


def test_data_survive_their_container(services: Daemon) -> None:
    """Redis keeps what it was told in its volume: another container with the same volume has it."""
    eventually(services, "cache", "redis-cli", "set", "kept", "yes")
    eventually(services, "cache", "redis-cli", "save")
    volume = services.inspect("cache")["Mounts"][0]["Name"]
    services.docker("run", "-d", "--network", "shop", "--name", "cache2", "-v", f"{volume}:/data:ro", "redis")
    assert eventually(services, "cache2", "redis-cli", "get", "kept") == "yes"
    services.docker("rm", "-f", "cache2")
