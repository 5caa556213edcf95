"""What a container's log says of it besides its output: labels, variables, a tag (moby `daemon/logger/loginfo.go`)."""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Callable, Mapping

from labkit.engine.models import ContainerRecord
from labkit.errors import InvalidParameter
from labkit.templates.parsing import TemplateError
from labkit.templates.rendering import render

_REGEX_FAULTS = {"missing ), unterminated subpattern": "missing closing )"}


def extra(record: ContainerRecord, rename: Callable[[str], str] = str) -> dict[str, str]:
    """The labels and variables that the options `labels`, `env`, `labels-regex` and `env-regex` name.

    Raises InvalidParameter for a bad regular expression.
    """
    options = record.HostConfig.LogConfig.Config or {}
    environment = dict(entry.split("=", 1) for entry in record.Config.Env or [] if "=" in entry)
    found: dict[str, str] = {}
    for kind, values in (("labels", record.Config.Labels or {}), ("env", environment)):
        names = [name for name in options.get(kind, "").split(",") if name in values]
        if pattern := options.get(f"{kind}-regex"):
            wanted = _compiled(pattern)
            names += [name for name in values if wanted.search(name)]
        found |= {rename(name): values[name] for name in names}
    return found


def _compiled(pattern: str) -> re.Pattern[str]:
    try:
        return re.compile(pattern)
    except re.error as error:
        said = _REGEX_FAULTS.get(error.msg, error.msg)
        raise InvalidParameter(f"error parsing regexp: {said}: `{pattern}`") from error


def as_json(attributes: Mapping[str, str]) -> str:
    """Attributes as Go's encoding/json writes them, empty if there are none."""
    if not attributes:
        return ""
    text = json.dumps(dict(sorted(attributes.items())), ensure_ascii=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def facts(record: ContainerRecord) -> dict[str, object]:
    """What a tag's template can name (moby `logger.Info`)."""
    return {
        "ID": record.Id[:12],
        "FullID": record.Id,
        "Name": record.Name.lstrip("/"),
        "ImageID": record.Image[:12],
        "ImageFullID": record.Image,
        "ImageName": record.Config.Image,
        "Command": " ".join([record.Path, *record.Args]),
        "DaemonName": "docker",
        "Hostname": socket.gethostname(),
        "ContainerID": record.Id,
        "ContainerName": record.Name,
        "ContainerEntrypoint": record.Path,
        "ContainerArgs": record.Args,
        "ContainerImageID": record.Image,
        "ContainerImageName": record.Config.Image,
        "ContainerCreated": record.Created,
        "ContainerEnv": record.Config.Env or [],
        "ContainerLabels": record.Config.Labels or {},
        "Config": record.HostConfig.LogConfig.Config or {},
    }


def tag(record: ContainerRecord, default: str) -> str:
    """The option `tag` (or `default`), a template over `facts`. Raises TemplateError, which is an InvalidParameter."""
    template = (record.HostConfig.LogConfig.Config or {}).get("tag") or default
    try:
        return render(template, facts(record), "*logger.Info")
    except TemplateError as error:
        raise error.named("log-tag") from error
