"""A registry to experiment with: a process of its own, on loopback, with its files in a directory that goes with it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from email.message import Message
from http.client import HTTPConnection
from tempfile import mkdtemp
from types import MappingProxyType, TracebackType
from typing import Any, Self

import labkit
from labkit.errors import Unavailable

_ROOT = os.path.dirname(os.path.dirname(os.path.abspath(labkit.__file__)))
_SCRIPT = """"$@" </dev/null & registry=$!
exec >/dev/null
cat
{ kill $registry; wait $registry; } 2>/dev/null
rm -rf -- "$0\""""
"""Ends the registry, and removes its files (in $0), when nobody holds the other end of this shell's stdin any more."""

_TELLING = frozenset(("location", "docker-content-digest", "content-type", "range", "www-authenticate", "link"))


@dataclass(frozen=True)
class Reply:
    """What a registry answered to a request; shows both as lines, `>` sent and `<` received."""

    method: str
    path: str
    sent: Mapping[str, str]
    status: int
    reason: str
    headers: Message
    body: bytes

    def __repr__(self) -> str:
        asked = [f"{self.method} {self.path}", *(f"{name}: {value}" for name, value in self.sent.items())]
        told = [f"{self.status} {self.reason}", *(f"{name}: {value}" for name, value in self._telling())]
        shown = [self.body.decode()] if self._is_json() and self.body else []
        return "\n".join([*(f"> {line}" for line in asked), *(f"< {line}" for line in told), *shown])

    def json(self) -> Any:
        """The body, decoded."""
        return json.loads(self.body)

    def _telling(self) -> list[tuple[str, str]]:
        """The headers that say something about images."""
        return [(name, value) for name, value in self.headers.items() if name.lower() in _TELLING]

    def _is_json(self) -> bool:
        return "json" in self.headers.get("Content-Type", "")


class Registry:
    """A labkit registry that runs until `end`, or until this process ends. Usable in a `with` statement, too.

    `host` is what image names begin with, as in `127.0.0.1:34567/hello`; `root` is where its files are. Raises
    Unavailable if it doesn't start.
    """

    def __init__(self) -> None:
        self.root = mkdtemp(prefix="labkit-registry-")
        program = [sys.executable, "-m", "labkit.cli.main", "registry", "--addr", "127.0.0.1:0", "--root", self.root]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([_ROOT, os.environ.get("PYTHONPATH", "")])}
        self._process = subprocess.Popen(
            ["/bin/sh", "-c", _SCRIPT, self.root, *program, "--log-level", "error"],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,  # interrupting a cell isn't meant for it
        )
        assert self._process.stdout
        said = self._process.stdout.readline()
        if "://" not in said:
            self.end()
            raise Unavailable(f"the registry did not start: {said.strip() or 'it said nothing'}")
        self.host = said.split("://")[1].strip()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.end()

    def __repr__(self) -> str:
        return f"a registry at {self.host}" if self._process.returncode is None else "a registry that has ended"

    def ask(
        self, method: str, path: str, body: bytes = b"", headers: Mapping[str, str] = MappingProxyType({})
    ) -> Reply:
        """One HTTP request, and what the registry says to it: an error is an answer like any other."""
        connection = HTTPConnection(self.host)
        with closing(connection):
            connection.request(method, path, body or None, dict(headers))
            answer = connection.getresponse()
            return Reply(method, path, headers, answer.status, answer.reason, answer.msg, answer.read())

    def end(self) -> None:
        """End it; its files are removed. Nothing happens if it has ended already."""
        self._process.communicate()
