"""`update`: limits and the restart policy of containers that exist."""

from __future__ import annotations

import json

from labkit.cli.container_body import update_body
from labkit.cli.grammar import Invocation, StatusError
from labkit.cli.runners.lifecycle import each
from labkit.cli.session import Session


def update(session: Session, given: Invocation) -> None:
    if not given.options:
        raise StatusError("you must provide one or more flags when using this command")
    body = update_body(given)
    warnings: list[str] = []

    def updated(name: str, answer: bytes) -> str:
        warnings.extend(json.loads(answer)["Warnings"] or ())
        return name

    try:
        each(
            session,
            given.arguments,
            lambda name: session.client.begin("POST", f"/containers/{name}/update", body=body),
            updated,
        )
    finally:
        if warnings:
            session.out("\n".join(warnings) + "\n")
