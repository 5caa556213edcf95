"""`commit`, `export`: what a container has made of its image (Engine API `ImageCommit`, `ContainerExport`)."""

from __future__ import annotations

from labkit.cli.grammar import Invocation, StatusError
from labkit.cli.references import split_name
from labkit.cli.runners.archives import write_archive
from labkit.cli.session import Session


def commit(session: Session, given: Invocation) -> None:
    container, *reference = given.arguments
    name, tag, digest = split_name(reference[0]) if reference else ("", "", "")
    if digest:
        raise StatusError("refusing to create a tag with a digest reference")
    query = {
        "container": container,
        "repo": name or None,
        "tag": tag or None,
        "author": given.text("author") or None,
        "comment": given.text("message") or None,
        "changes": given.all("change"),
        "pause": None if given.options.get("pause", True) else "0",
    }
    session.out(session.client.post("/commit", query)["Id"] + "\n")


def export(session: Session, given: Invocation) -> None:
    target = f"/containers/{given.arguments[0]}/export"
    write_archive(session, given.text("output"), "failed to export container", target)
