"""The `labkit` command: Docker's grammar on labkit's engine, or on the one that DOCKER_HOST names.

Starts often, so it imports little: see `tests/cli/test_start.py` for what it must not import.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from labkit.cli.session import Session, invoke, report
from labkit.cli.streams import TerminalStreams
from labkit.errors import LabkitError

INTERRUPTED = 130  # 128 + SIGINT, as a shell says it


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit status."""
    words = sys.argv[1:] if argv is None else list(argv)
    if words[:1] == ["__complete"]:
        from labkit.cli.completion import print_candidates

        return print_candidates(words[1:])
    session = Session("labkit", TerminalStreams())
    try:
        return invoke(session, words)
    except LabkitError as error:
        return report(session, error)
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        # Whoever read our output has left; the interpreter must not complain about it at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 141  # 128 + SIGPIPE
    finally:
        session.close()


if __name__ == "__main__":
    sys.exit(main())
