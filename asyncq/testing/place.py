"""Where an app's messages are while it is tested: a memory store that tells what happens in it."""

import asyncio
import math
import threading
from collections.abc import AsyncGenerator, Collection, Sequence
from contextlib import asynccontextmanager
from typing import Any

from asyncq.brokers.base import (
    Ack,
    Conclusion,
    Consumer,
    Delivery,
    Envelope,
    Lease,
    Nack,
    QueueSpec,
)
from asyncq.brokers.dead import DeadLimits
from asyncq.brokers.memory import MemoryBroker, MemoryConsumer
from asyncq.clock import Clock
from asyncq.config import Url
from asyncq.message import Record, Status, new_id
from asyncq.stores.memory import drop_store, open_store


class Place:
    """A store of its own, what was sent to it, and how it ended."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.url = Url(f"memory://{new_id()}")
        self.sent: list[Envelope] = []
        self.ended: list[Record] = []
        self.outcomes_to_lose = 0
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
            counts = [self._store.queue(name).count(now) for name in queues]
        return any(count.ready or count.held for count in counts)

    def next_due(self) -> float | None:
        """When the next of all that is delayed is due."""
        with self._store.lock:
            now = self.clock.now()
            dues = [queue.next_due(now) for queue in self._store.queues]
        return min((due for due in dues if due is not None), default=None)

    def wake(self) -> None:
        """Have the consumers look again: it is later."""
        with self._store.lock:
            for queue in self._store.queues:
                queue.ring()

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

    # Not a broker whose leases are renewed: the clock may jump by any time.
    keeper: Any = None  # pyright: ignore[reportIncompatibleMethodOverride]

    def __init__(self, place: Place) -> None:
        super().__init__(place.url, place.clock)
        self._place = place

    async def publish(self, envelopes: Sequence[Envelope]) -> None:
        await super().publish(envelopes)
        self._place.sent += envelopes
        self._place.tell()

    @asynccontextmanager
    async def consume(self, queue: QueueSpec, lease: Lease) -> AsyncGenerator[Consumer]:
        consumer = WatchedConsumer(self._place, queue.name, lease, self._limits)
        try:
            yield consumer
        finally:
            consumer.close()
            self._place.tell()


class WatchedConsumer(MemoryConsumer):
    """One that tells how what it handed out has ended."""

    def __init__(self, place: Place, queue: str, lease: Lease, limits: DeadLimits) -> None:
        store = open_store(place.url)
        super().__init__(store, place.clock, queue, lease, limits)
        self._place = place
        with store.lock:
            store.queue(queue).open_lease(lease.incarnation, math.inf)

    async def conclude(self, batch: Sequence[Conclusion]) -> Sequence[Delivery]:
        batch = [self._as_told(conclusion) for conclusion in batch]
        try:
            return await super().conclude(batch)
        finally:
            self._place.ended += [each.record for each in batch if each.record is not None]
            self._place.tell()

    def _as_told(self, conclusion: Conclusion) -> Conclusion:
        """As if the worker had died just before, where a test wants that."""
        if self._place.outcomes_to_lose and isinstance(conclusion.settlement, Ack):
            self._place.outcomes_to_lose -= 1
            return Conclusion(Nack(conclusion.settlement.delivery))
        return conclusion
