"""An envelope as bytes: the one place that writes it and reads it, for all drivers.

It is a MessagePack array of the priority, the body and the rest of the `Header`; the id and the
queue are said by the place where it lies. The priority comes first because Redis' scripts read it
there, one digit in the second byte. A field that is added to the header comes last. Each is named
where it is written and read: to ask for all at once takes two to three times as long.
"""

from typing import Any

import msgspec

from asyncq.errors import Refused
from asyncq.language.envelope import Envelope
from asyncq.language.message import MAX_PRIORITY, UNREADABLE, End, Header, Priority

DEEPEST = 100  # levels of headers in headers: what is read here must be written again, elsewhere
SHALLOW = 3 * DEEPEST  # bytes that are no deeper, whatever they are


def pack(envelope: Envelope) -> bytes:
    """
    Raises:
        Refused: its headers or its priority are such as no broker could carry.
    """
    priority = envelope.priority
    try:
        if 0 <= priority <= MAX_PRIORITY:
            return _encode(
                (
                    priority,
                    envelope.body,
                    envelope.eta,
                    envelope.expires,
                    envelope.reply_to,
                    envelope.sent_at,
                    envelope.headers,
                    envelope.again,
                    envelope.ends,
                )
            )
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise Refused(envelope.id, f"it cannot be encoded: {error}") from error
    raise Refused(envelope.id, f"its priority is {priority}, not 0 to {MAX_PRIORITY}")


def unpack(packed: bytes, id: str, queue: str) -> Envelope:
    """The envelope that was packed.

    Bytes that some other hand put there come as they are, as the body of an envelope: the worker
    cannot decode it and moves it, with them, to the dead letters.
    """
    try:
        fields = _decode(packed)
        envelope = Envelope(
            id,
            queue,
            fields.priority,
            fields.eta,
            fields.expires,
            fields.reply_to,
            fields.sent_at,
            fields.headers,
            fields.again,
            fields.ends,
            body=fields.body,
        )
        if envelope.headers and len(packed) - len(fields.body) > SHALLOW:
            _check_depth(envelope.headers)
    except UNREADABLE:
        return Envelope(id, queue, body=packed)
    return envelope


def has_ends(packed: bytes) -> bool:
    """Whether this is an envelope whose end arrives somewhere (`Header.ends`, the ninth field)."""
    try:
        return bool(_decode(packed).ends)
    except UNREADABLE:
        return False


def enclose(header: Header, body: bytes) -> Envelope:
    """The envelope of a message that has this header, and whose codec has made these bytes."""
    return Envelope(
        header.id,
        header.queue,
        header.priority,
        header.eta,
        header.expires,
        header.reply_to,
        header.sent_at,
        header.headers,
        header.again,
        header.ends,
        body=body,
    )


class _Packed(msgspec.Struct, array_like=True, gc=False):
    priority: Priority
    body: bytes
    eta: float | None = None
    expires: float | None = None
    reply_to: str | None = None
    sent_at: float = 0.0
    headers: dict[str, Any] = {}
    again: bool = False
    ends: tuple[End, ...] = ()


def _check_depth(headers: dict[str, Any]) -> None:
    """
    Raises:
        ValueError: they are nested too deep to be written again with more on the stack.
    """
    level: list[Any] = [headers]
    for _ in range(DEEPEST):
        level = [
            inner
            for each in level
            for inner in (each.values() if isinstance(each, dict) else each)  # pyright: ignore[reportUnknownVariableType] - of anything
            if isinstance(inner, dict | list)
        ]
        if not level:
            return
    raise ValueError(f"its headers are nested more than {DEEPEST} levels deep")


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(_Packed).decode
