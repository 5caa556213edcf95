"""Detach keys: how they are written, and that they are found however they arrive."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from labkit.engine.attaching import DEFAULT_KEYS, KeyWatch, parse_keys
from labkit.errors import InvalidParameter


@pytest.mark.parametrize(
    ("text", "keys"),
    [("", DEFAULT_KEYS), ("ctrl-p,ctrl-q", b"\x10\x11"), ("a", b"a"), ("ctrl-a,b,ctrl-z", b"\x01b\x1a"),
     ("ctrl-@", b"\0"), ("ctrl-[", b"\x1b"), ("ctrl-\\", b"\x1c"), ("ctrl-]", b"\x1d"), ("ctrl-^", b"\x1e"),
     ("ctrl-_", b"\x1f")],
)  # fmt: skip
def test_keys_as_a_terminal_sends_them(text: str, keys: bytes) -> None:
    assert parse_keys(text) == keys


@pytest.mark.parametrize("text", ["ctrl-", "ctrl-P", "ctrl-1", "ab", "a,", "ctrl-p,,q"])
def test_keys_that_are_none_are_refused_in_dockers_words(text: str) -> None:
    with pytest.raises(InvalidParameter, match=r"Invalid detach keys \(.*\) provided"):
        parse_keys(text)


typed = st.lists(st.text("pqx", max_size=4).map(str.encode), max_size=8)


@given(st.sampled_from([b"p", b"pq", b"ppq", b"pqpqx"]), typed)
def test_keys_are_found_over_any_chunks(keys: bytes, chunks: list[bytes]) -> None:
    watch = KeyWatch(keys)
    passed, everything = b"", b"".join(chunks)
    for chunk in chunks:
        data, detach = watch.feed(chunk)
        passed += data
        if detach:
            assert passed == everything[: everything.index(keys)]
            return
    assert keys not in everything
    assert passed + watch.held == everything
    assert keys.startswith(watch.held)
