"""How an envelope travels through RabbitMQ: the frames of a message, and what is read from them.

The body is a MessagePack array of everything that an envelope has; the properties repeat what
operators look for (the id) and what RabbitMQ acts on (priority, persistence).
"""

import hashlib
import struct
from typing import Any

import msgspec
import pamqp.commands as amqp
import pamqp.decode
import pamqp.encode
import pamqp.frame

from asyncq.brokers.base import Envelope
from asyncq.stores.amqp_wire import BODY, END, HEADER, Content

CONTENT_TYPE = b"application/x-asyncq"
REASON = "x-asyncq-reason"
DELIVERY_COUNT = "x-delivery-count"

# Flags of properties, in the order in which they follow (AMQP 0-9-1, 4.2.6.1).
_CONTENT_TYPE, _ENCODING, _HEADERS, _MODE, _PRIORITY = 0x8000, 0x4000, 0x2000, 0x1000, 0x0800
_CORRELATION, _REPLY_TO, _EXPIRATION, _MESSAGE_ID = 0x0400, 0x0200, 0x0100, 0x0080
_PERSISTENT = b"\x02"

_frame_head = struct.Struct(">BHI")
_content_head = struct.Struct(">HHQH")  # class, weight, size of the body, flags
_delivered = struct.Struct(">QB")  # tag, whether it was delivered before


class Parcel(msgspec.Struct, frozen=True):
    """A message on its way to RabbitMQ."""

    exchange: str
    key: str
    id: str
    body: bytes
    priority: int = 0
    headers: dict[str, Any] = {}


class _Fields(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What is in the body."""

    priority: int
    body: bytes
    eta: float | None = None
    expires: float | None = None
    reply_to: str | None = None
    sent_at: float = 0.0
    headers: dict[str, Any] = {}
    crashes: int = 0
    again: bool = False
    """It was sent before, and nobody knows whether it arrived."""


class Received(msgspec.Struct, frozen=True, gc=False):
    """A message as it came from RabbitMQ."""

    tag: int
    redelivered: bool
    envelope: Envelope
    crashes: int
    again: bool


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(_Fields).decode


def wrap(
    envelope: Envelope, exchange: str, key: str, *, crashes: int = 0, again: bool = False
) -> Parcel:
    """The parcel of an envelope, for this exchange and routing key."""
    body = _encode(
        _Fields(
            envelope.priority,
            envelope.body,
            envelope.eta,
            envelope.expires,
            envelope.reply_to,
            envelope.sent_at,
            envelope.headers,
            crashes,
            again,
        )
    )
    return Parcel(exchange, key, envelope.id, body, envelope.priority)


def frames(parcel: Parcel, channel: int, frame_max: int) -> bytes:
    """The frames that publish a parcel: persistent, and returned if no queue takes it."""
    method = pamqp.frame.marshal(
        amqp.Basic.Publish(0, parcel.exchange, parcel.key, mandatory=True), channel
    )
    return method + _content_frames(parcel, channel, frame_max)


def _content_frames(parcel: Parcel, channel: int, frame_max: int) -> bytes:
    flags = _CONTENT_TYPE | _MODE | _PRIORITY | _MESSAGE_ID
    id = parcel.id.encode(errors="backslashreplace")[:255]
    properties = bytes((len(CONTENT_TYPE),)) + CONTENT_TYPE
    if parcel.headers:
        flags |= _HEADERS
        properties += pamqp.encode.field_table(parcel.headers)
    properties += _PERSISTENT + bytes((parcel.priority, len(id))) + id
    size = len(parcel.body)
    pieces = [
        _frame_head.pack(HEADER, channel, _content_head.size + len(properties)),
        _content_head.pack(60, 0, size, flags),
        properties,
        END,
    ]
    room = frame_max - _frame_head.size - len(END)
    for at in range(0, size, room):
        piece = parcel.body[at : at + room]
        pieces += (_frame_head.pack(BODY, channel, len(piece)), piece, END)
    return b"".join(pieces)


def unwrap(content: Content, queue: str) -> Received:
    """What was delivered, or fetched.

    Bytes that some other hand put there come as they are, as the body of an envelope: the worker
    cannot decode them and moves them to the dead letters.
    """
    method = content.method
    at = 4
    if method[3] == 60:  # noqa: PLR2004 - Deliver; it names its consumer first, GetOk does not
        at += 1 + method[4]
    tag, bits = _delivered.unpack_from(method, at)
    id, headers = _properties(content.header)
    raw = content.body
    try:
        fields = _decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        id = id or f"foreign-{hashlib.sha256(raw).hexdigest()[:32]}"
        return Received(tag, bool(bits & 1), Envelope(id=id, queue=queue, body=raw), 0, False)
    count = headers.get(DELIVERY_COUNT, 0) if headers else 0
    return Received(
        tag,
        bool(bits & 1),
        Envelope(
            id=id or f"foreign-{hashlib.sha256(raw).hexdigest()[:32]}",
            queue=queue,
            body=fields.body,
            priority=fields.priority,
            eta=fields.eta,
            expires=fields.expires,
            reply_to=fields.reply_to,
            sent_at=fields.sent_at,
            headers=fields.headers,
        ),
        fields.crashes + (count if isinstance(count, int) else 0),
        fields.again,
    )


def headers_of(content: Content) -> dict[str, Any]:
    """The header table of a message."""
    return _properties(content.header)[1]


def id_of(content: Content) -> str:
    return _properties(content.header)[0]


def _properties(header: bytes) -> tuple[str, dict[str, Any]]:
    """Id and headers. What stands between them is skipped."""
    flags = header[0] << 8 | header[1]
    at = 2
    headers: dict[str, Any] = {}
    if flags & _CONTENT_TYPE:
        at += 1 + header[at]
    if flags & _ENCODING:
        at += 1 + header[at]
    if flags & _HEADERS:
        used, table = pamqp.decode.field_table(header[at:])
        at, headers = at + used, table
    if flags & _MODE:
        at += 1
    if flags & _PRIORITY:
        at += 1
    for flag in (_CORRELATION, _REPLY_TO, _EXPIRATION):
        if flags & flag:
            at += 1 + header[at]
    if not flags & _MESSAGE_ID:
        return "", headers
    return header[at + 1 : at + 1 + header[at]].decode(errors="backslashreplace"), headers
