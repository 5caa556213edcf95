"""Why a container ended, told from what the engine has written down of it (`GET /labkit/endings/ID`)."""

from __future__ import annotations

import signal
from typing import Any

from labkit.cli.units import bytes_size
from labkit.explain.choice import Choice
from labkit.explain.tree import Node

Data = dict[str, Any]
_MEANINGS = {
    125: "the engine could not start it",
    126: "the program is there, and could not be run",
    127: "there is no such program",
}


def ending_node(ending: Data, choice: Choice) -> Node:
    """The reason of a container's end, with what speaks for it below."""
    remarks = [ending["At"]] if choice.times else []
    details = [*_memory(ending.get("Memory"), choice.style.stable), *_health(ending.get("Health"))]
    if ending.get("Trace") and not choice.style.stable:
        details.append(f"the request is in trace {ending['Trace']}")
    if ending.get("Error"):
        details.append(ending["Error"])
    if ending.get("Next"):
        details.append(f"after it: {ending['Next']}")
    said = f"why it ended: exit code {ending['ExitCode']}, {reason(ending)}"
    return Node("ending", said, tuple(remarks), tuple(Node("detail", choice.style.words(text)) for text in details))


def reason(ending: Data) -> str:
    """Who or what ended it, in one clause."""
    code, number = ending["ExitCode"], ending["Signal"]
    killed = f"killed by {_name(number)}" if number else "it left by itself"
    told = {
        "memory": f"{killed}: its memory was used up, and the kernel chose this process",
        "client": f"{_after(ending)} that a client's `{ending.get('Verb', '')}` had it sent",
        "daemon": f"{_after(ending)} that the daemon sent when it was told to end",
        "signal": f"{killed}, which the engine has not sent: it came from inside, from another process of the host, "
        "or it was a fault of the program's",
        "lost": "nobody saw its end",
        "start": f"it never ran: {_MEANINGS.get(code, 'its start failed')}",
    }
    return told.get(ending["By"]) or _by_itself(code)


def _by_itself(code: int) -> str:
    if code == 0:
        return "it left by itself, done"
    if code > 128 and (name := _name(code - 128)) != str(code - 128):
        return f"it left by itself with 128 + {code - 128}, as a shell does whose command was killed by {name}"
    meaning = f": a shell says so when {_MEANINGS[code]}" if code in (126, 127) else ""
    return f"it left by itself{meaning}"


def _after(ending: Data) -> str:
    """Killed by a signal, or gone of its own accord upon one."""
    return f"killed by the {_name(ending['Signal'])}" if ending["Signal"] else "it left by itself upon a signal"


def _memory(counts: Data | None, stable: bool) -> list[str]:
    if not counts:
        return []
    times = "" if stable else f" {counts['Failures']} times"
    hits = f", which was hit{times}" if counts["Failures"] else ""
    killed = "some" if stable else counts["Kills"]
    kills = f"the kernel killed {killed} of its processes for want of memory"
    peak, limit = (bytes_size(counts[name]) for name in ("Peak", "Limit"))
    return [f"memory: at most {peak} of {limit}{hits}; {kills}"]


def _health(result: Data | None) -> list[str]:
    if not result:
        return []
    said = f": {result['Output'].strip()}" if result["Output"].strip() else ""
    return [f"its health check was failing: exit code {result['ExitCode']}{said}"]


def _name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return str(number)
