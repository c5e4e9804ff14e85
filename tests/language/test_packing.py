"""The packed envelope: unpacking undoes packing, and its layout is one that others rely on."""

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncq.errors import Refused
from asyncq.language.envelope import Envelope
from asyncq.language.message import Header
from asyncq.seams.packing import enclose, pack, unpack
from tests.language.strategies import headers as some_headers
from tests.language.strategies import values

WRITTEN = ["priority", "body", "eta", "expires", "reply_to", "sent_at", "headers"]


def nested(depth: int) -> dict[str, Any]:
    headers: dict[str, Any] = {}
    for _ in range(depth):
        headers = {"in": headers}
    return headers


@given(some_headers, st.binary())
def test_unpacking_undoes_packing(header: Header, body: bytes) -> None:
    envelope = enclose(header, body)

    assert unpack(pack(envelope), header.id, header.queue) == envelope


@given(some_headers)
def test_the_second_byte_is_the_priority(header: Header) -> None:
    packed = pack(enclose(header, b"body"))

    assert packed[1] == header.priority  # scripts of Redis read it there


def test_fields_are_only_ever_added_at_the_end() -> None:
    packed = msgspec.msgpack.decode(
        pack(Envelope("1", "mail", 7, 1.5, 2.5, "me", 3.5, {"a": 1}, body=b"hello"))
    )

    assert packed[: len(WRITTEN)] == [7, b"hello", 1.5, 2.5, "me", 3.5, {"a": 1}]
    assert Header.__struct_fields__[: len(WRITTEN) + 1] == ("id", "queue", "priority", *WRITTEN[2:])


@given(some_headers, st.lists(values, min_size=1, max_size=3))
def test_what_a_later_version_adds_is_passed_over(header: Header, added: list[Any]) -> None:
    envelope = enclose(header, b"body")
    longer = msgspec.msgpack.encode([*msgspec.msgpack.decode(pack(envelope)), *added])

    assert unpack(longer, header.id, header.queue) == envelope


@pytest.mark.parametrize("length", range(2, len(WRITTEN)))
def test_what_an_earlier_version_lacks_has_its_default(length: int) -> None:
    shorter = msgspec.msgpack.encode([4, b"body", 1.5, None, "me", 3.5, {"a": 1}][:length])

    unpacked = unpack(shorter, "1", "mail")

    assert (unpacked.priority, unpacked.body) == (4, b"body")
    default = Envelope("1", "mail", body=b"")
    for name in WRITTEN[length:]:
        assert getattr(unpacked, name) == getattr(default, name)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"priority": 10}, "its priority is 10, not 0 to 9"),
        ({"priority": -1}, "its priority is -1, not 0 to 9"),
        ({"headers": {"a": object()}}, "cannot be encoded"),
        ({"headers": {"a": 2**64}}, "cannot be encoded"),
        ({"headers": nested(100_000)}, "cannot be encoded"),
    ],
)
def test_what_no_broker_could_carry_is_refused(changes: dict[str, Any], why: str) -> None:
    with pytest.raises(Refused, match=why):
        pack(Envelope(id="1", queue="mail", body=b"", **changes))


def test_headers_that_are_too_deep_to_be_written_again_are_of_other_hands() -> None:
    written = [
        pack(Envelope("1", "mail", body=b"body", headers=nested(depth))) for depth in (99, 400)
    ]

    good, deep = (unpack(packed, "1", "mail") for packed in written)

    assert good.body == b"body"
    assert (deep.body, deep.headers) == (written[1], {})
