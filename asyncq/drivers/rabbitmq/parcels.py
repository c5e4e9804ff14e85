"""How an envelope travels through RabbitMQ.

The body is a MessagePack array of everything that an envelope has; the properties repeat what
operators look for (the id) and what RabbitMQ acts on (priority, persistence).
"""

import hashlib
from typing import Annotated, Any

import msgspec

from asyncq.drivers.rabbitmq.content import Parcel, id_of, tag_of
from asyncq.drivers.rabbitmq.wire import Content
from asyncq.language.message import UNREADABLE, Priority
from asyncq.language.topology import copy_id
from asyncq.seams.broker import Envelope

REASON = "x-asyncq-reason"
DIED_AT = "x-asyncq-died-at"  # milliseconds: a float would travel in 32 bits, a minute apart

MOST_CRASHES = 2**31  # that are counted
DEEPEST = 100  # levels of headers in headers: what is read here must be written again, elsewhere
SHALLOW = 3 * DEEPEST  # bytes that are no deeper, whatever they are


class _Fields(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What is in the body."""

    priority: Priority
    body: bytes
    eta: float | None = None
    expires: float | None = None
    reply_to: str | None = None
    sent_at: float = 0.0
    headers: dict[str, Any] = {}
    crashes: Annotated[int, msgspec.Meta(ge=0, le=MOST_CRASHES)] = 0
    again: bool = False
    """It was sent before, and nobody knows whether it arrived."""
    first: str = ""
    """Of what went to an exchange: the queue whose copy keeps the id."""
    last: bytes = b""
    """Of a dead letter: how its last attempt failed."""


class Received(msgspec.Struct, frozen=True, gc=False):
    """A message as it came from RabbitMQ."""

    tag: int
    redelivered: bool
    envelope: Envelope
    crashes: int
    again: bool
    last: bytes = b""
    spared: int = 0
    """How often in a row it was delivered again and no worker had died with it."""

    @property
    def losses(self) -> int:
        """How many workers were lost with it in their hands."""
        return min(self.crashes + 1, MOST_CRASHES) if self.redelivered else self.crashes


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(_Fields).decode


def wrap(
    envelope: Envelope,
    exchange: str,
    key: str,
    *,
    crashes: int = 0,
    again: bool = False,
    first: str = "",
    last: bytes = b"",
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
            first,
            last,
        )
    )
    return Parcel(exchange, key, envelope.id, body, envelope.priority)


def unwrap(content: Content, queue: str) -> Received:
    """What was delivered, or fetched.

    Bytes that some other hand put there come as they are, as the body of an envelope: the worker
    cannot decode them and moves them to the dead letters.
    """
    tag, redelivered = tag_of(content)
    id = id_of(content)
    raw = content.body
    try:
        fields = _decode(raw)
        if fields.headers and len(raw) - len(fields.body) > SHALLOW:
            _check_depth(fields.headers)
    except UNREADABLE:
        id = id or f"foreign-{hashlib.sha256(raw).hexdigest()[:32]}"
        return Received(tag, redelivered, Envelope(id=id, queue=queue, body=raw), 0, False)
    id = id or f"foreign-{hashlib.sha256(raw).hexdigest()[:32]}"
    return Received(
        tag,
        redelivered,
        Envelope(
            id=copy_id(id, queue, fields.first) if fields.first else id,
            queue=queue,
            body=fields.body,
            priority=fields.priority,
            eta=fields.eta,
            expires=fields.expires,
            reply_to=fields.reply_to,
            sent_at=fields.sent_at,
            headers=fields.headers,
        ),
        fields.crashes,
        fields.again,
        fields.last,
    )


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
