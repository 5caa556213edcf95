"""Images under the real docker command, on a whole engine: what containers see of them, and what becomes of them."""

from __future__ import annotations

import pytest

from tests.images.tars import docker_archive, member, tar
from tests.support.daemon import Daemon, busybox

pytestmark = pytest.mark.root


def test_a_container_on_127_layers(daemon: Daemon) -> None:
    """As many as Docker allows: mount(2) takes one page of options."""
    layers = [busybox().read_bytes()]
    layers += [tar(member(f"layers/{number}", b"%d" % number), member("last", b"%d" % number)) for number in range(126)]
    daemon.docker("load", stdin=docker_archive(layers, ["deep"]))
    seen = daemon.out(
        "run",
        "--rm",
        "--network",
        "none",
        "deep",
        "sh",
        "-c",
        "ls layers | wc -l; cat last; grep -c lowerdir= /proc/mounts",
    )
    assert seen.split() == ["126", "1251"]
    daemon.docker("rmi", "deep")
