"""Two programs must stay small: the command, which starts often, and the spawner, which forks every container."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import labkit
from labkit.api.http import Request, Response, Route, json_response
from tests.api.serving import Served

ROOT = Path(labkit.__file__).parent.parent

OF_THE_DAEMON = {
    *("asyncio", "http.client", "httptools", "isal", "msgspec", "pyroute2", "ssl", "zstandard"),
    *("labkit.api", "labkit.engine", "labkit.images", "labkit.registry", "labkit.runtime"),
}
FORKED = ("errors", "kernel", "plan", "runtime", "trace")
"""What of labkit the spawner may import, and with it each container's process before its exec."""

COMMAND = """
import json, sys
from labkit.cli.main import main
status = main(sys.argv[1:])
print("\\n" + json.dumps([status, *sys.modules]))
"""
SPAWNER = """
import sys
sys.path.append(sys.argv[1])
import labkit.runtime.spawner
import json
print(json.dumps([0, *sys.modules]))
"""


def modules_of(*arguments: str) -> set[str]:
    """The names of what a fresh interpreter has imported at the end of a program that prints them."""
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=True)
    status, *modules = json.loads(done.stdout.splitlines()[-1])
    assert status == 0, done.stderr
    return set(modules)


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Served]:
    """An engine without containers."""

    async def containers(request: Request) -> Response:
        return json_response([])

    served = Served([Route("GET", "/containers/json", containers)], tmp_path / "docker.sock")
    yield served
    served.close()


def test_a_command_without_engine_imports_nothing_of_the_daemon() -> None:
    assert modules_of("-c", COMMAND, "--version") & OF_THE_DAEMON == set()


def test_a_command_that_asks_an_engine_imports_nothing_of_the_daemon(engine: Served) -> None:
    modules = modules_of("-c", COMMAND, "-H", f"unix://{engine.path}", "ps")
    assert "labkit.client.transport" in modules
    assert engine.seen
    assert modules & OF_THE_DAEMON == set()


def test_the_spawner_imports_the_standard_library_and_the_operations_only() -> None:
    modules = modules_of("-I", "-S", "-c", SPAWNER, str(ROOT))
    packages = {name.partition(".")[0] for name in modules} - {"labkit", "__main__"}
    parts = {name.split(".")[1] for name in modules if name.startswith("labkit.")}
    assert packages - sys.stdlib_module_names == set()
    assert {"plan", "runtime"} <= parts <= set(FORKED)
    assert packages & {"asyncio", "ssl", "subprocess"} == set()
