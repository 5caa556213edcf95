"""A process to experiment with: what is done in it stays in it, and the notebook's own process remains as it was.

It stands where a container's first process stands between its fork and its exec: operations travel to it as
data and are run there (`labkit.lab.serving` is its side). Namespaces and mounts that it makes are gone when it ends.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from types import TracebackType
from typing import Any, Self

import labkit
from labkit.errors import KernelError, LabkitError, Unavailable
from labkit.explain.choice import Choice
from labkit.explain.decode import Style
from labkit.explain.telling import operation_node
from labkit.explain.tree import Explanation, Node
from labkit.plan import Operation, encode

_ROOT = os.path.dirname(os.path.dirname(os.path.abspath(labkit.__file__)))
_PROGRAM = """import sys
sys.path.append(sys.argv[1])
from labkit.lab.serving import serve
serve(int(sys.argv[2]))"""
_TOLD = Choice(Style(stable=True), times=False, folded=False)


class CommandFailed(LabkitError):
    """A shell command in a child had another exit status than 0."""

    def _render_traceback_(self) -> list[str]:
        """What IPython shows: the error alone, because no line of Python is to blame."""
        return [f"{type(self).__name__}: {self}"]


class Child:
    """A fresh process. `do` runs operations in it, `sh` a shell command; `end` ends it and all that it has made.

    After CloneInit one talks to the process that was cloned. Usable in a `with` statement, too.
    """

    def __init__(self) -> None:
        own, theirs = socket.socketpair()
        with theirs:
            argv = [sys.executable, "-I", "-S", "-c", _PROGRAM, _ROOT, str(theirs.fileno())]
            self._process = subprocess.Popen(argv, pass_fds=(theirs.fileno(),), stdin=subprocess.DEVNULL)
        self._sock, self._lines = own, own.makefile("rb")
        self._answer()

    @property
    def pid(self) -> int:
        """Its number here, by which /proc shows it: namespaces that it has unshared are /proc/PID/ns/*."""
        return self._process.pid

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.end()

    def __repr__(self) -> str:
        return "a process of its own" if self._process.returncode is None else "a process that has ended"

    def do(self, *operations: Operation) -> Explanation:
        """Run operations in the process, in order. Returns what displays as the calls that were made.

        Raises KernelError as the kernel refused the first that failed; those before it remain done.
        """
        told = tuple(operation_node(self._run(operation), _TOLD) for operation in operations)
        return Explanation((Node("process", "in the child", children=told),))

    def _run(self, operation: Operation) -> dict[str, Any]:
        answer = self._ask({"do": encode(operation)})
        if "error" in answer:
            raise KernelError(*answer["error"])
        told: dict[str, Any] = answer["done"]
        return told

    def sh(self, command: str) -> None:
        """Run a shell command as a child of the process, and print what it says. CommandFailed if it fails."""
        answer = self._ask({"sh": command})
        if "error" in answer:
            raise KernelError(*answer["error"])
        print(answer["output"], end="")
        if answer["status"]:
            raise CommandFailed(f"{command}: exit status {answer['status']}")

    def end(self) -> None:
        """End the process. Its namespaces go with it, and with them the mounts; ending it twice does no harm."""
        self._lines.close()
        self._sock.close()
        self._process.wait()

    def _ask(self, message: dict[str, Any]) -> dict[str, Any]:
        if self._lines.closed:
            raise Unavailable("this process has ended: make another one with Child()")
        try:
            self._sock.sendall(json.dumps(message).encode() + b"\n")
            return self._answer()
        except ConnectionError:
            raise self._gone() from None

    def _answer(self) -> dict[str, Any]:
        line = self._lines.readline()
        if not line:
            raise self._gone()
        answer: dict[str, Any] = json.loads(line)
        return answer

    def _gone(self) -> Unavailable:
        self.end()
        return Unavailable(f"the process has gone away (exit status {self._process.returncode})")
