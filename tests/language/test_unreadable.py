"""What was written by other hands, as bytes: it is shown as what it is, and raises nowhere."""

import logging

import msgspec
import pamqp.encode
import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncq.drivers.rabbitmq.content import headers_of, id_of
from asyncq.drivers.rabbitmq.parcels import unwrap
from asyncq.drivers.rabbitmq.wire import Content
from asyncq.drivers.sqlite.envelopes import unpack as unpack_row
from asyncq.language.message import Failed, Failure, Progress, Succeeded, Unreadable
from asyncq.language.record import Record
from asyncq.seams import records
from asyncq.seams.packing import unpack
from asyncq.seams.records import (
    RECORDS,
    encode_progress,
    encode_record,
    pack_pushed,
    read_progress,
    read_record,
)

WELL = Record("1", Succeeded(msgspec.Raw(b"\xc0")), task="add", worker="w")
DELIVERED = b"\x00\x3c\x00\x3c\x01c\x00\x00\x00\x00\x00\x00\x00\x07\x00"  # Basic.Deliver, tag 7
HEADERS, MESSAGE_ID = 0x2000, 0x0080  # flags of properties


def mangled(well: bytes) -> st.SearchStrategy[bytes]:
    """These bytes with some of them changed, cut, or followed by others; or any at all."""
    places = st.lists(st.tuples(st.integers(0, len(well) - 1), st.integers(0, 255)), max_size=4)
    return st.one_of(
        st.binary(max_size=60),
        places.map(lambda changes: _changed(well, changes)),
        st.integers(0, len(well)).map(lambda end: well[:end]),
        st.binary(min_size=1, max_size=9).map(lambda more: well + more),
    )


def _changed(well: bytes, changes: list[tuple[int, int]]) -> bytes:
    changed = bytearray(well)
    for at, byte in changes:
        changed[at] = byte
    return bytes(changed)


HOSTILE = [
    b"",
    b"\x91" * 100_000,
    b"\x81" * 5000,
    b"\x81\x81\x01\x02\x03",
    b"\xc7\x0c\xff" + b"\xff" * 12,  # a moment that no calendar has
    b"\xa4\xff\xfe\xfd\xfc",  # text that is none
    b"\xdd\xff\xff\xff\xff",  # four billion elements
    b"\xc6\xff\xff\xff\xffshort",
]
OTHER_TYPES = [None, "text", 17, 1.5, [b"a", b"list"]]


@given(st.one_of(mangled(encode_record(WELL)), st.sampled_from(HOSTILE)))
def test_any_bytes_kept_for_an_id_are_its_record_or_say_that_they_are_none(raw: bytes) -> None:
    record = read_record("1", raw)

    assert record.id == "1"
    if isinstance(record.outcome, Unreadable):
        assert record.outcome.why


@pytest.mark.parametrize("raw", OTHER_TYPES)
def test_what_is_no_bytes_at_all_is_no_record_either(raw: object) -> None:
    assert isinstance(read_record("1", raw).outcome, Unreadable)
    assert RECORDS.read(raw) == []
    assert read_progress("1", raw) is None


def test_the_record_of_another_id_is_nobodys_outcome() -> None:
    outcome = read_record("2", encode_record(WELL)).outcome

    assert isinstance(outcome, Unreadable)
    assert "it is the outcome of '1'" in outcome.why


@given(st.one_of(mangled(pack_pushed([WELL, WELL])), st.sampled_from(HOSTILE)))
def test_any_bytes_that_are_pushed_are_taken_in(raw: bytes) -> None:
    assert all(isinstance(record, Record) for record in RECORDS.read(raw))
    assert all(isinstance(record, Record) for record in RECORDS.read_one(raw))


def test_what_is_well_in_a_push_is_taken_from_among_the_others() -> None:
    failed = Record("2", Failed(Failure("E", "no")))
    odd = msgspec.msgpack.encode([b"\xff", {"what": 1}])
    pieces = [
        msgspec.Raw(encode_record(WELL)),
        msgspec.Raw(odd),
        msgspec.Raw(encode_record(failed)),
    ]

    assert RECORDS.read(pack_pushed(pieces)) == [WELL, failed]


@given(st.one_of(mangled(encode_progress(Progress(1, 2))), st.sampled_from(HOSTILE)))
def test_any_bytes_kept_as_progress_are_some_or_none(raw: bytes) -> None:
    assert isinstance(read_progress("1", raw), Progress | None)


def test_unreadable_pushes_are_logged_once_a_minute_with_their_count(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(records, "_complaints", records._Complaints())  # pyright: ignore[reportPrivateUsage]
    with caplog.at_level(logging.WARNING):
        for number in range(1000):
            RECORDS.read(b"\xc1 garbage %d" % number)
        monkeypatch.setattr(records, "SELDOM", 0.0)
        records._complaints._next = 0.0  # pyright: ignore[reportPrivateUsage]
        read_progress("7", b"\xc1")

    first, second = caplog.messages
    assert "a push of outcomes was ignored: it cannot be read" in first
    assert "garbage 0" in first
    assert "the progress of message 7" in second
    assert second.endswith("(and 999 others before)")


# Header tables of RabbitMQ


def delivered(properties: bytes, body: bytes = b"anything") -> Content:
    content = Content(DELIVERED)
    content.header, content.body = properties, body
    return content


def with_table(table: bytes, id: str = "the-id") -> bytes:
    flags = (HEADERS | MESSAGE_ID).to_bytes(2)
    return flags + len(table).to_bytes(4) + table + bytes([len(id)]) + id.encode()


def nested(depth: int) -> bytes:
    table = b""
    for _ in range(depth):
        table = b"\x01aF" + len(table).to_bytes(4) + table
    return table


ODD_TABLES = {
    "a key that is no text": b"\x02\xff\xfeS\x00\x00\x00\x01x",
    "a moment after the year 9999": b"\x01aT" + (10**15).to_bytes(8),
    "tables in tables": nested(1500),
    "a type that nobody knows": b"\x01aZ123",
    "text that is none": b"\x01aS\x00\x00\x00\x02\xff\xfe",
    "a length beyond its end": b"\x01aS\xff\xff\xff\xffx",
    "half a number": b"\x01aI\x00",
    "a key without a value": b"\x05abcde",
}


@pytest.mark.parametrize("table", ODD_TABLES.values(), ids=ODD_TABLES)
def test_a_header_table_that_cannot_be_read_hides_neither_id_nor_body(table: bytes) -> None:
    received = unwrap(delivered(with_table(table)), "mail")

    assert received.tag == 7
    assert received.envelope.id == "the-id"
    assert received.envelope.body == b"anything"
    assert isinstance(headers_of(delivered(with_table(table))), dict)


GOOD_TABLE = pamqp.encode.field_table({"a": 1, "b": {"c": "d"}, "l": [1, 2, "x"]})[4:]


@given(mangled(GOOD_TABLE))
def test_any_header_table_leaves_the_id_where_it_is(table: bytes) -> None:
    assert id_of(delivered(with_table(table))) == "the-id"
    assert isinstance(headers_of(delivered(with_table(table))), dict)


@given(mangled(with_table(GOOD_TABLE)), st.binary(max_size=60))
def test_any_properties_and_any_body_are_a_message(properties: bytes, body: bytes) -> None:
    received = unwrap(delivered(properties, body), "mail")

    assert received.envelope.id
    assert received.envelope.queue == "mail"


# Envelopes


@given(st.one_of(st.binary(max_size=60), st.sampled_from(HOSTILE)))
def test_any_bytes_in_a_queue_are_an_envelope(raw: bytes) -> None:
    for envelope in (unpack(raw, "1", "mail"), unpack_row(raw, "1", "mail")):
        assert (envelope.id, envelope.queue) == ("1", "mail")
        assert 0 <= envelope.priority <= 9


@pytest.mark.parametrize("priority", [-1, 10, 300, 2**62])
def test_a_priority_that_there_is_not_makes_it_a_message_of_other_hands(priority: int) -> None:
    blob = msgspec.msgpack.encode([priority, b"body"])
    row = msgspec.msgpack.encode({"id": "1", "queue": "q", "body": b"body", "priority": priority})

    assert unpack(blob, "1", "q").body == blob
    assert unpack_row(row, "1", "q").body == row
    received = unwrap(delivered(with_table(b""), blob), "q")
    assert received.envelope.body == blob
    assert received.envelope.priority == 0
