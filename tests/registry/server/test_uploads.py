"""Uploads without HTTP: order, restarts, rest, a full disk."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given
from hypothesis import strategies as st

from labkit.registry.server.documents import digest_of
from labkit.registry.server.refusals import Refused
from labkit.registry.server.uploads import Uploads, range_of


@given(
    st.lists(st.tuples(st.binary(max_size=30), st.integers(-3, 3), st.booleans()), max_size=12),
    st.sampled_from(["sha256", "sha512"]),
)
def test_any_order_of_chunks(chunks: list[tuple[bytes, int, bool]], algorithm: str) -> None:
    """What is taken is what continues the upload, also when another process goes on with it."""
    with TemporaryDirectory() as directory:
        uploads, taken = Uploads(Path(directory)), b""
        upload = uploads.start()
        for data, shift, restarted in chunks:
            if restarted:
                uploads = Uploads(Path(directory))
            if shift:
                with pytest.raises(Refused) as refused:
                    uploads.append(upload, [data], len(taken) + shift)
                assert (refused.value.status, refused.value.headers) == (416, (("Range", range_of(len(taken))),))
            else:
                taken += data
                assert uploads.append(upload, [data[:7], data[7:]], len(taken) - len(data)) == len(taken)
            assert uploads.size(upload) == len(taken)
        with uploads.finished(upload, digest_of(taken, algorithm)) as file:
            assert file.read_bytes() == taken
        assert os.listdir(directory) == []


def test_one_request_writes_at_a_time(tmp_path: Path) -> None:
    uploads = Uploads(tmp_path)
    upload = uploads.start()

    def chunks() -> Iterator[bytes]:
        with pytest.raises(Refused, match="another request is writing") as refused:
            uploads.append(upload, [b"x"])
        assert refused.value.status == 409
        with pytest.raises(Refused), uploads.finished(upload, digest_of(b"")):
            pass
        yield b"mine"

    assert uploads.append(upload, chunks()) == 4


def test_source_that_breaks(tmp_path: Path) -> None:
    """What had arrived stays, and is part of the digest."""
    uploads = Uploads(tmp_path)
    upload = uploads.start()

    def breaking() -> Iterator[bytes]:
        yield b"one"
        raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        uploads.append(upload, breaking())
    assert uploads.append(upload, [b"two"], 3) == 6
    with uploads.finished(upload, digest_of(b"onetwo")) as file:
        assert file.read_bytes() == b"onetwo"


def test_rest(tmp_path: Path) -> None:
    """After a day without a byte an upload is removed; a look is taken once an hour."""
    uploads, now = Uploads(tmp_path), time.time()
    old, new = uploads.start(), uploads.start()
    (tmp_path / "lock").touch()
    for name in (old, "lock"):
        os.utime(tmp_path / name, (now - 25 * 3600,) * 2)
    uploads.expire(now + 60)
    assert (tmp_path / old).exists()
    uploads.expire(now + 3700)
    assert sorted(os.listdir(tmp_path)) == sorted(["lock", new])
    with pytest.raises(Refused) as refused:
        uploads.append(old, [b"x"])
    assert refused.value.code == "BLOB_UPLOAD_UNKNOWN"
