"""What a committed image's containers get."""

from __future__ import annotations

import msgspec
import pytest

from labkit.engine.commit import image_config
from labkit.engine.models import Config
from labkit.errors import InvalidParameter
from tests.engine.records import record


def test_changes_come_on_top_of_the_container_s_own() -> None:
    own = record(Env=["A=1"], Labels={"l": "1"}, ExposedPorts={"80/tcp": {}}, Cmd=["sh", "-c", "x"]).Config
    found = image_config(own, own, ["ENV A=2", "ENV B=$A", "CMD top", "EXPOSE 81", "LABEL m=2", "WORKDIR /srv"])
    assert (found.Env, found.Labels) == (["A=2", "B=2"], {"l": "1", "m": "2"})
    assert (found.Cmd, found.WorkingDir) == (["/bin/sh", "-c", "top"], "/srv")
    assert found.ExposedPorts == {"80/tcp": {}, "81/tcp": {}}
    assert found.Hostname == own.Hostname
    assert image_config(own, own, []) == own


def test_a_configuration_of_the_request_is_filled_up() -> None:
    own = record(Env=["A=1"], Cmd=["sh"], User="me").Config
    asked = msgspec.convert({"Cmd": "one", "Env": ["B=2"]}, Config)
    found = image_config(asked, own, ["ENV C=3"])
    assert (found.Cmd, found.User, found.Env) == (["one"], "me", ["B=2", "C=3", "A=1"])
    assert found.Hostname == ""


def test_what_can_be_no_change() -> None:
    own = record().Config
    with pytest.raises(InvalidParameter, match="run is not a valid change command"):
        image_config(own, own, ["RUN x"])
