"""The memory backend: outcomes in this process, gone with it."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from typing import TypeVar

from anyio.lowlevel import checkpoint

from asyncq.drivers.memory.ledger import MemoryLedger
from asyncq.drivers.memory.registry import MemoryRegistry
from asyncq.drivers.memory.store import MemoryDriver
from asyncq.drivers.memory.topics import MemoryTopics
from asyncq.drivers.subscriptions import Subscription
from asyncq.language.record import Record
from asyncq.seams.backend import BackendOffers
from asyncq.seams.feeds import Feed
from asyncq.seams.feeds import Subscription as Heard

T = TypeVar("T")


class MemoryBackend(MemoryDriver):
    """Outcomes at ``memory://name``, next to the queues of that name."""

    @property
    def offers(self) -> BackendOffers:
        return BackendOffers(
            topics=MemoryTopics(self._store, self._clock),
            ledger=MemoryLedger(self._store, self._clock),
            registry=MemoryRegistry(self._store, self._clock),
        )

    async def store_records(self, records: Sequence[Record]) -> Sequence[Record]:
        async with self._store.visit():
            now = self._clock.now()
            stood = [self._store.record(record, now) for record in records]
        return [record for record in stood if record is not None]

    async def fetch(self, ids: Sequence[str]) -> Sequence[Record | None]:
        async with self._store.visit():
            now = self._clock.now()
            return [self._store.records.get(message_id, now) for message_id in ids]

    @asynccontextmanager
    async def subscribe(self, feed: Feed[T]) -> AsyncGenerator[Heard[T]]:
        await checkpoint()
        subscription = Subscription(feed, self._clock)
        self._store.subscriptions.add(subscription)
        try:
            yield subscription
        finally:
            self._store.subscriptions.remove(subscription)

    async def push(self, feed: Feed[T], items: Sequence[T]) -> None:
        async with self._store.visit():
            self._store.subscriptions.push(feed, items)

    async def forget(self, ids: Sequence[str]) -> None:
        async with self._store.visit():
            for message_id in ids:
                self._store.records.remove(message_id)
