"""What an operator asks of Redis queues: how many, which, and what to do about the dead."""

from collections.abc import Sequence
from typing import Any

from asyncq.clock import Clock
from asyncq.drivers.redis.causes import explaining
from asyncq.drivers.redis.connection import Link, RedisStore, Script
from asyncq.drivers.redis.wire import ReplyError
from asyncq.errors import BrokerUnavailable
from asyncq.language.envelope import Envelope
from asyncq.language.message import Status
from asyncq.seams.admin import DeadLetter, Depth, Waiting, due_at
from asyncq.seams.broker import MAX_BATCH
from asyncq.seams.dead import unpack_last
from asyncq.seams.packing import unpack

_REPLAY = Script("replay")
_PURGE = Script("purge")


class RedisQueueAdmin:
    """The `QueueAdmin` half of the Redis broker, on a connection of its own."""

    def __init__(self, store: RedisStore, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._asks = Link(store, BrokerUnavailable)

    async def queues(self) -> Sequence[str]:
        names = await self._asks("SMEMBERS", f"{self._store.prefix}:queues")
        return sorted(raw.decode(errors="replace") for raw in names)

    async def depth(self, queue: str) -> Depth:
        async with explaining(self._asks, queue) as base:
            lines = _line_keys(base)
            incarnations = await self._asks("ZRANGE", f"{base}:leases", 0, -1)
            in_flight = _in_flight_keys(base, incarnations)
            replies = await self._asks.pipeline(
                [("ZCARD", f"{base}:delayed"), ("ZCARD", f"{base}:dead")]
                + [("LLEN", line) for line in lines]
                + [("LINDEX", line, 0) for line in lines]
                + [("HLEN", key) for key in in_flight]
            )
            size = len(lines)
            heads = [head for head in replies[2 + size : 2 + 2 * size] if head is not None]
            return Depth(
                ready=sum(replies[2 : 2 + size]),
                delayed=replies[0],
                in_flight=sum(replies[2 + 2 * size :]),
                dead=replies[1],
                oldest_age=await self._oldest_age(queue, heads),
            )

    async def find(self, ids: Sequence[str]) -> Sequence[Status | None]:
        found: dict[str, Status] = {}
        try:
            for queue in await self.queues():
                missing = [id for id in ids if id not in found]
                for start in range(0, len(missing), MAX_BATCH):
                    found.update(await self._find(queue, missing[start : start + MAX_BATCH]))
        except ReplyError as error:  # a key of ours is of another type: other hands made it
            raise BrokerUnavailable(f"messages cannot be looked for: {error}") from error
        return [found.get(id) for id in ids]

    async def envelopes(self, ids: Sequence[str]) -> Sequence[Envelope | None]:
        found: dict[str, Envelope] = {}
        try:
            for queue in await self.queues():
                missing = [id for id in ids if id not in found]
                for start in range(0, len(missing), MAX_BATCH):
                    some = missing[start : start + MAX_BATCH]
                    blobs = await self._asks(
                        "HMGET", f"{self._store.queue_key(queue)}:bodies", *some
                    )
                    here = [
                        unpack(blob, id, queue)
                        for id, blob in zip(some, blobs, strict=True)
                        if blob is not None
                    ]
                    dues = await self._dues(queue, here)
                    found.update((each.id, due_at(each, dues.get(each.id))) for each in here)
        except ReplyError as error:
            raise BrokerUnavailable(f"messages cannot be looked for: {error}") from error
        return [found.get(id) for id in ids]

    async def purge(self, queue: str) -> int:
        async with explaining(self._asks, queue) as base:
            removed, seen, unseen = 0, 1, ""
            while seen:
                count, seen, unseen = await self._asks.script(_PURGE, base, unseen)
                removed += count
            return removed

    async def peek(self, queue: str, *, limit: int = 100, offset: int = 0) -> Sequence[Waiting]:
        async with explaining(self._asks, queue) as base:
            if limit <= 0:
                return ()
            lines = _line_keys(base)
            sizes = await self._asks.pipeline([("LLEN", line) for line in lines])
            found: list[tuple[bytes, float | None]] = []
            for line, size in zip(lines, sizes, strict=True):
                if offset < size and len(found) < limit:
                    last = offset + limit - len(found) - 1
                    found += [(id, None) for id in await self._asks("LRANGE", line, offset, last)]
                offset = max(0, offset - size)
            if len(found) < limit:
                last = offset + limit - len(found) - 1
                reply = await self._asks("ZRANGE", f"{base}:delayed", offset, last, "WITHSCORES")
                found += [
                    (member[1:], float(score) / 1000)
                    for member, score in zip(reply[::2], reply[1::2], strict=True)
                ]
            if not found:
                return ()
            ids = [id for id, _ in found]
            blobs, crashes = await self._asks.pipeline(
                [("HMGET", f"{base}:{what}", *ids) for what in ("bodies", "crashes")]
            )
            return [
                Waiting(
                    envelope=unpack(blob, id.decode(errors="backslashreplace"), queue),
                    due=due,
                    crashes=int(count or 0),
                )
                for (id, due), blob, count in zip(found, blobs, crashes, strict=True)
                if blob is not None  # taken and settled while we looked
            ]

    async def dead_letters(
        self, queue: str, *, limit: int = 100, offset: int = 0
    ) -> Sequence[DeadLetter]:
        async with explaining(self._asks, queue) as base:
            if limit <= 0:
                return ()
            reply = await self._asks(
                "ZRANGE", f"{base}:dead", offset, offset + limit - 1, "WITHSCORES"
            )
            ids: list[bytes] = reply[::2]
            if not ids:
                return ()
            bodies, reasons, crashes, lasts = await self._asks.pipeline(
                [("HMGET", f"{base}:dead:{what}", *ids) for what in _DEAD_HASHES]
            )
            return [
                DeadLetter(
                    envelope=unpack(body or b"", id.decode(errors="backslashreplace"), queue),
                    reason=(reason or b"").decode(errors="replace"),
                    died_at=float(score) / 1000,
                    crashes=int(count or 0),
                    last=unpack_last(last),
                )
                for id, score, body, reason, count, last in zip(
                    ids, reply[1::2], bodies, reasons, crashes, lasts, strict=True
                )
            ]

    async def replay(self, queue: str, ids: Sequence[str]) -> Sequence[str]:
        async with explaining(self._asks, queue) as base:
            back: list[str] = []
            for start in range(0, len(ids), MAX_BATCH):
                reply = await self._asks.script(_REPLAY, base, *ids[start : start + MAX_BATCH])
                back += [raw.decode(errors="backslashreplace") for raw in reply]
            return back

    async def delete_dead(self, queue: str, ids: Sequence[str]) -> int:
        async with explaining(self._asks, queue) as base:
            if not ids:
                return 0
            replies = await self._asks.pipeline(
                [("ZREM", f"{base}:dead", *ids)]
                + [("HDEL", f"{base}:dead:{what}", *ids) for what in _DEAD_HASHES]
            )
            return replies[0]

    async def _find(self, queue: str, ids: Sequence[str]) -> dict[str, Status]:
        if not ids:
            return {}
        base = self._store.queue_key(queue)
        commands: list[tuple[Any, ...]] = [("ZRANGE", f"{base}:leases", 0, -1)]
        commands += [("HMGET", f"{base}:bodies", *ids), ("ZMSCORE", f"{base}:dead", *ids)]
        incarnations, blobs, deaths = await self._asks.pipeline(commands)
        found = {id: Status.FAILED for id, at in zip(ids, deaths, strict=True) if at is not None}
        here = [(id, blob) for id, blob in zip(ids, blobs, strict=True) if blob is not None]
        if not here:
            return found
        names = [id for id, _ in here]
        members = [f"{unpack(blob, id, queue).priority}{id}" for id, blob in here]
        due, *in_flight = await self._asks.pipeline(
            [("ZMSCORE", f"{base}:delayed", *members)]
            + [("HMGET", key, *names) for key in _in_flight_keys(base, incarnations)]
        )
        for at, name in enumerate(names):
            if due[at] is not None:
                found[name] = Status.SCHEDULED
            elif any(flags[at] for flags in in_flight):
                found[name] = Status.RUNNING
            else:
                found[name] = Status.QUEUED
        return found

    async def _dues(self, queue: str, some: Sequence[Envelope]) -> dict[str, float]:
        """When those of these are due that were given back for later, by their ids."""
        some = [each for each in some if each.eta is None]
        if not some:
            return {}
        members = [f"{each.priority}{each.id}" for each in some]
        scores = await self._asks("ZMSCORE", f"{self._store.queue_key(queue)}:delayed", *members)
        return {
            each.id: float(score) / 1000
            for each, score in zip(some, scores, strict=True)
            if score is not None
        }

    async def _oldest_age(self, queue: str, ids: Sequence[bytes]) -> float | None:
        if not ids:
            return None
        base = self._store.queue_key(queue)
        blobs = await self._asks("HMGET", f"{base}:bodies", *ids)
        sent = [
            unpack(blob, id.decode(errors="backslashreplace"), queue).sent_at
            for id, blob in zip(ids, blobs, strict=True)
            if blob is not None
        ]
        # Messages of other hands have no time of sending; they do not count as from 1970.
        known = [moment for moment in sent if moment > 0]
        return max(0.0, self._clock.now() - min(known)) if known else None


def _line_keys(base: str) -> list[str]:
    """Where messages wait that are due, in the order in which they are handed out."""
    return [f"{base}:doomed", f"{base}:suspects"] + [
        f"{base}:ready:{priority}" for priority in range(9, -1, -1)
    ]


def _in_flight_keys(base: str, incarnations: Sequence[bytes]) -> list[str]:
    """Of those workers; other hands may have put among them what is no text."""
    return [f"{base}:in_flight:{raw.decode(errors='replace')}" for raw in incarnations]


_DEAD_HASHES = ("bodies", "reasons", "crashes", "last")
