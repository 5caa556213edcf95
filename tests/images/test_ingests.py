"""Blobs that grow: shared, resumed, verified, and given back when the disk is full."""

from __future__ import annotations

import os
import subprocess
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from labkit.errors import InvalidParameter, LabkitError, Unavailable
from labkit.images.ingests import Ingest, Ingests, Source
from labkit.images.manifests import OCI_LAYER, Descriptor
from tests.images.tars import digest, pieces

DATA = os.urandom(100_000)
BLOB = Descriptor(OCI_LAYER, digest(DATA), len(DATA))
WAIT = 10


def fine() -> None:
    """A pull that nobody has ended."""


def source(offset: int) -> Iterator[bytes]:
    return pieces(DATA[offset:], 7000)


def ignored(offset: int) -> None:
    """Who doesn't want to know where a download begins."""


def breaking(after: int) -> Source:
    def chunks(offset: int) -> Iterator[bytes]:
        yield from pieces(DATA[offset:after], 7000)
        raise Unavailable("gone")

    return chunks


@pytest.fixture
def ingests(tmp_path: Path) -> Ingests:
    return Ingests(tmp_path / "ingests")


def test_complete(ingests: Ingests) -> None:
    with ingests.use(BLOB) as ingest:
        ingest.download(source, ignored, fine)
        assert ingest.complete
        assert b"".join(ingest.chunks(fine)) == DATA == ingest.path.read_bytes()


def test_read_while_it_grows(ingests: Ingests) -> None:
    """The reader gets bytes before the writer is done, and its end only after they were verified."""
    got, go = threading.Event(), threading.Event()

    def slow(offset: int) -> Iterator[bytes]:
        yield DATA[:50_000]
        assert got.wait(WAIT)
        yield DATA[50_000:]
        assert go.wait(WAIT)

    with ingests.use(BLOB) as ingest:
        writer = threading.Thread(target=ingest.download, args=(slow, ignored, fine))
        writer.start()
        chunks = ingest.chunks(fine)
        first = next(chunks)
        assert DATA.startswith(first)
        got.set()
        rest = b""
        while len(first + rest) < len(DATA):
            rest += next(chunks)
        before = ingest.complete
        go.set()
        assert list(chunks) == []
        assert (before, ingest.complete) == (False, True)
        assert first + rest == DATA
        writer.join(WAIT)


def test_resumed_where_it_broke(ingests: Ingests) -> None:
    offsets: list[int] = []
    with ingests.use(BLOB) as ingest, pytest.raises(Unavailable):
        ingest.download(breaking(42_000), offsets.append, fine)
    with ingests.use(BLOB) as ingest:
        ingest.download(source, offsets.append, fine)
        assert b"".join(ingest.chunks(fine)) == DATA
    assert offsets == [0, 42_000]


def test_a_whole_one_is_not_downloaded_again(ingests: Ingests) -> None:
    with ingests.use(BLOB) as ingest:
        ingest.download(source, ignored, fine)
    offsets: list[int] = []
    with ingests.use(BLOB) as ingest:
        ingest.download(source, offsets.append, fine)
        assert ingest.complete
    assert offsets == []


@pytest.mark.parametrize("lie", [DATA[:-1], DATA + b"x", DATA[:500] + bytes([DATA[500] ^ 1]) + DATA[501:], b""])
def test_lies_are_thrown_away(ingests: Ingests, lie: bytes) -> None:
    with ingests.use(BLOB) as ingest:
        with pytest.raises(InvalidParameter, match="filesystem layer verification failed"):
            ingest.download(lambda offset: pieces(lie[offset:]), ignored, fine)
        assert ingest.path.stat().st_size == 0
        ingest.download(source, ignored, fine)
        assert ingest.path.read_bytes() == DATA


def test_damage_on_the_disk_is_found(ingests: Ingests) -> None:
    """What an earlier try left is hashed again: a bit that has changed since costs a download, not an image."""
    with ingests.use(BLOB) as ingest:
        ingest.download(source, ignored, fine)
        path = ingest.path
    path.write_bytes(bytes([DATA[0] ^ 1]) + DATA[1:])
    with ingests.use(BLOB) as ingest, pytest.raises(InvalidParameter):
        ingest.download(source, ignored, fine)
    path.write_bytes(DATA + b"more")
    with ingests.use(BLOB) as ingest:
        ingest.download(source, ignored, fine)
        assert ingest.path.read_bytes() == DATA


def test_a_reader_learns_that_the_bytes_were_wrong(ingests: Ingests) -> None:
    with ingests.use(BLOB) as ingest:
        chunks = ingest.chunks(fine)
        with pytest.raises(InvalidParameter):
            ingest.download(lambda offset: pieces(DATA[:-9]), ignored, fine)
        with pytest.raises(InvalidParameter, match="verification failed"):
            list(chunks)


def test_a_reader_is_woken_by_a_failure(ingests: Ingests) -> None:
    failed = threading.Event()

    def check() -> None:
        if failed.is_set():
            raise Unavailable("the download is dead")

    with ingests.use(BLOB) as ingest:
        raised: list[BaseException] = []

        def read() -> None:
            try:
                list(ingest.chunks(check))
            except Unavailable as error:
                raised.append(error)

        reader = threading.Thread(target=read)
        reader.start()
        failed.set()
        ingest.wake()
        reader.join(WAIT)
        assert [str(error) for error in raised] == ["the download is dead"]


def test_two_pulls_share_one_download(ingests: Ingests) -> None:
    """The second waits for the first; when that one fails, the second goes on where it ended."""
    begun, fail = threading.Event(), threading.Event()
    offsets: list[int] = []

    def first_source(offset: int) -> Iterator[bytes]:
        yield DATA[:30_000]
        begun.set()
        assert fail.wait(WAIT)
        raise Unavailable("context canceled")

    def first() -> None:
        with ingests.use(BLOB) as ingest, pytest.raises(Unavailable):
            ingest.download(first_source, offsets.append, fine)

    def second() -> None:
        with ingests.use(BLOB) as ingest:
            ingest.download(source, offsets.append, fine)
            assert ingest.path.read_bytes() == DATA

    threads = [threading.Thread(target=first), threading.Thread(target=second)]
    threads[0].start()
    assert begun.wait(WAIT)
    threads[1].start()
    fail.set()
    for thread in threads:
        thread.join(WAIT)
    assert offsets == [0, 30_000]


def test_sizes_that_contradict_each_other(ingests: Ingests) -> None:
    other = Descriptor(OCI_LAYER, BLOB.digest, 7)
    with ingests.use(BLOB), pytest.raises(InvalidParameter, match="the sizes 100000 and 7"), ingests.use(other):
        pass


@pytest.mark.root
def test_a_full_disk_gives_its_space_back(tmp_path: Path) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", tmp_path], check=True)
    try:
        ingests = Ingests(tmp_path / "ingests")
        free = os.statvfs(tmp_path).f_bfree
        with pytest.raises(LabkitError, match="no space left on device"), ingests.use(BLOB) as ingest:
            ingest.download(source, ignored, fine)
        assert os.statvfs(tmp_path).f_bfree == free
    finally:
        subprocess.run(["umount", tmp_path], check=True)


def test_old_ones_go(ingests: Ingests, tmp_path: Path) -> None:
    with ingests.use(BLOB) as ingest:
        ingest.download(source, ignored, fine)
        os.utime(ingest.path, (1, 1))
        assert ingests.discard_old(2) == 0  # it is in use
    assert ingests.discard_old(1) == 0
    assert ingests.discard_old(2) == len(DATA)
    assert list((tmp_path / "ingests").iterdir()) == []


@given(st.lists(st.integers(0, 60), max_size=8))
def test_any_number_of_interruptions(tmp_path_factory: pytest.TempPathFactory, breaks: list[int]) -> None:
    """Whatever came before each break, the blob is whole in the end."""
    data = bytes(range(60))
    ingest = Ingest(tmp_path_factory.mktemp("ingest") / "blob", Descriptor(OCI_LAYER, digest(data), len(data)))

    def until(end: int) -> Source:
        def chunks(offset: int) -> Iterator[bytes]:
            yield from pieces(data[offset:end], 7)
            raise Unavailable("broken")

        return chunks

    for at in breaks:
        with suppress(Unavailable):  # unless all of it had come before
            ingest.download(until(at), ignored, fine)
    ingest.download(lambda offset: pieces(data[offset:], 7), ignored, fine)
    assert b"".join(ingest.chunks(fine)) == data
    ingest.close()
