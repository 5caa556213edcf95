"""The tar reader against archives of Python's tarfile and of GNU tar, and against arbitrary bytes."""

from __future__ import annotations

import io
import os
import struct
import subprocess
import tarfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from labkit.errors import InvalidParameter
from labkit.images import tar as reading
from labkit.images.streams import read_chunks
from labkit.images.tar import BLOCK, Entry, TarReader
from tests.images.tars import apply, contents, directory, hardlink, member, pieces, symlink, tar

MESSAGE = "archive/tar: "


def read(data: bytes, size: int = 1000) -> list[tuple[Entry, bytes]]:
    reader = TarReader(pieces(data, size))
    return [(entry, b"".join(reader.data())) for entry in reader]


_name = st.text(st.characters(exclude_characters="\0/", codec="utf-8"), min_size=1, max_size=90)
_entries = st.lists(
    st.tuples(
        st.lists(_name, min_size=1, max_size=3).map("/".join),
        st.binary(max_size=2000),
        st.integers(0, 0o7777),
        st.integers(0, 2**32 - 2),
        st.integers(0, 2**32 - 2),
        st.integers(-(2**33), 2**34),
    ),
    max_size=6,
)


@settings(max_examples=150, deadline=None)
@given(_entries, st.sampled_from([tarfile.PAX_FORMAT, tarfile.GNU_FORMAT]), st.integers(1, 3000))
def test_what_tarfile_writes(entries: list[tuple[str, bytes, int, int, int, int]], form: int, chunk: int) -> None:
    members = [
        member(name, data, mode=mode, uid=uid, gid=gid, mtime=mtime) for name, data, mode, uid, gid, mtime in entries
    ]
    found = read(tar(*members, form=form), chunk)
    assert [
        (os.fsdecode(entry.name), data, entry.mode, entry.uid, entry.gid, entry.mtime) for entry, data in found
    ] == [(name, data, mode, uid, gid, mtime * 10**9) for name, data, mode, uid, gid, mtime in entries]


@pytest.mark.parametrize(
    ("text", "nanoseconds"),
    [
        ("0", 0),
        ("1.5", 1_500_000_000),
        ("-1.5", -1_500_000_000),
        ("-0.1", -100_000_000),
        ("7.1234567891", 7_123_456_789),
    ],
)
def test_fractions_of_seconds(text: str, nanoseconds: int) -> None:
    info, data = member("a")
    info.pax_headers = {"mtime": text}
    assert read(tar((info, data)))[0][0].mtime == nanoseconds


def test_kinds_and_links() -> None:
    device = member("n", kind=tarfile.CHRTYPE, devmajor=1, devminor=3)
    found = read(tar(directory("d"), symlink("s", "x" * 300), hardlink("h", "y" * 300), device))
    kinds = [entry.kind for entry, _ in found]
    assert kinds == [reading.DIRECTORY, reading.SYMLINK, reading.HARDLINK, reading.CHARACTER]
    assert (found[1][0].link, found[2][0].link) == (b"x" * 300, b"y" * 300)
    assert (found[3][0].major, found[3][0].minor) == (1, 3)


def test_ustar_prefix() -> None:
    name = "d" * 100 + "/" + "f" * 90
    assert read(tar(member(name), form=tarfile.USTAR_FORMAT))[0][0].name == name.encode()


def test_v7() -> None:
    for name, kind in (("file", reading.REGULAR), ("dir/", reading.DIRECTORY)):
        block = bytearray(tar(member(name)))[:BLOCK]
        block[156:] = bytes(BLOCK - 156)
        assert read(checked(block))[0][0].kind == kind


def checked(block: bytearray, signed: bool = False) -> bytes:
    """The header with a right checksum."""
    block[148:156] = b" " * 8
    total = sum(struct.unpack("512b", block)) if signed else sum(block)
    block[148:156] = b"%06o\0 " % total
    return bytes(block)


def test_signed_checksums_of_old_writers() -> None:
    block = bytearray(tar(member("ä"), form=tarfile.GNU_FORMAT))[:BLOCK]
    assert read(checked(block, signed=True))[0][0].name == "ä".encode()


def test_extended_attributes() -> None:
    info, data = member("a", b"x")
    info.pax_headers = {"SCHILY.xattr.user.k=v": "w\n1", "comment": "c"}
    ((entry, _),) = read(tar((info, data)))
    assert entry.xattrs == {"user.k": b"v=w\n1"}  # the key ends at the first equals sign


@pytest.mark.parametrize("cut", range(0, 6 * BLOCK, 200))
def test_a_cut_archive_is_refused_or_ends_between_entries(cut: int) -> None:
    data = tar(member("a", b"1" * 700), member("b", b"2" * 700))
    try:
        found = read(data[:cut])
    except InvalidParameter as error:
        assert str(error).startswith(MESSAGE)  # noqa: PT017  # both outcomes are right, depending on where it is cut
    else:
        assert [body for _, body in found] == [b"1" * 700, b"2" * 700][: len(found)]


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=3 * BLOCK), st.binary(min_size=BLOCK, max_size=BLOCK), st.integers(0, 500))
def test_arbitrary_bytes_are_refused_in_order(data: bytes, header: bytes, at: int) -> None:
    """Neither rubbish nor a header with rubbish in one place (and a right checksum) makes any other error."""
    block = bytearray(tar(member("a", b"x")))[:BLOCK]
    block[at : at + 12] = header[at : at + 12]
    for archive in (data, checked(block[:BLOCK].ljust(BLOCK, b"\0")) + data):
        try:
            read(archive)
        except InvalidParameter as error:
            assert str(error).startswith(MESSAGE)  # noqa: PT017  # see above


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ((124, 136), b"\xff" * 12),  # size -1
        ((124, 136), b"\x80\0\0\0\x7f\xff\xff\xff\xff\xff\xff\xff"),  # size 2**63 - 1
        ((124, 136), b"-0000000001\0"),
        ((124, 136), b"0000000_010\0"),
        ((108, 116), b"\x80\0\0\0\xff\xff\xff\xff"),  # uid 2**32 - 1: "unchanged" for chown
        ((136, 148), b"\x80\0\0\0\x7f\xff\xff\xff\xff\xff\xff\xff"),  # a time beyond all times
    ],
)
def test_absurd_numbers(field: tuple[int, int], value: bytes) -> None:
    block = bytearray(tar(member("a")))[:BLOCK]
    block[slice(*field)] = value
    with pytest.raises(InvalidParameter, match="invalid tar header"):
        read(checked(block))


@pytest.mark.parametrize(
    "records",
    [
        b"5 a=b",
        b"99 path=x\n",
        b"8 path x\n",
        b"-9 path=x\n",
        b"11 size=99x\n",
        b"12 path=a\0b\n",
        b"19 mtime=1e9999999\n",
        b"30 size=99999999999999999999\n\n",
    ],
)
def test_bad_pax_records(records: bytes) -> None:
    pax = member("pax", records, kind=tarfile.XHDTYPE)
    with pytest.raises(InvalidParameter, match="invalid tar header"):
        read(tar(pax, member("a"), form=tarfile.USTAR_FORMAT))


def test_a_long_name_without_end() -> None:
    with pytest.raises(InvalidParameter, match="extension header"):
        read(tar(member("x", bytes(2 << 20), kind=tarfile.GNUTYPE_LONGNAME), form=tarfile.GNU_FORMAT))


def test_a_zero_block_in_the_middle() -> None:
    one = tar(member("a"))
    with pytest.raises(InvalidParameter, match="zero block"):
        read(bytes(BLOCK) + one)


@pytest.mark.root
@pytest.mark.parametrize(
    "options",
    [
        ("--format=gnu",),
        ("--format=posix", "--sparse-version=0.0"),
        ("--format=posix", "--sparse-version=0.1"),
        ("--format=posix", "--sparse-version=1.0"),
    ],
)
@pytest.mark.parametrize("extents", [0, 1, 3, 60])
def test_sparse_files_of_gnu_tar(tmp_path: Path, options: tuple[str, ...], extents: int) -> None:
    """60 extents don't fit the header of any format: they need continuation blocks."""
    source = tmp_path / "source"
    source.mkdir()
    with open(source / "sparse", "wb") as file:
        for number in range(extents):
            file.seek(number * (1 << 17) + 4096)
            file.write(b"%d" % number * 3000)
        file.truncate((extents + 2) << 17)
    (source / "after").write_bytes(b"next")
    archive = subprocess.run(["tar", "-C", source, "-S", *options, "-c", "."], capture_output=True, check=True).stdout
    assert len(archive) < 1 << 20 or extents == 60
    apply(archive, tmp_path / "root")
    assert contents(tmp_path / "root") == contents(source)
    assert (tmp_path / "root" / "sparse").stat().st_blocks * 512 <= 9000 * max(extents, 1)


@pytest.mark.parametrize("sparse_map", ["0,10,5,10", "0,10,90,100", "0,99999", "5", "10,-5"])
def test_sparse_maps_that_lie(sparse_map: str) -> None:
    info, data = member("a", b"x" * 20)
    info.pax_headers = {"GNU.sparse.map": sparse_map, "GNU.sparse.size": "100"}
    with pytest.raises(InvalidParameter, match="invalid tar header"):
        read(tar((info, data)))


def test_memory_stays_small_for_a_huge_sparse_map() -> None:
    info, data = member("a", (b"9" * 15 + b"\n") * 100_000)
    info.pax_headers = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": "5"}
    with pytest.raises(InvalidParameter, match="sparse map"):
        read(tar((info, data)))


def test_what_nobody_reads_is_skipped() -> None:
    data = tar(member("a", b"1" * 5000), member("b", b"2" * 100))
    reader = TarReader(read_chunks(io.BytesIO(data)))
    names = []
    for entry in reader:
        names.append(entry.name)
        assert entry.name == b"a" or reader.read(100) == b"2" * 100
    assert names == [b"a", b"b"]
    reader = TarReader(pieces(data))
    next(iter(reader))
    with pytest.raises(InvalidParameter, match="5000 bytes"):
        reader.read(100)
