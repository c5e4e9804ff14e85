"""The memory backend: outcomes in this process, gone with it."""

from collections.abc import AsyncGenerator, Hashable, Sequence
from contextlib import asynccontextmanager
from typing import Self

from anyio.lowlevel import checkpoint

from asyncq.clock import Clock
from asyncq.config import Url
from asyncq.drivers.memory.store import MemoryStore, Subscription, open_store
from asyncq.drivers.wakeup import Wakeup
from asyncq.language.message import Progress, Record
from asyncq.seams.backend import BackendOffers, Watch


class MemoryBackend:
    """Outcomes at ``memory://name``, next to the queues of that name."""

    def __init__(self, url: Url, clock: Clock) -> None:
        self._store = open_store(url)
        self._clock = clock

    @property
    def offers(self) -> BackendOffers:
        return BackendOffers(progress=self)

    @property
    def store(self) -> Hashable:
        return self._store.identity

    async def __aenter__(self) -> Self:
        await checkpoint()
        return self

    async def __aexit__(self, *_: object) -> None:
        return None

    async def store_records(self, records: Sequence[Record]) -> None:
        await checkpoint()
        with self._store.lock:
            now = self._clock.now()
            for record in records:
                self._store.record(record, now)
        await checkpoint()

    async def fetch(self, ids: Sequence[str]) -> Sequence[Record | None]:
        await checkpoint()
        with self._store.lock:
            now = self._clock.now()
            return [self._store.records.get(message_id, now) for message_id in ids]

    @asynccontextmanager
    async def watch(self, address: str) -> AsyncGenerator[Watch]:
        await checkpoint()
        with self._store.lock:
            subscription = self._store.subscribe(address)
        try:
            yield MemoryWatch(self._store, subscription)
        finally:
            with self._store.lock:
                self._store.unsubscribe(address, subscription)

    async def forget(self, ids: Sequence[str]) -> None:
        await checkpoint()
        with self._store.lock:
            for message_id in ids:
                self._store.records.remove(message_id)
                self._store.progress.remove(message_id)
        await checkpoint()

    async def store_progress(self, id: str, progress: Progress, keep: float) -> None:
        await checkpoint()
        with self._store.lock:
            self._store.progress.put(id, progress, self._clock.now(), keep)
        await checkpoint()

    async def fetch_progress(self, ids: Sequence[str]) -> Sequence[Progress | None]:
        await checkpoint()
        with self._store.lock:
            now = self._clock.now()
            return [self._store.progress.get(message_id, now) for message_id in ids]


class MemoryWatch:
    """What a client hears by its subscription."""

    def __init__(self, store: MemoryStore, subscription: Subscription) -> None:
        self._store = store
        self._subscription = subscription

    async def receive(self) -> Sequence[Record]:
        while True:
            await checkpoint()
            with self._store.lock:
                records = self._subscription.take()
                if records is not None:
                    return records
                wakeup = self._subscription.wakeup = Wakeup()
            await wakeup.wait()
