"""docker-compose (Debian's 1.29) with labkit: three services, each of which waits until those before it are healthy."""

from __future__ import annotations

import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.daemon import PATIENCE, Daemon

pytestmark = [pytest.mark.root, pytest.mark.timeout(400)]
START = 120
"""Seconds in which a database has made its files and is healthy."""

PROJECT = """
services:
  db:
    image: postgres
    environment: {POSTGRES_PASSWORD: secret, POSTGRES_DB: shop}
    volumes: ["data:/var/lib/postgresql/data"]
    healthcheck: {test: [CMD-SHELL, "pg_isready -U postgres -d shop -h 127.0.0.1"], interval: 1s, retries: 60}
  cache:
    image: redis
    healthcheck: {test: [CMD, redis-cli, ping], interval: 1s, retries: 60}
  web:
    image: busybox
    command: [sh, -c, "echo started; echo page > /index.html; exec httpd -f -h /"]
    ports: ["127.0.0.1::80"]
    networks: {default: {aliases: [front]}}
    depends_on:
      db: {condition: service_healthy}
      cache: {condition: service_healthy}
volumes:
  data: {}
"""
OLDER = "1.41"
"""The API that compose is told to speak: with the newest it can't recreate a container, on dockerd either."""


class Compose:
    """A project that docker-compose is told about."""

    def __init__(self, daemon: Daemon, folder: Path) -> None:
        self.daemon = daemon
        self.folder = folder
        (folder / "docker-compose.yml").write_text(PROJECT)

    def run(self, *words: str, timeout: float = PATIENCE, check: bool = True) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            ["docker-compose", "--ansi", "never", "-p", "shop", *words],
            cwd=self.folder,
            env={**self.daemon.environment(), "COMPOSE_API_VERSION": OLDER},
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        assert not check or done.returncode == 0, (words, done.stdout, done.stderr)
        return done


@pytest.fixture
def shop(hub: Daemon, tmp_path: Path) -> Iterator[Compose]:
    project = Compose(hub, tmp_path)
    yield project
    project.run("down", "-v", "-t", "0", timeout=START)


def test_up_ps_logs_exec_down(shop: Compose) -> None:
    daemon = shop.daemon
    shop.run("up", "-d", timeout=START)
    for name in ("db", "cache"):
        assert daemon.inspect(f"shop_{name}_1")["State"]["Health"]["Status"] == "healthy"
    born = {name: daemon.inspect(f"shop_{name}_1")["State"]["StartedAt"] for name in ("db", "cache", "web")}
    assert max(born.values()) == born["web"]
    listed = shop.run("ps").stdout
    assert [listed.count("Up (healthy)"), listed.count("Up ")] == [2, 3], listed
    assert sorted(shop.run("ps", "--services").stdout.split()) == ["cache", "db", "web"]
    assert "started" in shop.run("logs", "web").stdout
    said = shop.run("exec", "-T", "cache", "redis-cli", "-h", "cache", "ping").stdout
    assert said.strip() == "PONG"
    ask = ("psql", "-h", "db", "-U", "postgres", "shop", "-tAc", "select 6 * 7")
    counted = shop.run("exec", "-T", "-e", "PGPASSWORD=secret", "db", *ask).stdout
    assert counted.strip() == "42"
    assert shop.run("exec", "-T", "web", "sh", "-c", "exit 5", check=False).returncode == 5
    assert shop.run("exec", "-T", "web", "nslookup", "-type=a", "front").returncode == 0
    address = shop.run("port", "web", "80").stdout.strip()
    with urllib.request.urlopen(f"http://{address}/", timeout=PATIENCE) as page:
        assert page.read() == b"page\n"


def test_again_and_gone(shop: Compose) -> None:
    """What is up to date stays; what was changed is made anew; `down` leaves nothing."""
    daemon = shop.daemon
    shop.run("up", "-d", timeout=START)
    before = {name: daemon.inspect(f"shop_{name}_1")["Id"] for name in ("db", "cache", "web")}
    changed = PROJECT.replace("echo started", "echo changed")
    (shop.folder / "docker-compose.yml").write_text(changed)
    shop.run("up", "-d", "-t", "0", timeout=START)
    after = {name: daemon.inspect(f"shop_{name}_1")["Id"] for name in ("db", "cache", "web")}
    assert (before["db"], before["cache"]) == (after["db"], after["cache"])
    assert before["web"] != after["web"]
    shop.run("restart", "-t", "0", "web")
    shop.run("stop", "-t", "0", "web")
    assert daemon.inspect("shop_web_1")["State"]["Running"] is False
    shop.run("up", "-d", "--scale", "cache=2", timeout=START)
    assert daemon.out("ps", "-q", "--filter", "label=com.docker.compose.service=cache").count("\n") == 1
    shop.run("down", "-v", "-t", "0", timeout=START)
    assert daemon.out("ps", "-aq") == ""
    assert daemon.out("volume", "ls", "-q", "--filter", "name=shop_data") == ""
    assert "shop_default" not in daemon.out("network", "ls", "--format", "{{.Name}}").split()
