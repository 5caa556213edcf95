"""A difference names what came and what went."""

from __future__ import annotations

import subprocess
import sys

import pytest

from labkit.lab import Snapshot

EARLIER = Snapshot("one", ("uts namespace uts:[1]",), ("mount / (ext4)",), ("cgroup 0::/",))
LATER = Snapshot("two", ("uts namespace uts:[2]",), ("mount / (ext4)", "mount /mnt (tmpfs)"), ("cgroup 0::/",))


def test_a_difference_names_what_is_new_and_what_is_gone() -> None:
    assert repr(LATER - EARLIER).splitlines() == [
        "gone: host name one",
        "gone: uts namespace uts:[1]",
        "new:  host name two",
        "new:  uts namespace uts:[2]",
        "new:  mount /mnt (tmpfs)",
    ]


def test_no_difference_is_false_and_says_so() -> None:
    assert not EARLIER - EARLIER
    assert repr(EARLIER - EARLIER).startswith("no difference")


@pytest.mark.root
def test_a_real_change_shows() -> None:
    """In a process of its own, which leaves its UTS and mount namespaces and mounts something."""
    program = """
from labkit.kernel.syscalls import mount, sethostname, unshare
from labkit.lab import Snapshot
before = Snapshot.take()
unshare(0x04000000 | 0x00020000)
mount(None, "/", None, 0x44000)
mount("none", "/mnt", "tmpfs")
sethostname("other")
print(Snapshot.take() - before)
"""
    said = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout
    assert "new:  host name other" in said
    assert "new:  mount /mnt (tmpfs)" in said
    assert said.count("uts namespace") == said.count("mnt namespace") == 2
