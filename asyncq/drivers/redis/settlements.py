"""What the settle script is told of the deliveries that it is to end."""

import math
from collections.abc import Sequence
from typing import Any

import msgspec

from asyncq.drivers.redis.connection import lifetime
from asyncq.language.record import Record
from asyncq.seams.broker import Ack, Completion, Reject, Settlement
from asyncq.seams.dead import pack_last
from asyncq.seams.packing import pack
from asyncq.seams.records import encode_record

FIRST_BLOB = 8  # its place among the arguments of the settle script

_encode = msgspec.msgpack.Encoder().encode

OddIds = dict[str, msgspec.Raw]
"""Ids that are no text: as we write them -> as they are, for Lua's MessagePack."""


class Group(msgspec.Struct):
    """Deliveries of one claim whose records are kept alike."""

    claim: Any
    keep: float
    """Seconds; not positive where no records are kept."""
    address: str | None
    stays: bool = False
    """They are not ended: only their records are kept."""
    acks: list[str] = []
    """Ids of those that are done, and neither suspects nor doomed."""
    records: list[bytes] = []
    """Of each of those, or none at all."""
    ended: list[str] = []
    """Ids of all others."""
    others: list[dict[str, Any]] = []
    """How each of those ends."""

    def ids(self) -> list[str]:
        """In the order in which the script counts them."""
        return self.acks + self.ended


def odd_id(raw: bytes) -> msgspec.Raw:
    """An id that is no text; Lua's MessagePack takes any bytes for one."""
    return msgspec.Raw(b"\xdb" + len(raw).to_bytes(4) + raw)


def pack_batch(batch: Sequence[Completion], odd: OddIds) -> tuple[list[Group], list[bytes]]:
    """The script's last arguments, and the groups that they tell of.

    A few groups, by claim, and by how long and for whom to keep the record: what is the same for
    many is sent once.
    """
    groups: dict[tuple[Any, ...], Group] = {}
    group: Group | None = None
    key: tuple[Any, ...] = ()
    # Arguments of their own: Lua's MessagePack reads no bytes, and some are long.
    blobs: list[bytes] = []
    for completion in batch:
        settlement, record, stays = completion.settlement, completion.record, completion.stays
        delivery = settlement.delivery
        before = key
        if record is None:
            key = (delivery.token, -1.0, None, stays)
        else:
            key = (delivery.token, record.keep, record.reply_to, stays)
        if group is None or key != before:  # most are as the one before them
            group = groups.get(key)
            if group is None:
                group = groups[key] = Group(*key)
        id = delivery.envelope.id
        if stays or (settlement.__class__ is Ack and not delivery.suspect and not delivery.verdict):
            group.acks.append(id)
            if record is not None:
                group.records.append(encode_record(record))
        else:
            group.ended.append(id)
            group.others.append(_described(settlement, odd.get(id, id), record, blobs))
    packed: list[tuple[Any, ...]] = []
    for group in groups.values():
        packed.append(
            (
                str(group.claim),
                str(lifetime(group.keep)) if group.keep > 0 else "0",
                group.address or "",
                [odd.get(id, id) for id in group.acks] if odd else group.acks,
                FIRST_BLOB + len(blobs) if group.records else 0,
                group.others,
                group.stays,
            )
        )
        blobs += group.records
    return list(groups.values()), [_encode(packed), *blobs]


def _described(
    settlement: Settlement, id: str | msgspec.Raw, record: Record | None, blobs: list[bytes]
) -> dict[str, Any]:
    """The end of one delivery, as the script takes it."""
    delivery = settlement.delivery
    told: dict[str, Any] = {
        "id": id,
        "suspect": delivery.suspect,
        "doomed": bool(delivery.verdict),
        "record": 0 if record is None else _place(encode_record(record), blobs),
    }
    if isinstance(settlement, Ack):
        return told | {"op": "ack", "blob": 0}
    replacement = settlement.replacement
    told["blob"] = 0 if replacement is None else _place(pack(replacement), blobs)
    if isinstance(settlement, Reject):
        last = settlement.last
        place = 0 if last is None else _place(pack_last(last), blobs)
        return told | {"op": "reject", "reason": settlement.reason, "last": place}
    eta = None if replacement is None else replacement.eta
    not_before = 0 if eta is None else math.ceil(eta * 1000)
    return told | {
        "op": "nack", "not_before": not_before, "delay": math.ceil(settlement.delay * 1000)
    }  # fmt: skip


def _place(blob: bytes, blobs: list[bytes]) -> int:
    """Where the script finds it."""
    blobs.append(blob)
    return FIRST_BLOB - 1 + len(blobs)
