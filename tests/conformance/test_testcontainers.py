"""testcontainers' redis and postgres modules with labkit, as a test suite of somebody else uses them."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.support.daemon import REPOSITORY, Daemon

pytestmark = [pytest.mark.root, pytest.mark.timeout(200)]

REDIS = """
from testcontainers.community.redis import RedisContainer

with RedisContainer("redis") as one:
    client = one.get_client()
    assert client.set("answer", "42")
    assert client.get("answer") == b"42"
    client.close()
with RedisContainer("redis", password="secret") as one:
    client = one.get_client()
    assert client.ping()
    client.close()
print("fine")
"""

POSTGRES = """
import psycopg
from testcontainers.community.postgres import PostgresContainer

with PostgresContainer("postgres", driver=None) as one:
    with psycopg.connect(one.get_connection_url()) as connection:
        assert connection.execute("select 6 * 7").fetchone() == (42,)
    code, said = one.exec(["psql", "-U", "test", "-c", "select 'told'"])
    assert (code, b"told" in said) == (0, True)
    out, _ = one.get_logs()
print("fine")
"""


@pytest.mark.parametrize("script", [REDIS, POSTGRES], ids=["redis", "postgres"])
def test_module(hub: Daemon, script: str) -> None:
    environment = {
        **hub.environment(),
        "TESTCONTAINERS_RYUK_DISABLED": "true",
    }  # its reaper is an image of the real Hub
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=REPOSITORY,
        env=environment,
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "fine\n"), done.stderr
    assert hub.out("ps", "-aq") == ""
