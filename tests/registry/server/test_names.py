"""Names by the specification's grammar, and where they lead to on the disk."""

from __future__ import annotations

import os
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from labkit.registry.server.names import blob_path, check_name, directory_of, is_tag, name_of
from labkit.registry.server.refusals import Refused

WORDS = st.sampled_from(
    ["a", "b0", "blobs", "sha256", "index.json", "oci-layout", "a__b", "a.b", "a---b", "_blobs", ""]
)
GRAMMAR = r"[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*(\/[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*)*"  # spec.md, Pull


@given(st.text(alphabet="ab0._-/A \n", max_size=12) | st.lists(WORDS, max_size=4).map("/".join))
def test_names(name: str) -> None:
    """What is taken is what the specification's own expression matches; and it stays below the root."""
    if re.fullmatch(GRAMMAR, name):
        directory = directory_of(check_name(name))
        assert name_of(directory) == name
        assert os.path.normpath(f"/root/{directory}") == f"/root/{directory}"
        assert not {"blobs", "index.json", "oci-layout"} & set(directory.split("/"))
    else:
        with pytest.raises(Refused) as refused:
            check_name(name)
        assert refused.value.code == "NAME_INVALID"


NAMES = st.lists(WORDS, min_size=1, max_size=4).map("/".join).filter(lambda name: re.fullmatch(GRAMMAR, name))


@given(NAMES, NAMES)
def test_repositories_have_directories_of_their_own(one: str, other: str) -> None:
    """No two names share a directory, and none is within what is another one's layout."""
    assert (directory_of(one) == directory_of(other)) == (one == other)
    for file in ("blobs", "index.json", "oci-layout"):
        assert not f"{directory_of(one)}/".startswith(f"{directory_of(other)}/{file}/")


@pytest.mark.parametrize("directory", [".uploads", ".blobs/sha256", "_a", "__blobs", "A", "a/blobs", "blobs", "."])
def test_directories_that_are_no_repositories(directory: str) -> None:
    assert name_of(directory) == ""


def test_longest_names() -> None:
    assert check_name("a" * 255)
    assert is_tag("a" * 128)
    assert not is_tag("a" * 129)
    with pytest.raises(Refused, match="not be more than 255"):
        check_name("a" * 256)


@given(st.text(max_size=80))
def test_only_digests_have_a_path(text: str) -> None:
    with pytest.raises(Refused):
        blob_path(text)
    with pytest.raises(Refused):
        blob_path(f"sha256:{text}/../{'0' * 64}")
