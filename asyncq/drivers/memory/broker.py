"""The memory broker: the reference for all others, and the one for tests.

It yields in every call as a network does, before and after the deed: a caller that is cancelled
finds out here, and not in production, that its message was stored all the same.
"""

from collections import defaultdict
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from itertools import islice
from typing import assert_never

import msgspec
from anyio import move_on_after
from anyio.lowlevel import checkpoint

from asyncq.clock import Clock
from asyncq.config import Url
from asyncq.drivers.memory.queue import Entry
from asyncq.drivers.memory.store import MemoryDriver, MemoryStore
from asyncq.drivers.wakeup import Wakeup
from asyncq.errors import QueueFull
from asyncq.language.envelope import Envelope
from asyncq.language.message import Status
from asyncq.language.record import Record
from asyncq.language.topology import Queue
from asyncq.seams.admin import DeadLetter, Depth, Waiting, due_at
from asyncq.seams.broker import (
    Ack,
    Completed,
    Completion,
    Consumer,
    ConsumerOffers,
    Delivery,
    Lease,
    LeaseRenewer,
    Nack,
    Offers,
    QueueSpec,
    Reject,
    Settlement,
)
from asyncq.seams.dead import DeadLimits
from asyncq.seams.packing import pack, unpack

LONGEST_WAIT = 1.0  # seconds; after that a consumer looks for itself


class MemoryBroker(MemoryDriver):
    """Queues in this process, gone with it: ``memory://name``."""

    leases_are_shared = False

    def __init__(self, url: Url, clock: Clock, limits: DeadLimits | None = None) -> None:
        super().__init__(url, clock)
        self._limits = limits or DeadLimits()

    @property
    def offers(self) -> Offers:
        return Offers(leases=self, admin=self, finder=self)

    async def publish(self, envelopes: Sequence[Envelope]) -> None:
        await checkpoint()
        entries = [_entry(envelope) for envelope in envelopes]
        with self._store.lock:
            now = self._clock.now()
            refused: dict[str, list[str]] = defaultdict(list)
            for envelope, entry in zip(envelopes, entries, strict=True):
                self._store.published.add(envelope.queue)
                if self._store.records.get(envelope.id, now) is None:
                    queue = self._store.queue(envelope.queue)
                    if not queue.add(entry, envelope.eta or 0.0, now, self._limits):
                        refused[envelope.queue].append(envelope.id)
            limits = {name: self._store.queue(name).max_length or 0 for name in refused}
        await checkpoint()
        if refused:
            name = next(iter(refused))
            raise QueueFull(refused[name], name, limits[name])

    async def declare(self, queues: Sequence[Queue]) -> None:
        async with self._store.visit():
            for queue in queues:
                self._store.queue(queue.name).declare(queue)

    @asynccontextmanager
    async def consume(self, queue: QueueSpec, lease: Lease) -> AsyncGenerator[Consumer]:
        await checkpoint()
        consumer = MemoryConsumer(self._store, self._clock, queue.name, lease, self._limits)
        try:
            yield consumer
        finally:
            consumer.close()  # waits for nothing, so nothing cancels it half-way

    def renewer(self) -> LeaseRenewer:
        return MemoryLeaseRenewer(self._store, self._clock)

    async def sweep(self, queue: str) -> int:
        async with self._store.visit():
            return self._store.queue(queue).sweep(self._clock.now())

    async def queues(self) -> Sequence[str]:
        async with self._store.visit():
            return sorted(self._store.published)

    async def depth(self, queue: str) -> Depth:
        async with self._store.visit():
            return self._store.queue(queue).depth(self._clock.now())

    async def find(self, ids: Sequence[str]) -> Sequence[Status | None]:
        async with self._store.visit():
            now = self._clock.now()
            return [self._find(message_id, now) for message_id in ids]

    async def envelopes(self, ids: Sequence[str]) -> Sequence[Envelope | None]:
        async with self._store.visit():
            found = [self._envelope(message_id) for message_id in ids]
            without = {each.id for each in found if each is not None and each.eta is None}
            dues = {id: due for queue in self._store.queues for id, due in queue.dues(without)}
            return [each and due_at(each, dues.get(each.id)) for each in found]

    async def purge(self, queue: str) -> int:
        async with self._store.visit():
            return self._store.queue(queue).purge()

    async def peek(self, queue: str, *, limit: int = 100, offset: int = 0) -> Sequence[Waiting]:
        async with self._store.visit():
            page = list(islice(self._store.queue(queue).waiting(), offset, offset + limit))
        return [
            Waiting(envelope=unpack(entry.packed, entry.id, queue), due=due, crashes=entry.crashes)
            for entry, due in page
        ]

    async def dead_letters(
        self, queue: str, *, limit: int = 100, offset: int = 0
    ) -> Sequence[DeadLetter]:
        async with self._store.visit():
            page = list(islice(self._store.queue(queue).dead(), offset, offset + limit))
        return [
            DeadLetter(
                envelope=unpack(dead.entry.packed, dead.entry.id, queue),
                reason=dead.reason,
                died_at=dead.died_at,
                crashes=dead.entry.crashes,
                last=dead.last,
            )
            for dead in page
        ]

    async def replay(self, queue: str, ids: Sequence[str]) -> Sequence[str]:
        async with self._store.visit():
            line = self._store.queue(queue)
            return [message_id for message_id in ids if line.replay(message_id)]

    async def delete_dead(self, queue: str, ids: Sequence[str]) -> int:
        async with self._store.visit():
            line = self._store.queue(queue)
            return sum(line.delete_dead(message_id) for message_id in ids)

    def _find(self, message_id: str, now: float) -> Status | None:
        places = (queue.find(message_id, now) for queue in self._store.queues)
        return next((place for place in places if place is not None), None)

    def _envelope(self, message_id: str) -> Envelope | None:
        for queue in self._store.queues:
            if (entry := queue.entry(message_id)) is not None:
                return unpack(entry.packed, message_id, queue.name)
        return None


class MemoryConsumer:
    """One worker's hands in one queue, whose records are in the same store."""

    def __init__(
        self,
        store: MemoryStore,
        clock: Clock,
        queue: str,
        lease: Lease,
        limits: DeadLimits,
    ) -> None:
        self._store = store
        self._clock = clock
        self._lease = lease
        self._limits = limits
        self._suspects: set[int] = set()  # the claims of those that we run
        with store.lock:
            self._queue = store.queue(queue)
            self._queue.open_lease(lease.incarnation, clock.now() + lease.seconds)

    def close(self) -> None:
        with self._store.lock:
            self._queue.close_lease(self._lease.incarnation)
        self._lease.quarantine.leave(len(self._suspects))
        self._suspects.clear()

    @property
    def offers(self) -> ConsumerOffers:
        return ConsumerOffers(complete=self.complete)

    async def wait(self) -> None:
        await checkpoint()
        with self._store.lock:
            now, worker = self._clock.now(), self._lease.incarnation
            pause = self._queue.pause(worker, self._lease.quarantine.admission, now)
            if pause == 0.0:
                return
            wakeup = Wakeup()
            self._queue.hang_up(wakeup, standby=self._queue.stands_by(worker, now))
        try:
            with move_on_after(LONGEST_WAIT if pause is None else min(pause, LONGEST_WAIT)):
                await wakeup.wait()
        except BaseException:
            if wakeup.is_set:  # and we leave without looking: let another look
                with self._store.lock:
                    self._queue.wake()
            raise
        finally:
            with self._store.lock:
                self._queue.take_down(wakeup)

    async def receive(self, limit: int) -> Sequence[Delivery]:
        await checkpoint()
        admission = self._lease.quarantine.reserve()
        suspects: dict[int, int] = {}  # claim: crashes
        try:
            with self._store.lock:
                claimed = self._queue.claim(
                    self._lease.incarnation, limit, admission, self._clock.now(), self._limits
                )
            suspects = {number: entry.crashes for number, entry in claimed if entry.suspect}
            self._suspects.update(suspects)
        finally:
            self._lease.quarantine.occupy(admission, suspects.values())
        return [
            Delivery(
                envelope=unpack(entry.packed, entry.id, self._queue.name),
                crashes=entry.crashes,
                suspect=entry.suspect,
                verdict=entry.verdict,
                token=number,
            )
            for number, entry in claimed
        ]

    async def settle(self, batch: Sequence[Settlement]) -> Sequence[Delivery]:
        return (await self.complete([Completion(settlement) for settlement in batch])).fenced

    async def complete(self, batch: Sequence[Completion]) -> Completed:
        await checkpoint()
        fenced: list[Delivery] = []
        standing: list[Record] = []
        with self._store.lock:
            now = self._clock.now()
            for completion in batch:
                delivery, record = completion.settlement.delivery, completion.record
                is_ours = self._holds(delivery)
                if not is_ours:
                    fenced.append(delivery)
                elif not completion.stays:
                    self._settle(completion.settlement, now)
                if is_ours and record is not None:
                    stood = self._store.record(record, now)
                    if completion.stays and stood is not None:
                        standing.append(stood)
                if is_ours and completion.stays:
                    continue
                if delivery.token in self._suspects:
                    self._suspects.remove(delivery.token)
                    self._lease.quarantine.leave()
                    self._queue.wake()  # we may be waiting for room in the quarantine ourselves
        await checkpoint()
        return Completed(fenced, standing)

    def _holds(self, delivery: Delivery) -> bool:
        return self._queue.holds(self._lease.incarnation, delivery.envelope.id, delivery.token)

    def _settle(self, settlement: Settlement, now: float) -> None:
        """End a delivery of ours."""
        delivery = settlement.delivery
        replacement = None if isinstance(settlement, Ack) else settlement.replacement
        new = None if replacement is None else _entry(replacement)  # may be refused: first
        entry = self._queue.let_go(self._lease.incarnation, delivery.envelope.id)
        if new is not None:
            entry = msgspec.structs.replace(
                new, crashes=entry.crashes, suspect=entry.suspect, verdict=entry.verdict
            )
        match settlement:
            case Ack():
                pass  # nothing is left of it
            case Nack(delay=delay):
                due = max(now + delay, 0.0 if replacement is None else replacement.eta or 0.0)
                if due > now:
                    self._queue.delay(entry, due)
                else:
                    self._queue.put_first(entry)
            case Reject(reason=reason, last=last):
                self._queue.bury(entry, reason, now, self._limits, last)
            case _:
                assert_never(settlement)


class MemoryLeaseRenewer:
    """Renews leases from whatever thread."""

    def __init__(self, store: MemoryStore, clock: Clock) -> None:
        self._store = store
        self._clock = clock

    def renew(self, incarnation: str, queues: Sequence[str], seconds: float) -> bool:
        with self._store.lock:
            now = self._clock.now()
            renewed = [
                self._store.queue(name).renew_lease(incarnation, now + seconds, now)
                for name in queues
            ]
        return all(renewed)

    def release(self, incarnation: str, queues: Sequence[str]) -> int:
        with self._store.lock:
            return sum(self._store.queue(name).release(incarnation) for name in queues)

    def close(self) -> None:
        return None


def _entry(envelope: Envelope) -> Entry:
    """
    Raises:
        Refused: no broker could carry it.
    """
    packed = pack(envelope)
    return Entry(
        id=envelope.id, priority=envelope.priority, sent_at=envelope.sent_at, packed=packed
    )
