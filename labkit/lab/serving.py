"""The other side of `labkit.lab.child`: takes operations and shell commands as lines of JSON, and answers.

Single-threaded, and imports all it will need at once: after a change of root, Python's library may be out of reach.
"""

from __future__ import annotations

import json
import os
import pkgutil
import signal
import socket
import subprocess
from importlib import import_module
from typing import Any, NoReturn

import labkit.kernel
from labkit.errors import KernelError
from labkit.plan import Context, Operation, Record, decode, perform

_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def serve(fd: int) -> NoReturn:
    """Answer until the other side closes its end. Never returns."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # interrupting a cell isn't meant for this process
    for module in pkgutil.iter_modules(labkit.kernel.__path__, "labkit.kernel."):
        import_module(module.name)
    context = Context()
    null = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    with socket.socket(fileno=fd) as sock:
        sock.set_inheritable(False)  # what is executed here must not keep the conversation open
        lines = sock.makefile("rwb")
        _answer(lines, {"ready": True})
        for line in lines:
            message = json.loads(line)
            _answer(lines, _do(message["do"], context) if "do" in message else _sh(message["sh"], null))
    os._exit(0)


def _answer(lines: Any, answer: dict[str, Any]) -> None:
    lines.write(json.dumps(answer).encode() + b"\n")
    lines.flush()


def _do(data: list[Any], context: Context) -> dict[str, Any]:
    operation = decode(data)
    began = context.pid
    try:
        record = perform(0, operation, context)
    except KernelError as error:
        return {"error": (error.call, error.errno, error.hint, error.operation)}
    if context.in_child:
        # The clone goes on with the conversation. What the call returned, only its parent knows: here it is 0.
        context.in_child = False
    elif context.pid != began:
        _stand_by(context)
    return {"done": told(operation, record)}


def _stand_by(context: Context) -> NoReturn:
    """The process that was cloned from waits for its clone, and ends as it does."""
    _, status = os.waitpid(context.pid, 0)
    os._exit(os.waitstatus_to_exitcode(status) & 0xFF)


def told(operation: Operation, record: Record) -> dict[str, Any]:
    """An executed operation in the form in which the engine's traces tell it."""
    keys = ("name", "arguments", "result", "errno")
    calls = [
        dict(zip(keys, call, strict=False)) | {"microseconds": (call[5] - call[4]) / 1000} for call in record.calls
    ]
    return {
        "name": type(operation).__name__,
        "describe": operation.describe(),
        "man": operation.man,
        "error": record.error,
        "began": record.began,
        "ended": record.ended,
        "calls": calls,
    }


def _sh(command: str, null: int) -> dict[str, Any]:
    try:
        done = subprocess.run(
            ["/bin/sh", "-c", command],
            stdin=null,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={"PATH": _PATH},
            check=False,
        )
    except OSError as error:
        return {"error": (f"execve('/bin/sh', {command!r})", error.errno, "the present root has no shell", "sh")}
    return {"output": done.stdout.decode(errors="replace"), "status": done.returncode}
