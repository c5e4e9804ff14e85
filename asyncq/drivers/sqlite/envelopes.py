"""Envelopes, as they lie in the file."""

import msgspec

from asyncq.errors import Refused
from asyncq.language.envelope import Envelope
from asyncq.language.message import MAX_PRIORITY, UNREADABLE
from asyncq.seams import packing
from asyncq.texts import counted

LARGEST = 1_000_000_000  # bytes; SQLite takes no larger value

_decode_map = msgspec.msgpack.Decoder(Envelope).decode


class Packed(msgspec.Struct, frozen=True, gc=False):
    """An envelope on its way into the file."""

    id: str
    queue: str
    rank: int
    due: float
    packed: bytes


def pack(envelope: Envelope) -> Packed:
    """
    Raises:
        Refused: no file could keep it.
    """
    packed = packing.pack(envelope)
    if len(packed) > LARGEST:
        raise Refused(
            envelope.id, f"it has {counted(len(packed), 'byte')}, and SQLite takes {LARGEST}"
        )
    return Packed(
        envelope.id, envelope.queue, MAX_PRIORITY - envelope.priority, envelope.eta or 0.0, packed
    )


def unpack(packed: object, message_id: str, queue: str) -> Envelope:
    """The envelope; one around the bare bytes, when other hands have put in what is none."""
    raw = packed if isinstance(packed, bytes) else str(packed).encode(errors="replace")
    if b"\x80" <= raw[:1] < b"\x90":
        raw = _brought_up_to_date(raw)
    return packing.unpack(raw, message_id, queue)


def has_ends(packed: object) -> bool:
    """As `packing.has_ends`, of whatever lies there."""
    return isinstance(packed, bytes) and packing.has_ends(packed)


def _brought_up_to_date(raw: bytes) -> bytes:
    """Before version 4 an envelope was a map."""
    try:
        return packing.pack(_decode_map(raw))
    except (*UNREADABLE, Refused):
        return raw
