"""How an envelope travels through RabbitMQ.

The body is the packed envelope. Where there is more to say, that is a map which has it inside. The
properties repeat what operators look for (the id) and what RabbitMQ acts on (priority,
persistence).
"""

import hashlib
from collections.abc import Mapping
from typing import Annotated, Any, cast

import msgspec

from asyncq.drivers.rabbitmq import names
from asyncq.drivers.rabbitmq.content import Parcel, headers_of, id_of, tag_of
from asyncq.drivers.rabbitmq.wire import Content
from asyncq.language.envelope import Envelope
from asyncq.language.message import UNREADABLE
from asyncq.language.topology import copy_id
from asyncq.seams.broker import OVERFLOWED, WAITED_TOO_LONG
from asyncq.seams.packing import pack, unpack

REASON = "x-asyncq-reason"
DIED_AT = "x-asyncq-died-at"  # milliseconds: a float would travel in 32 bits, a minute apart

MOST_CRASHES = 2**31  # that are counted
VERDICTS = {  # by RabbitMQ's reason
    "expired": f"{WAITED_TOO_LONG}: no worker took it within the ttl of its queue",
    "maxlen": f"{OVERFLOWED}: the queue had as many newer ones as it may have",
}


class _More(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """What this driver has to say of an envelope."""

    packed: msgspec.Raw = msgspec.field(name="asyncq")
    crashes: Annotated[int, msgspec.Meta(ge=0, le=MOST_CRASHES)] = 0
    again: bool = False
    """It was sent before, and nobody knows whether it arrived."""
    first: str = ""
    """Of what went to an exchange: the queue whose copy keeps the id."""
    last: bytes = b""
    """Of a dead letter: how its last attempt failed."""
    verdict: str = ""
    """As `asyncq.seams.broker.Delivery.verdict`."""


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
    verdict: str = ""

    @property
    def losses(self) -> int:
        """How many workers were lost with it in their hands."""
        return min(self.crashes + 1, MOST_CRASHES) if self.redelivered else self.crashes


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(_More).decode


def wrap(
    envelope: Envelope,
    exchange: str,
    key: str,
    *,
    crashes: int = 0,
    again: bool = False,
    first: str = "",
    last: bytes = b"",
    verdict: str = "",
) -> Parcel:
    """The parcel of an envelope, for this exchange and routing key.

    Raises:
        Refused: no broker could carry it.
    """
    body = pack(envelope)
    if crashes or again or first or last or verdict:
        body = _encode(_More(msgspec.Raw(body), crashes, again, first, last, verdict))
    headers = {names.ENDS: True} if envelope.ends else {}
    return Parcel(exchange, key, envelope.id, body, envelope.priority, headers)


def unwrap(content: Content, queue: str) -> Received:
    """What was delivered, or fetched; of other hands' bytes, an envelope around them."""
    tag, redelivered = tag_of(content)
    raw = content.body
    id = id_of(content) or f"foreign-{hashlib.sha256(raw).hexdigest()[:32]}"
    if not b"\x80" <= raw[:1] < b"\x90":  # no map
        return Received(tag, redelivered, unpack(raw, id, queue), 0, False)
    try:
        more = _decode(raw)
    except UNREADABLE:
        return Received(tag, redelivered, Envelope(id, queue, body=raw), 0, False)
    if more.first:
        id = copy_id(id, queue, more.first)
    envelope = unpack(bytes(more.packed), id, queue)
    return Received(
        tag, redelivered, envelope, more.crashes, more.again, more.last, verdict=more.verdict
    )


def last_death(headers: Mapping[str, Any]) -> Mapping[str, Any]:
    """What RabbitMQ says of the last queue that a message left by itself; nothing if of none."""
    match headers.get("x-death"):  # the last one comes first
        case [dict() as death, *_]:  # pyright: ignore[reportUnknownVariableType] - of anything
            return cast("Mapping[str, Any]", death)
        case _:
            return {}


def verdict_of(content: Content, queue: str) -> str:
    """Why RabbitMQ has buried a message of this queue by itself; empty if it has not."""
    death = last_death(headers_of(content))
    return VERDICTS.get(str(death.get("reason")), "") if death.get("queue") == queue else ""
