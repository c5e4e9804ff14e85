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
import pamqp.exceptions
import pamqp.frame

from asyncq.drivers.rabbitmq.wire import BODY, END, HEADER, Content
from asyncq.language.message import UNREADABLE

CONTENT_TYPE = b"application/x-asyncq"
MOST_ID = 255  # bytes of an id

# Flags of properties, in the order in which they follow.
_CONTENT_TYPE, _ENCODING, _HEADERS, _MODE, _PRIORITY = 0x8000, 0x4000, 0x2000, 0x1000, 0x0800
_CORRELATION, _REPLY_TO, _EXPIRATION, _MESSAGE_ID = 0x0400, 0x0200, 0x0100, 0x0080
_PERSISTENT = b"\x02"

_frame_head = struct.Struct(">BHI")
_content_head = struct.Struct(">HHQH")  # class, weight, size of the body, flags
_delivered = struct.Struct(">QB")  # tag, whether it was delivered before
_table_size = struct.Struct(">I")  # of a header table, in bytes

# What is raised where properties are not as they should be. Beside the usual: pamqp's own errors,
# an end too soon, moments that this platform's calendar lacks.
_UNREADABLE = (*UNREADABLE, pamqp.exceptions.PAMQPException, struct.error, LookupError, OSError)


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


class TooLarge(Exception):
    """RabbitMQ does not take these parcels: their sizes in bytes by their ids, and its limit."""

    def __init__(self, sizes: dict[str, int], limit: int, *, headers: bool = False) -> None:
        super().__init__(f"{sizes} bytes, the limit is {limit}")
        self.sizes = sizes
        self.limit = limit
        self.headers = headers
        """Whether it is about their headers, and not about all of each."""


def frames(parcel: Parcel, channel: int, frame_max: int) -> bytes:
    """The frames that publish a parcel, persistent.

    Raises:
        TooLarge: its headers do not fit into one frame.
    """
    flags = _CONTENT_TYPE | _MODE | _PRIORITY | _MESSAGE_ID
    id = parcel.id.encode(errors="backslashreplace")[:MOST_ID]
    properties = bytes((len(CONTENT_TYPE),)) + CONTENT_TYPE
    if parcel.headers:
        flags |= _HEADERS
        properties += pamqp.encode.field_table(parcel.headers)
    properties += _PERSISTENT + bytes((parcel.priority, len(id))) + id
    size = len(parcel.body)
    room = frame_max - _frame_head.size - len(END)
    if len(properties) > room - _content_head.size:  # the server would end the connection over it
        raise TooLarge({parcel.id: len(properties)}, room - _content_head.size, headers=True)
    method = amqp.Basic.Publish(0, parcel.exchange, parcel.key, mandatory=parcel.mandatory)
    pieces = [
        pamqp.frame.marshal(method, channel),
        _frame_head.pack(HEADER, channel, _content_head.size + len(properties)),
        _content_head.pack(60, 0, size, flags),
        properties,
        END,
    ]
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


def waiting_behind(content: Content) -> int:
    """How many messages the queue had left, of one that was fetched."""
    return int.from_bytes(content.method[-4:], "big")


def id_of(content: Content) -> str:
    """The id that a message names; empty if it names none.

    Its headers are stepped over, not read: anybody may write what no table can be made of.
    """
    header = content.header
    try:
        _, at = _table_of(header)
        flags = header[0] << 8 | header[1]
        if not flags & _MESSAGE_ID:
            return ""
        at += bool(flags & _MODE) + bool(flags & _PRIORITY)
        for flag in (_CORRELATION, _REPLY_TO, _EXPIRATION):
            if flags & flag:
                at += 1 + header[at]
        id = header[at + 1 : at + 1 + header[at]]
        if id.isascii():
            return id.decode()
        # With escapes for what is no text, and no longer than an id that is sent may be.
        return id.decode(errors="backslashreplace").encode()[:MOST_ID].decode(errors="ignore")
    except _UNREADABLE:
        return ""


def headers_of(content: Content) -> dict[str, Any]:
    """The header table of a message; empty if it has none, or one that cannot be read."""
    try:
        begin, end = _table_of(content.header)
        return pamqp.decode.field_table(content.header[begin:end])[1] if begin < end else {}
    except _UNREADABLE:
        return {}


def _table_of(header: bytes) -> tuple[int, int]:
    """Where its header table begins and ends: after content type and encoding, before the rest."""
    flags, at = header[0] << 8 | header[1], 2
    if flags & 1:
        raise ValueError("it has more properties than there are")
    for flag in (_CONTENT_TYPE, _ENCODING):
        if flags & flag:
            at += 1 + header[at]
    size = _table_size.size + _table_size.unpack_from(header, at)[0] if flags & _HEADERS else 0
    return at, at + size
