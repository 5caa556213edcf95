"""A daemon, and its spawner, that are killed before or after the n-th operation that anybody carries out or takes back.

Daemon, spawner and the inits of containers all get a hook around `labkit.plan`'s two ways to use an operation, and
around the calls by which one of their own files gets or loses a name: those count as operations here. An init sees
neither pid, and soon another root: it keeps a directory open, writes to a FIFO there, and goes on when nobody reads
that any more. A thread of the daemon reads it, and kills.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import sys
from typing import Any

from tests.support.daemon import PATIENCE, Daemon
from tests.support.dockerd import Isolated

Requests = tuple[tuple[str, str, Any], ...]

HOOK = """
import os, select
from labkit import errors, plan
def hook(folder):
    HIGH = 900
    def stay():
        place = os.open(folder, os.O_PATH | os.O_DIRECTORY)
        os.dup2(place, HIGH, inheritable=False)
        os.close(place)
    stay()
    def opened(name, flags):
        return os.open(name, flags, 0o600, dir_fd=HIGH)
    def armed():
        try:
            os.fstat(HIGH)
        except OSError:  # a child that is parked closes what it has
            stay()
        try:
            return os.readlink("armed", dir_fd=HIGH)
        except FileNotFoundError:
            return ""
    def counted(what):
        if not armed():
            return 0
        end = opened("seen", os.O_RDWR | os.O_CREAT | os.O_APPEND)
        os.write(end, what.encode() + b"\\n")
        number = os.pread(end, 1 << 16, 0).count(b"\\n")
        os.close(end)
        return number
    def here(when, number):
        victim, then, wanted = (armed() or "- - 0").split()
        if not number or (then, int(wanted)) != (when, number):
            return
        try:
            os.close(opened("killed", os.O_WRONLY | os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            return  # a fork comes here twice
        end = opened("fifo", os.O_WRONLY | os.O_NONBLOCK)
        os.write(end, victim[0].encode())
        poll = select.poll()
        poll.register(end, 0)  # POLLERR: nobody reads any more, the victim is dead
        poll.poll()
        os.close(end)
    def perform(index, operation, context, original=plan.perform):
        number = 0 if operation.ahead else counted(type(operation).__name__)
        here("before", number)
        record = original(index, operation, context)
        here("after", number)
        return record
    def undo(operations, done, context, original=plan.undo):
        failed = []
        for index, operation in reversed(operations):
            if index in done:
                number = counted("~" + type(operation).__name__)
                here("before", number)
                failed += original(((index, operation),), done, context)
                here("after", number)
        return failed
    plan.perform, plan.undo = perform, undo
    from labkit.runtime import parking
    def program(work, last, original=parking.Work.program):  # what comes next is done by the C library
        number = counted(type(last).__name__)
        here("before", number)
        found = original(work, last)
        here("after", number)
        return found
    parking.Work.program = program
    def around(name, original):
        def called(path, *rest, **named):
            if named.get("dir_fd") is None and not os.fspath(path).startswith(folder):
                return original(path, *rest, **named)
            number = counted(name)
            here("before", number)
            original(path, *rest, **named)
            here("after", number)
        os.supports_dir_fd.add(called)  # shutil asks for it
        setattr(os, name, called)
    for name in ("rename", "replace", "unlink", "rmdir"):
        around(name, getattr(os, name))
"""

DAEMON = f"""{HOOK}
import signal, sys, threading, time
folder = sys.argv[1]
def kill():
    while True:
        with open(folder + "/fifo", "rb") as end:
            if end.read(1) == b"d":
                os.kill(os.getpid(), signal.SIGKILL)
            with open(folder + "/spawner") as file:
                victim = os.pidfd_open(int(file.read()))
            signal.pidfd_send_signal(victim, signal.SIGKILL)
            select.select([victim], [], [])
            os.close(victim)
        while os.path.islink(folder + "/armed"):
            time.sleep(0.01)  # whoever wrote shall see that nobody reads
threading.Thread(target=kill, daemon=True).start()
hook(folder)
from labkit.runtime import spawning
spawning._PROGRAM = sys.argv[2] + spawning._PROGRAM
from labkit.cli.main import main
sys.exit(main(sys.argv[3:]))
"""
SPAWNER = f"""import sys
sys.path.append(sys.argv[1])
{HOOK}
with open(FOLDER + "/spawner", "w") as file:
    file.write(str(os.getpid()))
hook(FOLDER)
"""


class Mortal(Isolated):
    """A daemon that can be told when to die, or when its spawner shall."""

    def start(self) -> None:
        with contextlib.suppress(FileExistsError):
            os.mkfifo(self.root / "fifo")
        super().start()

    def command(self) -> list[str]:
        words = Daemon.command(self)
        spawner = f"FOLDER = {str(self.root)!r}\n{SPAWNER}"
        return self.in_network([sys.executable, "-c", DAEMON, str(self.root), spawner, *words[words.index("daemon") :]])

    def killed_at(self, victim: str, when: str, number: int, requests: Requests) -> str:
        """Make requests while `victim` dies at this moment: at which operation it did, empty if it came to no such.

        The daemon runs after it.
        """
        assert self.process
        for name in ("seen", "killed"):
            (self.root / name).unlink(missing_ok=True)
        armed = self.root / "armed"
        armed.symlink_to(f"{victim} {when} {number}")
        try:
            ask(self, requests)
        finally:
            armed.unlink()
        if not (self.root / "killed").exists():
            return ""
        if victim == "daemon":
            assert self.process.wait(PATIENCE) == -9
            self.start()
        return f"{when} {(self.root / 'seen').read_text().split()[number - 1]}, the {number}."

    def operations(self) -> list[str]:
        """What was carried out and taken back (~) in the last `killed_at`."""
        return (self.root / "seen").read_text().split()


def ask(daemon: Daemon, requests: Requests) -> None:
    """Make requests, which may fail only because somebody has died. `{Id}` is what the one before was told."""
    answer: Any = None
    for method, path, body in requests:
        try:
            status, answer = daemon.request(method, path.format_map(answer if isinstance(answer, dict) else {}), body)
        except (ConnectionError, http.client.HTTPException):
            return
        if status >= 300:
            assert status == 503 or "spawner" in str(answer) or "is not running" in str(answer), (path, answer)
            return
