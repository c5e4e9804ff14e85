"""How an envelope lies in the file."""

import msgspec

from asyncq.errors import Refused
from asyncq.language.message import MAX_PRIORITY, UNREADABLE
from asyncq.seams.broker import Envelope
from asyncq.texts import counted

LARGEST = 1_000_000_000  # bytes; SQLite takes no larger value

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Envelope).decode


class Parcel(msgspec.Struct, frozen=True, gc=False):
    """An envelope on its way into the file."""

    id: str
    queue: str
    rank: int
    due: float
    packed: bytes


def pack(envelope: Envelope) -> Parcel:
    """
    Raises:
        Refused: no file could keep it.
    """
    if not 0 <= envelope.priority <= MAX_PRIORITY:
        raise Refused(envelope.id, f"its priority is {envelope.priority}, not 0 to {MAX_PRIORITY}")
    try:
        packed = _encode(envelope)
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise Refused(envelope.id, f"it cannot be encoded: {error}") from error
    if len(packed) > LARGEST:
        raise Refused(
            envelope.id, f"it has {counted(len(packed), 'byte')}, and SQLite takes {LARGEST}"
        )
    return Parcel(
        envelope.id, envelope.queue, MAX_PRIORITY - envelope.priority, envelope.eta or 0.0, packed
    )


def unpack(packed: object, message_id: str, queue: str) -> Envelope:
    """The envelope; one around the bare bytes, when other hands have put in what is none."""
    raw = packed if isinstance(packed, bytes) else str(packed).encode(errors="replace")
    try:
        envelope = _decode(raw)
    except UNREADABLE:
        return Envelope(id=message_id, queue=queue, body=raw)
    if not 0 <= envelope.priority <= MAX_PRIORITY:
        return Envelope(id=message_id, queue=queue, body=raw)
    if envelope.id != message_id or envelope.queue != queue:  # its row is what counts
        return msgspec.structs.replace(envelope, id=message_id, queue=queue)
    return envelope
