"""Which runtimes there are, and which containers they can't make."""

from __future__ import annotations

import pytest

from labkit.engine import runtimes
from labkit.engine.settings import Settings
from labkit.errors import InvalidParameter
from tests.engine.records import host_record

MINE = Settings(runtimes=(("mine", "/bin/sh"), ("gone", "/nonesuch")), default_runtime="mine")


def test_known() -> None:
    found = runtimes.known(MINE)
    assert (found["labkit"], found["mine"]) == ("", "/bin/sh")
    assert found["runc"].endswith("/runc")
    assert found["io.containerd.runc.v2"] == found["runc"]


def test_flags() -> None:
    assert runtimes.parse(["a=/b", "c=/d=e"]) == (("a", "/b"), ("c", "/d=e"))
    for text in ("a", "=/b", "a="):
        with pytest.raises(InvalidParameter, match=f"^invalid runtime argument: {text}$"):
            runtimes.parse([text])
    for name in ("labkit", "runc"):
        with pytest.raises(InvalidParameter, match=f"^runtime name '{name}' is reserved$"):
            runtimes.parse([f"{name}=/b"])


def test_the_default() -> None:
    host = host_record().HostConfig
    runtimes.settle(MINE, host)
    assert host.Runtime == "mine"
    runtimes.check(MINE)
    with pytest.raises(InvalidParameter, match=r"^specified default runtime 'x' does not exist$"):
        runtimes.check(Settings(default_runtime="x"))
    with pytest.raises(InvalidParameter, match=r"^unknown or invalid runtime name: kata$"):
        runtimes.settle(MINE, host_record(Runtime="kata").HostConfig)


def test_programs() -> None:
    assert runtimes.program_of(host_record(Runtime="labkit"), MINE) == ""
    assert runtimes.program_of(host_record(Runtime="mine"), MINE) == "/bin/sh"
    with pytest.raises(InvalidParameter, match=r"^unknown or invalid runtime name: gone$"):
        runtimes.program_of(host_record(Runtime="gone"), MINE)
