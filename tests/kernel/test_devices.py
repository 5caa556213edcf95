"""Device nodes are made where they are asked for, with the mode that was asked for."""

from __future__ import annotations

import pytest

from labkit.kernel import constants as c
from labkit.kernel.devices import MakeDevice
from labkit.kernel.mounts import Mount, SetPropagation
from labkit.kernel.namespaces import Unshare
from labkit.lab import Child


@pytest.mark.root
def test_a_device_below_a_folder_that_is_not_there_yet(capsys: pytest.CaptureFixture[str]) -> None:
    """A privileged container has the host's /dev/net/tun in a /dev that begins empty."""
    with Child() as child:
        child.do(Unshare(c.CLONE_NEWNS), SetPropagation("/", c.MS_PRIVATE | c.MS_REC), Mount("tmpfs", "/mnt", "tmpfs"))
        child.do(MakeDevice("/mnt/net/deep/tun", "c", 10, 200, mode=0o606))
        child.sh("stat -c '%F %t:%T %a' /mnt/net/deep/tun")
    assert capsys.readouterr().out == "character special file a:c8 606\n"
