"""Where an app's messages are while it is tested: a memory store that tells what happens in it."""

import asyncio
import math
import threading
from collections import deque
from collections.abc import AsyncGenerator, Collection, Sequence
from contextlib import asynccontextmanager

import msgspec

from asyncq.clock import Clock
from asyncq.config import Url
from asyncq.drivers.memory.broker import MemoryBroker, MemoryConsumer
from asyncq.drivers.memory.store import drop_store, open_store
from asyncq.language.envelope import Envelope
from asyncq.language.message import Status, new_id
from asyncq.language.record import Record
from asyncq.seams.broker import (
    Ack,
    Completed,
    Completion,
    Consumer,
    Delivery,
    Lease,
    Nack,
    Offers,
    QueueSpec,
    Reject,
)
from asyncq.seams.dead import DeadLimits


class Place:
    """A store of its own, what was sent to it, and how it ended."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.url = Url(f"memory://{new_id()}")
        self.sent: list[Envelope] = []
        self.ended: list[Record] = []
        # Faults that the test has asked for, and that have not happened yet.
        self.publishing: deque[Exception] = deque()
        """What the next calls to enqueue raise."""
        self.storing: deque[Exception] = deque()
        """What the next attempts to store an outcome raise."""
        self.outcomes_to_lose = 0
        self.deliveries_to_repeat = 0
        self.repeated = 0
        """Deliveries that were made up, and have not ended; touched in the worker's loop only."""
        self.leases: list[Lease] = []
        """Of the workers that consume, once for each queue; likewise."""
        self._store = open_store(self.url)
        self._listeners: list[tuple[asyncio.AbstractEventLoop, asyncio.Future[None]]] = []
        self._lock = threading.Lock()  # clients of other loops send as well

    def close(self) -> None:
        drop_store(self.url)

    def find(self, message_id: str) -> Status | None:
        """Where this message is; None once it has ended."""
        with self._store.lock:
            now = self.clock.now()
            found = (queue.find(message_id, now) for queue in self._store.queues)
            return next((place for place in found if place is not None), None)

    def is_busy(self, queues: Collection[str]) -> bool:
        """Whether something in these is due, or runs."""
        with self._store.lock:
            now = self.clock.now()
            depths = [self._store.queue(name).depth(now) for name in queues]
        return self.repeated > 0 or any(depth.ready or depth.in_flight for depth in depths)

    def next_due(self) -> float | None:
        """When the next of all that is delayed is due."""
        with self._store.lock:
            now = self.clock.now()
            dues = [queue.next_due(now) for queue in self._store.queues]
        return min((due for due in dues if due is not None), default=None)

    def lose_leases(self) -> int:
        """End every worker's lease, as if it had been taken for dead; how many tasks it held."""
        leases, self.leases = self.leases, []
        with self._store.lock:
            found = [
                queue.release(lease.incarnation) for queue in self._store.queues for lease in leases
            ]
        for lease in leases:
            lease.lose("as the test has it", at_this_moment=True)
        self.tell()
        return sum(found)

    def wake(self) -> None:
        """Have the consumers look again: it is later."""
        with self._store.lock:
            for queue in self._store.queues:
                queue.wake()

    def listen(self) -> "asyncio.Future[None]":
        """A future that is done at the next change; to be asked for before looking."""
        loop = asyncio.get_running_loop()
        change: asyncio.Future[None] = loop.create_future()
        with self._lock:
            self._listeners.append((loop, change))
        return change

    def tell(self) -> None:
        """Something has changed."""
        with self._lock:
            listeners, self._listeners = self._listeners, []
        for loop, change in listeners:
            if not loop.is_closed():
                loop.call_soon_threadsafe(_finish, change)


def _finish(change: "asyncio.Future[None]") -> None:
    if not change.done():
        change.set_result(None)


class WatchedBroker(MemoryBroker):
    """A memory broker that keeps a record of what it is given. Its leases never end."""

    def __init__(self, place: Place) -> None:
        super().__init__(place.url, place.clock)
        self._place = place

    @property
    def offers(self) -> Offers:
        # Not one whose leases are renewed: the clock may jump by any time.
        return msgspec.structs.replace(super().offers, leases=None)

    async def publish(self, envelopes: Sequence[Envelope]) -> None:
        await super().publish(envelopes)
        self._place.sent += envelopes
        self._place.tell()

    @asynccontextmanager
    async def consume(self, queue: QueueSpec, lease: Lease) -> AsyncGenerator[Consumer]:
        consumer = WatchedConsumer(self._place, queue.name, lease, self._limits)
        self._place.leases.append(lease)
        try:
            yield consumer
        finally:
            self._place.leases = [each for each in self._place.leases if each is not lease]
            consumer.close()
            self._place.tell()


class WatchedConsumer(MemoryConsumer):
    """One that tells how what it handed out has ended."""

    def __init__(self, place: Place, queue: str, lease: Lease, limits: DeadLimits) -> None:
        store = open_store(place.url)
        super().__init__(store, place.clock, queue, lease, limits)
        self._place = place
        self._again: list[Delivery] = []  # to be handed out once more
        self._repeated: set[int] = set()  # the ids of these objects, until each has ended
        with store.lock:
            store.queue(queue).open_lease(lease.incarnation, math.inf)

    def close(self) -> None:
        self._place.repeated -= len(self._repeated)
        self._repeated.clear()
        super().close()

    async def wait(self) -> None:
        if not self._again:
            await super().wait()

    async def receive(self, limit: int) -> Sequence[Delivery]:
        again, self._again = self._again[:limit], self._again[limit:]
        if again:
            return again
        deliveries = await super().receive(limit)
        for delivery in deliveries:
            if self._place.deliveries_to_repeat > 0:
                self._place.deliveries_to_repeat -= 1
                copy = msgspec.structs.replace(delivery)
                self._again.append(copy)
                self._repeated.add(id(copy))
                self._place.repeated += 1
        return deliveries

    async def complete(self, batch: Sequence[Completion]) -> Completed:
        stores = any(completion.record is not None for completion in batch)
        if stores and self._place.storing:
            raise self._place.storing.popleft()
        batch = [self._as_told(completion) for completion in batch]
        completed = await super().complete(batch)
        gone = {id(delivery) for delivery in completed.fenced}
        stood = {record.id for record in completed.standing}
        for each in batch:
            delivery = id(each.settlement.delivery)
            if each.record is not None and delivery not in gone and each.record.id not in stood:
                self._place.ended.append(each.record)
            if delivery in self._repeated and not each.stays:
                self._repeated.remove(delivery)
                self._place.repeated -= 1
        self._place.tell()
        return completed

    def _as_told(self, completion: Completion) -> Completion:
        """As if the worker had died just before, where a test wants that."""
        settlement = completion.settlement
        if isinstance(settlement, Ack | Reject) and self._place.outcomes_to_lose > 0:
            self._place.outcomes_to_lose -= 1
            return Completion(Nack(settlement.delivery))
        return completion
