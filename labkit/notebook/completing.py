"""Completion of `%docker` lines: IPython's matcher interface (version 2) on the completion of the command."""

from __future__ import annotations

import re
from typing import Any

from IPython.core.completer import CompletionContext, SimpleCompletion, context_matcher

from labkit.cli.completion import Engine, complete

_LINE = re.compile(r"\s*%?docker\s+(?P<words>.*)", re.DOTALL)


@context_matcher(identifier="labkit.docker")  # type: ignore[untyped-decorator]  # IPython has no types
def docker_matcher(context: CompletionContext) -> dict[str, Any]:
    """What the word before the cursor may become on a line that calls `%docker`; nothing on other lines."""
    line = context.text_until_cursor.rpartition("\n")[2]
    match = _LINE.fullmatch(line)
    if not match:
        return {"completions": []}
    words = match["words"].split()
    if not words or match["words"][-1:].isspace():
        words.append("")
    found = [SimpleCompletion(text=candidate, type="docker") for candidate in complete(words, Engine())]
    return {"completions": found, "matched_fragment": words[-1], "suppress": True, "ordered": True}
