"""`--init`: which program, and how it comes before the container's own."""

from __future__ import annotations

import shutil
from typing import Any

import pytest

from labkit.engine import init_program
from labkit.engine.models import HostConfig
from labkit.errors import LabkitError


def test_only_where_it_is_asked_for_and_is_pid_1() -> None:
    assert init_program.find(HostConfig()) == ""
    assert init_program.find(HostConfig(Init=False)) == ""
    assert init_program.find(HostConfig(Init=True, PidMode="host")) == ""
    assert init_program.find(HostConfig(Init=True)) == shutil.which("docker-init")


def test_without_one_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: "/usr/bin/catatonit" if name == "catatonit" else None)
    assert init_program.find(HostConfig(Init=True)) == "/usr/bin/catatonit"
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(LabkitError, match=r"executable file not found in \$PATH.*apt-get install tini"):
        init_program.find(HostConfig(Init=True))


def test_it_runs_the_program() -> None:
    spec: dict[str, Any] = {"process": {"args": ["sh", "-c", "x"], "cwd": "/"}, "mounts": [{"destination": "/proc"}]}
    assert init_program.put_before(spec, "") is spec
    found = init_program.put_before(spec, "/usr/bin/docker-init")
    assert found["process"] == {"args": ["/sbin/docker-init", "--", "sh", "-c", "x"], "cwd": "/"}
    assert found["mounts"][1]["source"] == "/usr/bin/docker-init"
    assert spec["process"]["args"] == ["sh", "-c", "x"]
