"""The native codec: decoding undoes encoding, and other bytes are `Undecodable`, nothing worse."""

from typing import Any

import msgspec
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from asyncq.codecs.native import VERSION, NativeCodec
from asyncq.errors import NewerVersion, Undecodable
from asyncq.language.envelope import Envelope
from asyncq.language.message import End, Header, Message
from tests.language.strategies import messages, names, values

codec = NativeCodec()


def envelope(body: bytes) -> Envelope:
    return Envelope(id="1", queue="mail", body=body)


def header_of(envelope: Header) -> Header:
    """What an envelope says, without its bytes."""
    return Header(**{name: getattr(envelope, name) for name in Header.__struct_fields__})


@given(messages)
def test_decoding_undoes_encoding(message: Message) -> None:
    decoded = codec.decode(codec.encode(message))

    # It came in an envelope.
    assert msgspec.structs.replace(decoded, header=header_of(decoded.header)) == message


@given(messages)
def test_what_a_broker_needs_is_in_the_envelope(message: Message) -> None:
    sent = codec.encode(message)

    assert header_of(sent) == message.header


def test_where_a_message_ends_outlives_an_envelope_that_an_older_worker_wrote() -> None:
    ends = (End("latch", "part"), End("größer 🙂", "7"))
    sent = codec.encode(Message(Header("1", "mail", ends=ends), "shop.add"))

    assert codec.decode(envelope(sent.body)).header.ends == ends


@given(st.binary())
@example(b"")
@example(b"\xc1")
@example(b"\x91" * 100_000)  # deeper than any stack
@example(b"\xdd\xff\xff\xff\xff")  # an array of four billion, it says
@example(b"\x92\x01\xa1\xff")  # text that is none
def test_other_bytes_are_undecodable_and_nothing_worse(body: bytes) -> None:
    _decode(body)


@given(messages, st.data())
def test_damaged_messages_are_undecodable_and_nothing_worse(
    message: Message, data: st.DataObject
) -> None:
    body = bytearray(codec.encode(message).body)
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(body) - 1))
        body[at] = data.draw(st.integers(0, 255))

    _decode(bytes(body))
    _decode(bytes(body[: len(body) // 2]))


@given(values)
def test_other_values_are_undecodable_and_nothing_worse(value: Any) -> None:
    _decode(msgspec.msgpack.encode(value))


@given(st.integers(VERSION + 1, 2**63), st.lists(values, max_size=9))
def test_a_newer_version_says_which_whatever_its_shape(version: int, rest: list[Any]) -> None:
    assume(not rest or not isinstance(rest[0], bytes))
    with pytest.raises(NewerVersion) as caught:
        codec.decode(envelope(msgspec.msgpack.encode([version, *rest])))

    assert (caught.value.version, caught.value.known) == (version, VERSION)


@pytest.mark.parametrize("priority", [5, 300])
def test_an_envelope_that_nobody_could_read_is_no_newer_version(priority: int) -> None:
    with pytest.raises(Undecodable) as caught:
        codec.decode(envelope(msgspec.msgpack.encode([priority, b"body", "no moment"])))

    assert not isinstance(caught.value, NewerVersion)


@given(messages, st.lists(values, min_size=1, max_size=3))
def test_fields_added_at_the_end_are_passed_over(message: Message, added: list[Any]) -> None:
    sent = codec.encode(message)
    fields: list[Any] = msgspec.msgpack.decode(sent.body)
    if len(fields) == len(Message.__struct_fields__) - 1:  # it ends nowhere, and has no limits
        fields += [[], None]
    longer = msgspec.structs.replace(sent, body=msgspec.msgpack.encode([*fields, *added]))

    decoded = codec.decode(longer)

    assert (decoded.header.id, decoded.task, decoded.attempt) == (
        message.header.id,
        message.task,
        message.attempt,
    )


@given(names)
def test_a_message_of_the_first_version_may_be_short(task: str) -> None:
    sent = envelope(msgspec.msgpack.encode([VERSION, task]))

    assert codec.decode(sent) == Message(sent, task)


@pytest.mark.parametrize(
    "value", [[1, ["canary"]], ["canary"], {"canary": "canary"}, [1, "t", [], {}, "canary"]]
)
def test_the_reason_never_shows_the_content(value: Any) -> None:
    with pytest.raises(Undecodable) as caught:
        codec.decode(envelope(msgspec.msgpack.encode(value)))

    assert "canary" not in str(caught.value)


def _decode(body: bytes) -> None:
    try:
        message = codec.decode(envelope(body))
    except Undecodable:
        return
    assert isinstance(message.task, str)  # some bytes do happen to be a message
