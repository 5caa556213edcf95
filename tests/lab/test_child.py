"""A learner's process: operations run in it for real, and nothing of it is left when it ends."""

from __future__ import annotations

import os
import socket

import pytest

from labkit.errors import KernelError, LabkitError, Unavailable
from labkit.kernel import constants as c
from labkit.kernel.mounts import Mount, SetPropagation
from labkit.kernel.namespaces import CloneInit, SetHostname, Unshare
from labkit.kernel.process import Execute
from labkit.lab import Child, Snapshot

pytestmark = pytest.mark.root


def test_what_is_done_in_the_child_stays_in_it(capsys: pytest.CaptureFixture[str]) -> None:
    before = Snapshot.take()
    with Child() as child:
        told = child.do(Unshare(c.CLONE_NEWUTS), SetHostname("of-the-child"))
        child.sh("hostname")
    assert capsys.readouterr().out == "of-the-child\n"
    assert socket.gethostname() == before.hostname != "of-the-child"
    assert 'sethostname("of-the-child") = 0' in told.text()
    after = Snapshot.take()  # the host's mounts are other tests' too
    assert (after.hostname, after.namespaces, after.cgroups) == (before.hostname, before.namespaces, before.cgroups)


def test_after_a_clone_one_talks_to_the_clone(capsys: pytest.CaptureFixture[str]) -> None:
    with Child() as child:
        child.do(CloneInit(c.CLONE_NEWPID | c.CLONE_NEWNS))
        child.do(SetPropagation("/", c.MS_REC | c.MS_PRIVATE), Mount("proc", "/proc", "proc"))
        child.sh("echo $PPID; ls -d /proc/1; readlink /proc/1/exe")
    parent, first, program = capsys.readouterr().out.split()
    assert (parent, first) == ("1", "/proc/1")
    assert os.path.basename(program).startswith("python")


def test_ending_it_ends_what_it_has_cloned() -> None:
    child = Child()
    child.do(CloneInit(c.CLONE_NEWPID))
    with open(f"/proc/{child._process.pid}/task/{child._process.pid}/children", encoding="ascii") as file:
        (clone,) = file.read().split()
    child.end()
    assert not os.path.exists(f"/proc/{clone}")
    assert child._process.returncode == 0


def test_what_the_kernel_refuses_is_raised_here_and_the_child_goes_on(capsys: pytest.CaptureFixture[str]) -> None:
    with Child() as child:
        with pytest.raises(KernelError, match=r"Mount: mount.*ENODEV"):
            child.do(Unshare(c.CLONE_NEWNS), Mount("none", "/mnt", "nosuchfs"))
        child.sh("echo still here")
    assert capsys.readouterr().out == "still here\n"


def test_a_shell_command_that_fails_is_an_error_with_its_output_shown(capsys: pytest.CaptureFixture[str]) -> None:
    with Child() as child, pytest.raises(LabkitError, match="exit status 3"):
        child.sh("echo said; exit 3")
    assert capsys.readouterr().out == "said\n"


def test_a_child_that_has_ended_says_so() -> None:
    child = Child()
    child.end()
    child.end()
    assert repr(child) == "a process that has ended"
    with pytest.raises(Unavailable, match="make another one"):
        child.sh("true")


def test_a_child_that_became_another_program_has_gone_away() -> None:
    with Child() as child, pytest.raises(Unavailable, match=r"gone away \(exit status 3\)"):
        child.do(Execute(("sh", "-c", "exit 3"), ()))


def test_a_child_that_was_killed_says_so() -> None:
    with Child() as child:
        child._process.kill()
        with pytest.raises(Unavailable, match="gone away"):
            child.sh("true")
