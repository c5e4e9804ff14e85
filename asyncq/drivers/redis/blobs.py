"""How an envelope lies in Redis: the names of keys, and the bytes of a body.

The blob is a MessagePack array that begins with the priority as one digit: scripts read it from the
second byte, and nothing else of it.
"""

from typing import Any

import msgspec

from asyncq.drivers.redis.connection import RedisSettings
from asyncq.language.message import UNREADABLE, Priority
from asyncq.seams.broker import Envelope
from asyncq.seams.dead import DeadLimits


class _Blob(msgspec.Struct, frozen=True, array_like=True, gc=False):
    priority: Priority
    body: bytes
    eta: float | None = None
    expires: float | None = None
    reply_to: str | None = None
    sent_at: float = 0.0
    headers: dict[str, Any] = {}


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(_Blob).decode


def queue_key(settings: RedisSettings, queue: str) -> str:
    """What every key of this queue begins with; the braces keep them in one slot."""
    return f"{settings.prefix}:{{{queue}}}"


def dead_bounds(limits: DeadLimits) -> tuple[int, int]:
    """How many dead letters to keep, and for how many milliseconds, as scripts take it."""
    return limits.most, int(limits.keep * 1000)


def pack(envelope: Envelope) -> bytes:
    return _encode(
        (  # a _Blob to whoever reads it; to make one takes longer than to encode it
            envelope.priority,
            envelope.body,
            envelope.eta,
            envelope.expires,
            envelope.reply_to,
            envelope.sent_at,
            envelope.headers,
        )
    )


def unpack(id: str, queue: str, blob: bytes) -> Envelope:
    """The envelope of a blob.

    Bytes that some other hand put there come as they are, as the body of an envelope: the worker
    cannot decode it and moves it, with them, to the dead letters.
    """
    try:
        fields = _decode(blob)
    except UNREADABLE:
        return Envelope(id=id, queue=queue, body=blob)
    return Envelope(
        id=id,
        queue=queue,
        body=fields.body,
        priority=fields.priority,
        eta=fields.eta,
        expires=fields.expires,
        reply_to=fields.reply_to,
        sent_at=fields.sent_at,
        headers=fields.headers,
    )
