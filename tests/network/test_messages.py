"""DNS messages: what is read, what is written, and that no bytes do harm."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from labkit.network import messages
from labkit.network.messages import Malformed
from tests.network import wire

LABELS = st.text("abcXYZ019-_", min_size=1, max_size=20)
NAMES = st.lists(LABELS, max_size=8).map(".".join)


@given(NAMES, st.integers(0, 65535), st.integers(0, 65535), st.sampled_from((0, 512, 1232, 65535)))
def test_a_query_is_read_as_it_was_written(name: str, kind: int, number: int, size: int) -> None:
    data = wire.query(name, kind, number, size)
    found = messages.read_query(data)
    assert (found.name, found.kind, found.number) == (name.lower(), kind, number)
    assert found.wire == data
    assert found.size == max(size, 512)
    assert found.edns == bool(size)


def test_what_follows_a_query_is_left_out() -> None:
    data = wire.query("web", size=1232)
    assert messages.read_query(data + b"rest").wire == data


def test_a_dot_within_a_label_ends_no_label() -> None:
    data = struct.pack(">HHHHHH", 1, 0, 1, 0, 0, 0) + b"\x05web.a\x03net\0" + struct.pack(">HH", 1, 1)
    assert messages.read_query(data).name == "web\\.a.net"


def test_the_longest_name_is_read() -> None:
    assert messages.read_query(wire.query("a." * 127)).name == ".".join(["a"] * 127)


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"", None),
        (b"short", None),
        (wire.query("web", flags=0x8100), None),
        (wire.query("web", flags=0x2800), messages.NOTIMP),
        (wire.query("web")[:-1], messages.FORMERR),
        (struct.pack(">HHHHHH", 1, 0, 0, 0, 0, 0), messages.FORMERR),
        (struct.pack(">HHHHHH", 1, 0, 2, 0, 0, 0) + wire.query("a")[12:] * 2, messages.FORMERR),
        (struct.pack(">HHHHHH", 1, 0, 1, 0, 0, 0) + b"\xc0\x0c\0\1\0\1", messages.FORMERR),
        (struct.pack(">HHHHHH", 1, 0, 1, 0, 0, 0) + b"\x01a" * 128 + b"\0\0\1\0\1", messages.FORMERR),
        (struct.pack(">HHHHHH", 1, 0, 1, 65535, 65535, 65535) + wire.query("web")[12:], messages.FORMERR),
        (
            struct.pack(">HHHHHH", 1, 0, 1, 0, 0, 2) + wire.query("web", size=512)[12:] + wire.query("", size=512)[17:],
            1,
        ),
        (wire.query("web", size=512, version=1), messages.BADVERS),
    ],
)
def test_what_cannot_be_answered(data: bytes, code: int | None) -> None:
    with pytest.raises(Malformed) as caught:
        messages.read_query(data)
    assert caught.value.code == code
    if code is not None:
        refusal = wire.read(messages.refusal(data, code))
        assert refusal.code == code & 15
        assert refusal.number == int.from_bytes(data[:2])
        assert refusal.flags & 0x8080 == 0x8080
        assert (refusal.options or (0, 0))[1] >> 24 == code >> 4


def answer_or_refuse(data: bytes) -> None:
    """Fails if bytes are neither answered nor refused with a message that can be read."""
    try:
        query = messages.read_query(data)
    except Malformed as error:
        if error.code is not None:
            wire.read(messages.refusal(data, error.code))
        return
    assert wire.read(messages.reply(query)).question is not None


@given(st.binary(max_size=600))
def test_any_bytes_are_a_query_or_malformed(data: bytes) -> None:
    answer_or_refuse(data)


@given(st.data(), NAMES, st.sampled_from((0, 512, 1232)))
def test_a_query_with_changed_bytes_does_no_harm(data: st.DataObject, name: str, size: int) -> None:
    changed = bytearray(wire.query(name, size=size))
    for place in data.draw(st.lists(st.integers(0, len(changed) - 1), min_size=1, max_size=4)):
        changed[place] = data.draw(st.integers(0, 255))
    answer_or_refuse(bytes(changed))


def test_a_reply_is_what_the_rfc_says() -> None:
    query = messages.read_query(wire.query("WEB.net", size=1232, flags=0x0110))
    found = wire.read(messages.reply(query, [messages.record(messages.A, bytes([10, 0, 0, 2]))]))
    assert found.number == 0x1234
    assert found.flags == 0x8190
    assert found.question == ("WEB.net", 1, 1)
    assert found.answers == [("WEB.net", 1, 600, "10.0.0.2")]
    assert found.options == (4096, 0)


def test_without_edns_there_is_no_edns() -> None:
    assert wire.read(messages.reply(messages.read_query(wire.query("web")))).options is None


@given(st.integers(0, 300), st.sampled_from((0, 512, 1232, 4096)), st.booleans())
def test_a_reply_fits_and_says_whether_it_is_all(count: int, size: int, stream: bool) -> None:
    query = messages.read_query(wire.query("web", size=size))
    answers = [messages.record(messages.A, i.to_bytes(4)) for i in range(count)]
    data = messages.reply(query, answers, stream=stream)
    found, limit = wire.read(data), 65535 if stream else max(size, 512)
    assert len(data) <= limit
    assert found.truncated == (len(found.answers) < count)
    if found.truncated:
        assert len(data) + 16 > limit


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("web.net", b"\x03web\x03net\0"),
        ("web.net.", b"\x03web\x03net\0"),
        ("a" * 63, b"\x3f" + b"a" * 63 + b"\0"),
        ("a" * 64, None),
        ("a..b", None),
        ("", None),
        (".".join(["a" * 63] * 4), None),
        ("é", b"\x02\xc3\xa9\0"),
    ],
)
def test_names_that_dns_can_say(name: str, expected: bytes | None) -> None:
    assert messages.write_name(name) == expected


RECORDS = st.lists(
    st.builds(wire.record, NAMES, st.sampled_from((wire.A, wire.TXT, wire.SOA)), st.binary(min_size=4, max_size=4)),
    max_size=30,
).map(tuple)


@given(RECORDS, RECORDS, RECORDS, st.booleans(), st.sampled_from((512, 700, 1232)))
def test_a_resolvers_answer_is_cut_between_records(
    answers: tuple[bytes, ...],
    authorities: tuple[bytes, ...],
    additional: tuple[bytes, ...],
    options: bool,
    limit: int,
) -> None:
    asked = wire.query("web.example")
    ending = (b"\0" + struct.pack(">HHIH", wire.OPT, 1232, 0, 0),) if options else ()
    whole = wire.respond(asked, answers, authorities, (*additional, *ending))
    cut = messages.fit(whole, limit)
    before, after = wire.read(whole), wire.read(cut)
    assert len(cut) <= limit
    assert after.question == before.question
    assert after.options == before.options
    kept = len(after.answers) + len(after.authorities)
    everything = before.answers + before.authorities
    assert after.answers + after.authorities == everything[:kept]
    assert after.truncated == (kept < len(everything))
    if len(whole) <= limit:
        assert cut == whole


def test_only_an_answer_to_the_question_is_one() -> None:
    sent, asked = wire.query("web.example"), wire.query("web.example")[12:]
    good = wire.respond(sent, (wire.record("web.example", 1, b"\1\2\3\4"),))
    assert messages.answers_to(good, sent, asked)
    assert messages.answers_to(good.replace(b"\x03web", b"\x03WEB", 1), sent, asked)
    assert not messages.answers_to(messages.numbered(good, 7), sent, asked)
    assert not messages.answers_to(wire.respond(wire.query("bad.example")), sent, asked)
    assert not messages.answers_to(wire.respond(wire.query("web.example", wire.AAAA)), sent, asked)
    assert not messages.answers_to(sent, sent, asked)
    assert not messages.answers_to(good[:-1], sent, asked)
    assert not messages.answers_to(sent[:2] + b"\x81\x80" + bytes(8), sent, asked)
    assert messages.answers_to(sent[:2] + b"\x81\x85" + bytes(8), sent, asked)


@given(st.binary(max_size=300))
def test_no_bytes_of_a_resolver_do_harm(rest: bytes) -> None:
    sent = wire.query("web.example")
    for answer in (rest, sent[:2] + rest, sent[:2] + b"\x81\x80" + rest, wire.respond(sent) + rest):
        if messages.answers_to(answer, sent, sent[12:]):
            assert len(messages.fit(answer, 512)) <= 512
