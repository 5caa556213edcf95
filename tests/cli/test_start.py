"""The command starts often: what it may import, and that nothing of the daemon is among it."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

_HEAVY = {"argparse", "asyncio", "dataclasses", "email", "http", "inspect", "msgspec", "ssl", "subprocess", "urllib"}
_ABOVE_HTTP = ("api", "build", "engine", "images", "kernel", "network", "plan", "registry", "runtime", "volumes")
_PROBE = """
import json, sys
from labkit.cli.main import main
status = main(sys.argv[1:])
print("\\n" + json.dumps(sorted(sys.modules)))
"""


def imported_by(*words: str) -> set[str]:
    done = subprocess.run([sys.executable, "-c", _PROBE, *words], capture_output=True, text=True, check=True)
    modules: list[str] = json.loads(done.stdout.splitlines()[-1])
    return set(modules)


@pytest.mark.parametrize("words", [["--version"], ["run", "--help"], ["-H", "unix:///nowhere", "ps"]])
def test_a_command_imports_little(words: list[str]) -> None:
    modules = imported_by(*words)
    assert {name.partition(".")[0] for name in modules} & _HEAVY == set()
    assert {name for name in modules if name.startswith(tuple(f"labkit.{layer}" for layer in _ABOVE_HTTP))} == set()
    assert "labkit.client.credentials" not in modules


@pytest.mark.root
@pytest.mark.parametrize("words", [["ps"], ["run", "--rm", "--network", "none", "labbb", "true"]])
def test_nor_does_a_command_that_asks_the_engine(engine: str, words: list[str]) -> None:
    modules = imported_by(*words)
    assert {name.partition(".")[0] for name in modules} & _HEAVY == set()
    assert {name for name in modules if name.startswith(tuple(f"labkit.{layer}" for layer in _ABOVE_HTTP))} == set()
    assert "labkit.client.credentials" not in modules
