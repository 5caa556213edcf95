"""`index.json` against the simplest model of a repository: tags to digests, and the digests that were pushed."""

from __future__ import annotations

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from labkit.images.layout import FULL_NAME, REF_NAME
from labkit.images.manifests import OCI_MANIFEST, Descriptor
from labkit.registry.server.documents import digest_of
from labkit.registry.server.entries import (
    LayoutIndex,
    listing_of,
    tag_of,
    with_manifest,
    without_manifest,
    without_tag,
)

DIGESTS = [digest_of(bytes([number])) for number in range(4)]
STEPS = st.lists(
    st.tuples(st.sampled_from(["put", "untag", "remove"]), st.sampled_from(DIGESTS), st.sampled_from(["", "a", "b"])),
    max_size=25,
)


@given(STEPS)
def test_any_pushes_and_deletions(steps: list[tuple[str, str, str]]) -> None:
    index, tags, digests = LayoutIndex(), dict[str, str](), set[str]()
    for step, digest, tag in steps:
        if step == "put":
            index = with_manifest(index, Descriptor(OCI_MANIFEST, digest, 1), tag)
            digests.add(digest)
            tags |= {tag: digest} if tag else {}
        elif step == "untag" and tag:
            index = without_tag(index, tag)
            tags.pop(tag, None)
        elif step == "remove":
            index = without_manifest(index, digest)
            digests.discard(digest)
            tags = {name: found for name, found in tags.items() if found != digest}
        listing = listing_of(index)
        assert {name: entry.digest for name, entry in listing.tags.items()} == tags
        assert set(listing.digests) == digests
        untagged = [entry.digest for entry in index.manifests if not tag_of(entry)]
        assert len(index.manifests) == len(set(tags)) + len(untagged)  # no entry twice
        assert not set(untagged) & set(tags.values())


def test_other_tools_entries_are_kept() -> None:
    """Names that are no tags, other annotations, two entries of a name: a push leaves them as they are."""
    strange = Descriptor(OCI_MANIFEST, DIGESTS[0], 1, annotations={REF_NAME: "docker.io/library/a:1", "x": "y"})
    bare = Descriptor("application/json", "md5:abc", 1)
    index = with_manifest(LayoutIndex(manifests=(strange, bare)), Descriptor(OCI_MANIFEST, DIGESTS[1], 1), "v1")
    assert index.manifests[:2] == (strange, bare)
    listing = listing_of(index)
    assert list(listing.tags) == ["v1"]
    assert listing.find(DIGESTS[0]) == strange


def test_a_tag_taken_away_takes_its_full_name_along() -> None:
    named = Descriptor(OCI_MANIFEST, DIGESTS[0], 1, annotations={REF_NAME: "v1", FULL_NAME: "docker.io/a:v1", "x": "y"})
    index = without_tag(LayoutIndex(manifests=(named,)), "v1")
    assert index.manifests == (msgspec.structs.replace(named, annotations={"x": "y"}),)


def test_unknown_fields_of_the_index_are_read() -> None:
    data = b'{"schemaVersion":2,"manifests":[],"annotations":{"a":"b"},"other":1}'
    index = msgspec.json.decode(data, type=LayoutIndex)
    assert msgspec.json.decode(msgspec.json.encode(index))["annotations"] == {"a": "b"}
    assert "annotations" not in msgspec.json.decode(msgspec.json.encode(LayoutIndex()))
