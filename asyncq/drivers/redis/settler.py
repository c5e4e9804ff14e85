"""How deliveries of a Redis queue end: what the scripts are told of them, and what they answer."""

import math
from collections.abc import Sequence
from typing import Any, Literal

import msgspec

from asyncq.drivers.redis.connection import Link, RedisSettings, lifetime, load_script
from asyncq.drivers.redis.in_flight import Id, InFlight
from asyncq.drivers.redis.keys import dead_bounds, queue_key
from asyncq.drivers.redis.sizes import too_large
from asyncq.drivers.redis.spoiled import Queues
from asyncq.drivers.redis.wire import ReplyError
from asyncq.errors import BrokerUnavailable, LeaseLost
from asyncq.language.message import Record
from asyncq.loggers import get_logger
from asyncq.seams.broker import (
    MAX_BATCH,
    Ack,
    Completion,
    Delivery,
    Lease,
    Reject,
    Settlement,
)
from asyncq.seams.dead import DeadLimits, pack_last
from asyncq.seams.packing import pack
from asyncq.seams.records import encode_record

log = get_logger(__name__)

_SETTLE = load_script("asyncq.drivers.redis", "settle")
_GIVE_BACK = load_script("asyncq.drivers.redis", "give_back")

FIRST_BLOB = 8  # its place among the arguments of the settle script

_encode = msgspec.msgpack.Encoder().encode


class Settler:
    """Ends what one consumer has in flight, on a connection of its own."""

    def __init__(
        self,
        settings: RedisSettings,
        queue: str,
        lease: Lease,
        limits: DeadLimits,
        in_flight: InFlight,
    ) -> None:
        self._settings = settings
        self._queue = queue
        self._lease = lease
        self._limits = limits
        self._in_flight = in_flight
        self._bounds = dead_bounds(limits)
        self._base = queue_key(settings, queue)
        self._records = settings.key("r", "")
        self._replies = settings.key("reply", "")
        self._link = Link(settings, BrokerUnavailable)
        self._unsure: set[Id] = set()  # settled, but the reply was lost
        self._is_noted = False  # that nobody can be told of outcomes
        self.odd: dict[str, bytes] = {}
        """Ids that are no text: as we write them -> as they are."""

    async def complete(self, batch: Sequence[Completion]) -> list[Delivery]:
        fenced: list[Delivery] = []
        for start in range(0, len(batch), MAX_BATCH):
            fenced += await self._complete(batch[start : start + MAX_BATCH])
        return fenced

    async def give_back(self, ids: Sequence[bytes], which: Literal["unheard", "again"]) -> None:
        """Give these back, uncounted; of what may have run (``again``) the outcome is looked up."""
        for start in range(0, len(ids), MAX_BATCH):
            part = ids[start : start + MAX_BATCH]
            await self._link.script(_GIVE_BACK, self._base, self._lease.incarnation, which, *part)

    async def give_all_back(self) -> None:
        """Give back all that is in flight, and end the lease in this queue."""
        while await self._link.script(_GIVE_BACK, self._base, self._lease.incarnation, "all"):
            pass

    def close(self) -> None:
        self._link.close()

    async def explain(self, error: ReplyError) -> BrokerUnavailable | LeaseLost:
        incarnation = self._lease.incarnation
        if error.code == "LEASELOST":
            return LeaseLost(incarnation)
        return await Queues(self._settings, self._link).unavailable(self._queue, error, incarnation)

    async def _complete(self, batch: Sequence[Completion]) -> list[Delivery]:
        blobs = _Blobs()
        groups = self._grouped(batch, blobs)
        packed = _encode([group.packable(blobs) for group in groups])
        sent = [delivery for group in groups for delivery in group.deliveries()]
        unsure = self._unsure
        is_resent = bool(unsure) and any(not unsure.isdisjoint(group.ids()) for group in groups)
        try:
            reply: tuple[list[int], int, bytes] = await self._link.script(
                _SETTLE,
                self._base,
                self._lease.incarnation,
                1 if is_resent else 0,
                self._records,
                self._replies,
                *self._bounds,
                packed,
                *blobs.blobs,
            )
        except BaseException as error:
            for group in groups:
                unsure.update(group.ids())
            if isinstance(error, ReplyError | BrokerUnavailable):
                raise await self._why_not(batch, error) from error
            raise
        fenced, gave_way, unheard = reply
        for group in groups:
            ids = group.ids()
            self._in_flight.settled(group.claim, ids)
            if is_resent:
                unsure.difference_update(ids)
        if gave_way:
            self._limits.note(self._queue, gave_way)
        if unheard:
            self._note_unheard(unheard)
        if not fenced:
            return []
        lost = {id(sent[position]) for position in fenced}
        deliveries = [completion.settlement.delivery for completion in batch]
        return [delivery for delivery in deliveries if id(delivery) in lost]

    def _grouped(self, batch: Sequence[Completion], blobs: "_Blobs") -> list["_Group"]:
        """By claim, and by how long and for whom to keep the record.

        A few groups, so that what is the same for many is sent once.
        """
        groups: dict[tuple[Any, float, str | None], _Group] = {}
        odd = self.odd
        for completion in batch:
            settlement, record = completion.settlement, completion.record
            delivery = settlement.delivery
            if record is None:
                key = (delivery.token, -1.0, None)
            else:
                key = (delivery.token, record.keep, record.reply_to)
            group = groups.get(key)
            if group is None:
                group = groups[key] = _Group(*key)
            id: Id = delivery.envelope.id
            if odd:
                id = odd.get(id, id)
            if isinstance(settlement, Ack) and not delivery.suspect:
                group.acked.append(delivery)
                group.acks.append(id)
                if record is not None:
                    group.records.append(encode_record(record))
            else:
                group.ended.append(delivery)
                group.end_ids.append(id)
                group.ends.append(_described(settlement, id, record, blobs))
        return list(groups.values())

    async def _why_not(
        self, batch: Sequence[Completion], error: ReplyError | BrokerUnavailable
    ) -> Exception:
        """`Refused` where a record can never be stored: to try again would be for ever."""
        records = [each.record for each in batch if each.record is not None]
        sizes = [(record.id, len(encode_record(record))) for record in records]
        if (no := await too_large(self._link, sizes)) is not None:
            return no
        if isinstance(error, ReplyError):
            return await self.explain(error)
        return BrokerUnavailable(str(error))

    def _note_unheard(self, why: bytes) -> None:
        """Say once that outcomes are kept and cannot be pushed to who waits for them."""
        if not self._is_noted:
            self._is_noted = True
            log.warning(
                "results of queue %s reach their clients late, by polling: %r does not let us "
                "publish on channels; ACL SETUSER gives that right: +publish &%s* (%s)",
                self._queue, self._settings.url, self._replies, why.decode(errors="replace"),
            )  # fmt: skip


class _Group:
    """Deliveries of one claim whose records are kept alike, and what the script is told of each."""

    __slots__ = (
        "acked",
        "acks",
        "address",
        "claim",
        "end_ids",
        "ended",
        "ends",
        "keep",
        "records",
    )

    def __init__(self, claim: int, keep: float, address: str | None) -> None:
        self.claim = claim
        self.keep = keep
        self.address = address
        self.acked: list[Delivery] = []  # done, and no suspects
        self.acks: list[Id] = []
        self.records: list[bytes] = []  # of each of these, or none at all
        self.ended: list[Delivery] = []  # all others
        self.end_ids: list[Id] = []
        self.ends: list[dict[str, Any]] = []

    def deliveries(self) -> list[Delivery]:
        """In the order in which the script counts them."""
        return self.acked + self.ended

    def ids(self) -> list[Id]:
        return self.acks + self.end_ids

    def packable(self, blobs: "_Blobs") -> dict[str, Any]:
        return {
            "claim": self.claim,
            "keep": lifetime(self.keep) if self.keep > 0 else 0,
            "address": self.address or "",
            "acks": [id if isinstance(id, str) else _named(id) for id in self.acks],
            "records": blobs.place_all(self.records),
            "others": self.ends,
        }


class _Blobs:
    """Bytes that are arguments of their own: Lua's MessagePack reads none, and some are long."""

    def __init__(self) -> None:
        self.blobs: list[bytes] = []

    def place(self, blob: bytes) -> int:
        """Where the script finds it."""
        self.blobs.append(blob)
        return FIRST_BLOB - 1 + len(self.blobs)

    def place_all(self, blobs: Sequence[bytes]) -> int:
        """Where it finds the first of them; 0 for none."""
        first = FIRST_BLOB + len(self.blobs)
        self.blobs += blobs
        return first if blobs else 0


def _named(id: Id) -> str | msgspec.Raw:
    """An id for Lua's MessagePack, which takes any bytes for a text."""
    return id if isinstance(id, str) else msgspec.Raw(b"\xdb" + len(id).to_bytes(4) + id)


def _described(
    settlement: Settlement, id: Id, record: Record | None, blobs: _Blobs
) -> dict[str, Any]:
    """The end of one delivery, as the script takes it."""
    told: dict[str, Any] = {
        "id": _named(id),
        "suspect": settlement.delivery.suspect,
        "record": 0 if record is None else blobs.place(encode_record(record)),
    }
    if isinstance(settlement, Ack):
        return told | {"op": "ack", "blob": 0}
    replacement = settlement.replacement
    told["blob"] = 0 if replacement is None else blobs.place(pack(replacement))
    if isinstance(settlement, Reject):
        last = settlement.last
        place = 0 if last is None else blobs.place(pack_last(last))
        return told | {"op": "reject", "reason": settlement.reason, "last": place}
    eta = None if replacement is None else replacement.eta
    not_before = 0 if eta is None else math.ceil(eta * 1000)
    return told | {
        "op": "nack", "not_before": not_before, "delay": math.ceil(settlement.delay * 1000)
    }  # fmt: skip
