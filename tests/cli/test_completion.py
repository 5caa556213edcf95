"""What words may become, from the table and from a real engine, also through a real bash."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from labkit.cli.completion import Engine, complete
from labkit.client import Client

NOBODY = Engine("unix:///nowhere/x.sock")


@pytest.mark.parametrize(
    ("line", "candidates"),
    [
        ("ru", ["run"]),
        ("container st", ["start", "stats", "stop"]),
        ("--ho", ["--host"]),
        ("-H unix:///x vers", ["version"]),
        ("run --pul", ["--pull"]),
        ("run --pull ", ["always", "missing", "never"]),
        ("run --pull=al", ["--pull=always"]),
        ("run -itd --network h", ["host"]),
        ("run --cap-add SYS_P", ["SYS_PACCT", "SYS_PTRACE"]),
        ("run img --rm", []),
        ("stop --ti", ["--timeout"]),
        ("kill -s SIGK", ["SIGKILL"]),
        ("hub build bu", ["busybox"]),
        ("manifest ", ["annotate", "create", "inspect", "push", "rm"]),
        ("manifest annotate --os l", ["linux"]),
        ("push --pl", ["--platform"]),
        ("foo ", []),
        ("logs nobody", []),
    ],
)
def test_the_table_completes(line: str, candidates: list[str]) -> None:
    assert complete(line.split(" "), NOBODY) == candidates


def test_files_complete(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "image.tar").touch()
    (tmp_path / "images").mkdir()
    (tmp_path / ".hidden").touch()
    assert complete(["load", "-i", ""], NOBODY) == ["image.tar", "images/"]
    assert complete(["load", "-i", "image."], NOBODY) == ["image.tar"]


def test_registries_that_one_is_logged_in_to_complete(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    assert complete(["logout", ""], NOBODY) == []
    (tmp_path / "config.json").write_text('{"auths": {"a.example": {}, "b:5000": {}}, "credHelpers": {"c": "x"}}')
    assert complete(["logout", ""], NOBODY) == ["a.example", "b:5000", "c"]
    assert complete(["login", "-u", "me", "b"], NOBODY) == ["b:5000"]


@pytest.mark.root
def test_names_come_from_the_engine(engine: str) -> None:
    client = Client(engine)
    body = {"Image": "labbb", "Cmd": ["sleep", "99"], "HostConfig": {"NetworkMode": "none"}}
    for name in ("alpha", "alphabet", "beta"):
        client.post("/containers/create", {"name": name}, body)
    client.post("/containers/alpha/start")
    client.close()
    names = Engine(engine)
    assert sorted(complete(["rm", "al"], names)) == ["alpha", "alphabet"]
    assert complete(["stop", "al"], names) == ["alpha"]
    assert complete(["start", "al"], names) == ["alphabet"]
    assert complete(["exec", "-it", "alp"], names) == ["alpha"]
    assert complete(["run", "--rm", "lab"], names) == ["labbb:latest"]
    assert complete(["exec", "alpha", "al"], names) == []


@pytest.mark.root
def test_networks_come_from_the_engine(engine: str) -> None:
    client = Client(engine)
    for name in ("laba", "labb"):
        client.post("/networks/create", body={"Name": name})
    client.close()
    names = Engine(engine)
    assert complete(["network", "rm", "la"], names) == ["laba", "labb"]
    assert complete(["network", "connect", "labb", ""], names) == []
    assert complete(["run", "--network=lab"], names) == ["--network=laba", "--network=labb"]
    assert complete(["inspect", "--type", "net"], names) == ["network"]
    assert complete(["inspect", "bri"], names) == ["bridge"]


@pytest.mark.root
def test_bash_completes(engine: str, tmp_path: Path) -> None:
    command = tmp_path / "labkit"
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -m labkit.cli.main "$@"\n')
    command.chmod(0o755)
    script = tmp_path / "script"
    script.write_bytes(subprocess.run([command, "completion", "bash"], check=True, capture_output=True).stdout)
    lines = [("labkit ru", "run"), ("labkit run --rm labbb:la", "latest"), ("labkit run --pull=al", "always")]
    for line, expected in lines:
        probe = f"""
            source {script}; COMP_LINE={line!r}; COMP_POINT=${{#COMP_LINE}}; COMP_WORDBREAKS=$' \\t\\n"=:'
            compopt() {{ :; }}; _labkit; printf '%s\\n' "${{COMPREPLY[@]}}"
        """
        done = subprocess.run(
            ["bash", "-c", probe],
            capture_output=True,
            text=True,
            check=True,
            env={"PATH": f"{tmp_path}:/usr/bin:/bin", "DOCKER_HOST": engine},
        )
        assert done.stdout.split() == [expected], done.stderr


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_every_shell_has_its_script(shell: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "labkit.cli.main", "completion", shell], capture_output=True, text=True
    )
    assert "labkit __complete" in done.stdout
    if shell == "bash":
        subprocess.run(["bash", "-n"], input=done.stdout, text=True, check=True)
