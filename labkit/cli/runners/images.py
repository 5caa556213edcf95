"""`images`, `history`, `rmi`, `tag`: the image store from outside (Engine API `ImageList`, `ImageHistory`)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from labkit.cli.grammar import Invocation, StatusError
from labkit.cli.references import ellipsis, familiar, short_id, split_name
from labkit.cli.session import Session
from labkit.cli.tables import Row, write_rows
from labkit.cli.units import ago, go_time, human_size, rfc3339
from labkit.client.engine import encode_filters
from labkit.errors import LabkitError, NotFound

_CREATED = "{{if .CreatedSince }}{{.CreatedSince}}{{else}}N/A{{end}}"
TABLE = f"table {{{{.Repository}}}}\t{{{{.Tag}}}}\t{{{{.ID}}}}\t{_CREATED}\t{{{{.Size}}}}"
_DIGESTS = f"table {{{{.Repository}}}}\t{{{{.Tag}}}}\t{{{{.Digest}}}}\t{{{{.ID}}}}\t{_CREATED}\t{{{{.Size}}}}"
HEADERS = {
    "ID": "IMAGE ID",
    "Repository": "REPOSITORY",
    "Tag": "TAG",
    "Digest": "DIGEST",
    "CreatedSince": "CREATED",
    "CreatedAt": "CREATED AT",
    "Size": "SIZE",
    "Containers": "CONTAINERS",
    "VirtualSize": "SIZE",
    "SharedSize": "SHARED SIZE",
    "UniqueSize": "UNIQUE SIZE",
}
_HISTORY = "table {{.ID}}\t{{.CreatedSince}}\t{{.CreatedBy}}\t{{.Size}}\t{{.Comment}}"
_HISTORY_PLAIN = "table {{.ID}}\t{{.CreatedAt}}\t{{.CreatedBy}}\t{{.Size}}\t{{.Comment}}"
_HISTORY_HEADERS = {
    "ID": "IMAGE",
    "CreatedSince": "CREATED",
    "CreatedAt": "CREATED AT",
    "CreatedBy": "CREATED BY",
    "Size": "SIZE",
    "Comment": "COMMENT",
}


def images(session: Session, given: Invocation) -> None:
    if given.flag("tree"):
        from labkit.cli.runners.tree import images_tree

        images_tree(session, given)
        return
    filters = given.all("filter") + [("reference", name) for name in given.arguments]
    query = {"all": given.flag("all"), "filters": encode_filters(filters), "digests": given.flag("digests")}
    template = given.text("format") or "table"
    digests = given.flag("digests")
    if template == "table":
        template = "{{.ID}}" if given.flag("quiet") else _DIGESTS if digests else TABLE
    with_digest = digests or "{{.Digest}}" in template
    rows = (
        row
        for image in session.client.get("/images/json", query)
        for row in image_rows(image, not given.flag("no-trunc"), with_digest, digests)
    )
    session.out(write_rows(template, rows, HEADERS, "*formatter.imageContext"))


def image_rows(
    image: Mapping[str, Any], truncate: bool = True, with_digest: bool = False, row_per_digest: bool = False
) -> Iterator[Row]:
    """One row a tag; `<none>` where an image has no name, or only one by digest."""
    tags = [split_name(familiar(tag)) for tag in image.get("RepoTags") or () if tag != "<none>:<none>"]
    digests: dict[str, list[str]] = {}
    for reference in image.get("RepoDigests") or ():
        name, _, digest = split_name(familiar(reference))
        if digest and name != "<none>":
            digests.setdefault(name, []).append(digest)
    if not tags and not digests:
        yield image_row(image, truncate, "<none>", "<none>", "<none>")
    for name, tag, _ in tags:
        for digest in (digests.get(name) if with_digest else None) or ("<none>",):
            yield image_row(image, truncate, name, tag, digest)
    named = {name for name, _, _ in tags}
    for name in digests.keys() - named:
        for digest in digests[name] if row_per_digest else ("",):
            yield image_row(image, truncate, name, "<none>", digest)


def image_row(image: Mapping[str, Any], truncate: bool, name: str, tag: str, digest: str) -> Row:
    """One row, of an image under one of its names."""
    size, shared = image.get("Size") or 0, image.get("SharedSize", -1)
    count = image.get("Containers", -1)
    return {
        "ID": short_id(image["Id"]) if truncate else image["Id"],
        "Repository": name,
        "Tag": tag,
        "Digest": digest,
        "CreatedSince": lambda: ago(image["Created"]),
        "CreatedAt": lambda: go_time(image["Created"]),
        "Size": lambda: human_size(size, 3),
        "VirtualSize": lambda: human_size(size),
        "Containers": lambda: "N/A" if count == -1 else str(count),
        "SharedSize": lambda: "N/A" if shared == -1 else human_size(shared),
        "UniqueSize": lambda: "N/A" if -1 in (shared, size) else human_size(size - shared),
    }


def history(session: Session, given: Invocation) -> None:
    human = given.options.get("human", True)
    layers = session.client.get(f"/images/{given.arguments[0]}/history", {"platform": platform_json(given)})
    template = given.text("format") or "table"
    if template == "table":
        template = "{{.ID}}" if given.flag("quiet") else _HISTORY if human else _HISTORY_PLAIN
    rows = (_history_row(layer, not given.flag("no-trunc"), human) for layer in layers)
    session.out(write_rows(template, rows, _HISTORY_HEADERS, "*formatter.historyContext"))


def platform_json(given: Invocation) -> str | None:
    """`os/arch/variant` as the JSON that the API's `platform` takes."""
    if not given.text("platform"):
        return None
    import json

    names = ("os", "architecture", "variant")
    return json.dumps(dict(zip(names, given.text("platform").split("/"), strict=False)))


def _history_row(layer: Mapping[str, Any], truncate: bool, human: bool) -> Row:
    created_by = layer["CreatedBy"].replace("\t", " ")
    created_at = rfc3339(layer["Created"])
    return {
        "ID": short_id(layer["Id"]) if truncate else layer["Id"],
        "CreatedAt": created_at,
        "CreatedSince": lambda: ago(layer["Created"]) if human else created_at,
        "CreatedBy": ellipsis(created_by, 45) if truncate else created_by,
        "Size": human_size(layer["Size"], 3) if human else str(layer["Size"]),
        "Comment": layer.get("Comment", ""),
    }


def rmi(session: Session, given: Invocation) -> None:
    query = {"force": given.flag("force"), "noprune": given.flag("no-prune")}
    failures = []
    fatal = False
    for name in given.arguments:
        try:
            removed = session.client.request("DELETE", f"/images/{name}", query).json()
        except LabkitError as error:
            failures.append(str(error))
            fatal = fatal or not isinstance(error, NotFound)
            continue
        for entry in removed:
            session.out(
                f"Deleted: {entry['Deleted']}\n" if entry.get("Deleted") else f"Untagged: {entry['Untagged']}\n"
            )
    if failures and (fatal or not given.flag("force")):
        raise StatusError("\n".join(failures))
    if failures:
        session.err("\n".join(failures) + "\n")


def tag(session: Session, given: Invocation) -> None:
    source, target = given.arguments
    name, tag_, digest = split_name(target)
    if digest:
        raise StatusError(f'invalid reference "{target}": refusing to create a tag with a digest reference')
    session.client.post(f"/images/{source}/tag", {"repo": name, "tag": tag_ or "latest"})
