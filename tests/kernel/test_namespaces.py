"""Namespaces: who is cloned into which, and how the shell commands beside the operations read."""

from __future__ import annotations

import os
import signal

import pytest

from labkit.errors import KernelError
from labkit.kernel import constants as c
from labkit.kernel.namespaces import CloneInit, CloneIntoPidNamespace, JoinNamespaces, Unshare, namespace_names
from labkit.plan import Context, Execution


def namespace(pid: int | str, name: str) -> str:
    return os.readlink(f"/proc/{pid}/ns/{name}")


def clone(operation: CloneInit | CloneIntoPidNamespace, context: Context) -> int:
    """Run a fork; in the child, wait to be killed. Returns the child's pid."""
    Execution(((0, operation),), context).run_or_undo()
    if context.in_child:
        signal.pause()
        os._exit(0)
    return context.pid


def end(context: Context) -> None:
    os.kill(context.pid, signal.SIGKILL)
    os.waitpid(context.pid, 0)
    os.close(context.descriptors["pidfd"])


@pytest.mark.root
def test_a_clone_has_the_namespaces_that_were_asked_for_and_no_others() -> None:
    context = Context()
    pid = clone(CloneInit(c.CLONE_NEWPID | c.CLONE_NEWUTS), context)
    try:
        differs = {
            name for name in ("pid", "uts", "ipc", "net", "mnt") if namespace(pid, name) != namespace("self", name)
        }
        assert differs == {"pid", "uts"}
        assert not os.get_inheritable(context.descriptors["pidfd"])
    finally:
        end(context)


@pytest.mark.root
def test_a_second_process_is_forked_into_the_first_ones_pid_namespace() -> None:
    first, before = Context(), namespace("self", "pid_for_children")
    pid = clone(CloneInit(c.CLONE_NEWPID), first)
    second = Context({"target": first.descriptors["pidfd"]})
    try:
        other = clone(CloneIntoPidNamespace(pid), second)
        assert namespace(other, "pid") == namespace(pid, "pid") != namespace("self", "pid")
        with open(f"/proc/{other}/status", encoding="ascii") as file:
            numbers = next(line.split()[1:] for line in file if line.startswith("NSpid:"))
        assert (numbers[0], numbers[-1]) == (str(other), "2")
        assert namespace("self", "pid_for_children") == before  # the caller is back where it was
        end(second)
    finally:
        end(first)


@pytest.mark.root
def test_a_failed_join_leaves_the_caller_where_it_was() -> None:
    before = namespace("self", "pid_for_children")
    with open("/dev/null") as no_process, pytest.raises(KernelError, match="setns"):
        CloneIntoPidNamespace(1).run(Context({"target": no_process.fileno()}))
    assert namespace("self", "pid_for_children") == before


def test_in_words_and_by_hand() -> None:
    flags = c.CLONE_NEWNET | c.CLONE_NEWPID
    assert set(namespace_names(flags).split(", ")) == {"network", "pid"}
    assert set(Unshare(flags).shell().split()) == {"unshare", "--net", "--pid", "--fork", "\\"}
    assert set(JoinNamespaces(7, flags).shell().split()) == {"nsenter", "--target", "7", "--net", "--pid", "\\"}
