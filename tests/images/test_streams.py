"""Compressed streams: told apart, unpacked with bounded memory, and refused when damaged or cut."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import io
import lzma
import random
import threading
from collections.abc import Callable

import pytest
import zstandard

from labkit.errors import InvalidParameter
from labkit.images.streams import CHUNK, Digest, compression_of, decompressed, digest_of, read_chunks
from tests.images.tars import pieces

DATA = random.Random(1).randbytes(300_000) + b"labkit" * 200_000
COMPRESSORS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "zstd": zstandard.ZstdCompressor(write_checksum=True).compress,
    "xz": lambda data: lzma.compress(data, preset=0),
    "bzip2": bz2.compress,
    "": bytes,
}


@pytest.mark.parametrize("name", COMPRESSORS)
@pytest.mark.parametrize("size", [1, 1000, 1 << 20])
def test_any_compression_in_any_chunks(name: str, size: int) -> None:
    data = DATA[:5000] if size == 1 else DATA
    packed = COMPRESSORS[name](data)
    assert compression_of(packed[:8]) == name
    assert b"".join(decompressed(pieces(packed, size))) == data


@pytest.mark.parametrize("name", ["gzip", "zstd", "xz", "bzip2"])
def test_members_one_after_another(name: str) -> None:
    packed = COMPRESSORS[name](b"one") + COMPRESSORS[name](b"two")
    assert b"".join(decompressed(pieces(packed, 7))) == b"onetwo"


@pytest.mark.parametrize("name", ["gzip", "zstd", "xz", "bzip2"])
@pytest.mark.parametrize("part", [0.1, 0.5, 0.99])
def test_a_cut_stream_is_refused(name: str, part: float) -> None:
    packed = COMPRESSORS[name](DATA)
    with pytest.raises(InvalidParameter, match="unexpected EOF"):
        list(decompressed(pieces(packed[: int(len(packed) * part)])))


@pytest.mark.parametrize("name", ["gzip", "zstd", "xz", "bzip2"])
def test_a_damaged_stream_is_refused(name: str) -> None:
    packed = bytearray(COMPRESSORS[name](DATA))
    packed[len(packed) // 2] ^= 0x10
    with pytest.raises(InvalidParameter, match="damaged"):
        list(decompressed(pieces(bytes(packed))))


@pytest.mark.parametrize("name", ["gzip", "zstd", "xz", "bzip2"])
def test_a_bomb_comes_in_pieces(name: str) -> None:
    packed = COMPRESSORS[name](bytes(50 << 20))
    largest = max(len(chunk) for chunk in decompressed(iter((packed,))))
    assert largest <= (64 << 20 if name == "zstd" else CHUNK)


def test_nothing_is_nothing() -> None:
    assert list(decompressed(iter(()))) == []
    assert list(decompressed(iter((b"ab",)))) == [b"ab"]


def test_digest_of_what_passes() -> None:
    with Digest() as hashing:
        assert b"".join(hashing.through(read_chunks(io.BytesIO(DATA)))) == DATA
        assert hashing.digest() == digest_of(DATA) == f"sha256:{hashlib.sha256(DATA).hexdigest()}"
    assert hashing.size == len(DATA)


def test_the_hashing_thread_ends_with_an_error() -> None:
    def failing() -> None:
        with Digest() as hashing:
            next(hashing.through(iter((b"x",))))
            raise InvalidParameter("cut")

    before = threading.active_count()
    with pytest.raises(InvalidParameter):
        failing()
    assert threading.active_count() == before
