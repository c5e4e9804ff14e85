"""Messages as AMQP carries them: the frames that publish one, and the properties of one that came.

Protocol: AMQP 0-9-1, sections 2.3.5 and 4.2.6. pamqp makes the methods and header tables; the rest,
which every message passes, is by hand.
"""

import struct
from typing import Any

import msgspec
import pamqp.commands as amqp
import pamqp.decode
import pamqp.encode
import pamqp.frame

from asyncq.stores.amqp_wire import BODY, END, HEADER, Content

CONTENT_TYPE = b"application/x-asyncq"

# Flags of properties, in the order in which they follow.
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
    mandatory: bool = True
    """It comes back if no queue takes it; else it is dropped."""


def frames(parcel: Parcel, channel: int, frame_max: int) -> bytes:
    """The frames that publish a parcel, persistent."""
    method = pamqp.frame.marshal(
        amqp.Basic.Publish(0, parcel.exchange, parcel.key, mandatory=parcel.mandatory), channel
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


def tag_of(content: Content) -> tuple[int, bool]:
    """The delivery tag, and whether it was delivered before."""
    method = content.method
    at = 4
    if method[3] == 60:  # noqa: PLR2004 - Deliver; it names its consumer first, GetOk does not
        at += 1 + method[4]
    tag, bits = _delivered.unpack_from(method, at)
    return tag, bool(bits & 1)


def properties_of(content: Content) -> tuple[str, dict[str, Any]]:
    """Id and headers of a message. What stands between them is skipped."""
    header = content.header
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
