"""What Docker's own command of one version answers, kept in a file: machines have older and newer ones.

Where that version is installed, the file is compared with it; `LABKIT_RECORD=1` writes its answers into the file.
"""

from __future__ import annotations

import functools
import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

VERSION = "28.2"
FILE = Path(__file__).with_name(f"docker-{VERSION}.json")
VARYING = {
    r"\b[0-9a-f]{64}\b": "<id>",
    r"\b[0-9a-f]{12}\b": "<short id>",
    r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(\.\d+)?(Z| \+0000 UTC)": "<time>",
    r"\b(172\.(1[7-9]|2\d|3[01])|192\.168)\.\d+\.\d+(/\d+)?\b": "<address>",
    r"\blabkit-[0-9a-f]{8}\b": "<bridge>",
    r"(\d+ seconds?|Less than a second|About a minute|\d+ minutes)": "<duration>",
    r'(?<=Size":")[\d.]+MB': "<size>",
    r"(?<=virtual )[\d.]+MB": "<size>",
}
"""What differs from run to run and from machine to machine."""


@functools.cache
def is_installed() -> bool:
    """Whether the docker command of this machine is of the version that was recorded."""
    command = ["docker", "version", "--format", "{{.Client.Version}}"]
    found = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)  # fails with no daemon
    return found.stdout.startswith(f"{VERSION}.")


def answers(subject: str) -> dict[str, Any]:
    """The answers to each line of words about one subject."""
    found: dict[str, Any] = json.loads(FILE.read_text())[subject]
    return found


def check(subject: str, line: str, answer: Any) -> None:
    """Compare the answer of the recorded version, which is installed, with the file."""
    if "LABKIT_RECORD" in os.environ:
        kept = json.loads(FILE.read_text()) if FILE.exists() else {}
        kept.setdefault(subject, {})[line] = answer
        FILE.write_text(json.dumps(kept, indent=1, ensure_ascii=False, sort_keys=True) + "\n")
    assert answers(subject)[line] == answer, f"{FILE.name} is not what docker says to: {line}"


def masked(text: str) -> str:
    for pattern, name in VARYING.items():
        text = re.sub(pattern, name, text)
    return text
