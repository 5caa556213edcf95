"""`%docker` and `%explain`. The first is the `labkit` command in a cell: the same table, the same runners.

What fails raises: a cell whose command had another exit status than 0 is a failed cell.
"""

from __future__ import annotations

import re
import shlex
from importlib import import_module
from typing import Any

from IPython.core.magic import Magics, line_magic, magics_class, no_var_expand

from labkit.cli.grammar import StatusError
from labkit.cli.session import Session, invoke
from labkit.client.locate import locate
from labkit.errors import LabkitError
from labkit.notebook.actions import last_spans, remember
from labkit.notebook.cell import CellStreams

_GO_TEMPLATE = re.compile(r"\{\{.*?\}\}", re.DOTALL)
_HELD = "\0{}\0"  # stands for a template while IPython expands the rest


class DockerCommandError(LabkitError):
    """A command in a cell failed. Has its `exit_code`; what it said is `str()`."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code

    def _render_traceback_(self) -> list[str]:
        """What IPython shows: the error alone, because no line of Python is to blame."""
        return [f"{type(self).__name__}: {self}"]


def _command_error(error: LabkitError) -> DockerCommandError:
    return DockerCommandError(str(error), error.exit_code if isinstance(error, StatusError) else 1)


@magics_class
class DockerMagics(Magics):
    """The magics of `%load_ext labkit`."""

    @no_var_expand
    @line_magic
    def docker(self, line: str) -> None:
        """Run a docker command on labkit's engine, or on the one that DOCKER_HOST names.

        `{name}` and `$name` are expanded as for `!`; a Go template such as `{{.Names}}` stays as it is.
        DockerCommandError if the command fails.
        """
        words = self._words(line)
        streams = CellStreams()
        session = Session("docker", streams)
        try:
            status = invoke(session, words)
        except LabkitError as error:
            raise _command_error(error) from error
        finally:
            streams.finish()
            session.close()
            if session.asked:
                remember(session.asked.spans)
        if status:
            raise DockerCommandError(f"docker {' '.join(words[:1])}: exit status {status}", status)
        if streams.interrupts:
            raise KeyboardInterrupt

    def _words(self, line: str) -> list[str]:
        held: list[str] = []

        def hold(match: re.Match[str]) -> str:
            held.append(match[0])
            return _HELD.format(len(held) - 1)

        text = _GO_TEMPLATE.sub(hold, line)
        # depth: the names are looked up in the frame that called the magic, as IPython itself does.
        shell: Any = self.shell
        expanded: str = shell.var_expand(text, depth=2)
        for number, template in enumerate(held):
            expanded = expanded.replace(_HELD.format(number), template)
        try:
            return shlex.split(expanded)
        except ValueError as error:
            raise DockerCommandError(f"{error} in: {expanded}", 125) from error

    @no_var_expand
    @line_magic
    def explain(self, line: str) -> Any:
        """Show the kernel calls behind the last action, or behind a container or trace that is named."""
        client = locate()
        try:
            return import_module("labkit.explain").explain(client, self._words(line), last_spans())
        except LabkitError as error:
            raise _command_error(error) from error
        finally:
            client.close()
