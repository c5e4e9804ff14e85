"""The SQLite backend: outcomes in a file, next to the queues when the broker has the same one."""

import sqlite3
from collections.abc import AsyncGenerator, Callable, Hashable, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Self, TypeVar

from anyio import move_on_after
from anyio.lowlevel import checkpoint

from asyncq.clock import Clock
from asyncq.config import Url
from asyncq.drivers.sqlite import records as rows
from asyncq.drivers.sqlite import subscriptions
from asyncq.drivers.sqlite.connection import SqliteSettings, translated
from asyncq.drivers.sqlite.store import SqliteStore, close_store, open_store
from asyncq.drivers.sqlite.subscriptions import Subscription
from asyncq.drivers.wakeup import Wakeup
from asyncq.errors import BackendUnavailable
from asyncq.language.message import Progress, Record
from asyncq.seams.backend import BackendOffers, Watch
from asyncq.seams.records import read_record

LEAVE_TIMEOUT = 5.0  # seconds to take an address off the list in; it comes off by itself, later

T = TypeVar("T")


class SqliteBackend:
    """Outcomes in one SQLite file: ``sqlite:///asyncq.db``."""

    def __init__(self, url: Url, clock: Clock) -> None:
        self._settings = SqliteSettings(url)
        self._clock = clock
        self._opened: SqliteStore | None = None

    @property
    def offers(self) -> BackendOffers:
        return BackendOffers(progress=self)

    @property
    def store(self) -> Hashable:
        return self._settings.identity

    async def __aenter__(self) -> Self:
        with translated(self._settings.path, BackendUnavailable):
            self._opened = await open_store(self._settings.path)
        return self

    async def __aexit__(self, *_: object) -> None:
        store, self._opened = self._file, None
        await close_store(store)

    async def store_records(self, records: Sequence[Record]) -> None:
        if not records:
            return
        subscriptions = self._file.subscriptions
        parcels = [rows.pack(record) for record in records]
        await self._write(
            lambda file: rows.keep(file, parcels, self._clock.now(), subscriptions.is_here),
            durable=self._settings.durable,
            committed=subscriptions.deliver,
        )

    async def fetch(self, ids: Sequence[str]) -> Sequence[Record | None]:
        found = await self._read(lambda file: rows.fetch(file, ids, self._clock.now()))
        return [read_record(id, found[id]) if id in found else None for id in ids]

    @asynccontextmanager
    async def watch(self, address: str) -> AsyncGenerator[Watch]:
        subscription = Subscription(address, self._clock)
        with self._file.subscribed(subscription):
            try:
                await self._write(lambda file: subscriptions.listen(file, subscription))
                yield SqliteWatch(subscription)
            finally:
                if not self._file.subscriptions.has_another(subscription):
                    await self._leave(address)

    async def forget(self, ids: Sequence[str]) -> None:
        await self._write(lambda file: rows.forget(file, ids), durable=self._settings.durable)

    async def store_progress(self, id: str, progress: Progress, keep: float) -> None:
        await self._write(
            lambda file: rows.store_progress(file, id, progress, self._clock.now(), keep)
        )

    async def fetch_progress(self, ids: Sequence[str]) -> Sequence[Progress | None]:
        found = await self._read(lambda file: rows.fetch_progress(file, ids, self._clock.now()))
        return [found.get(message_id) for message_id in ids]

    # Within

    @property
    def _file(self) -> SqliteStore:
        if self._opened is None:
            raise BackendUnavailable(f"{self._settings.path} is not open: enter the backend first")
        return self._opened

    async def _leave(self, address: str) -> None:
        # Shielded: others would lay out records for nobody. Bounded: not for long.
        with move_on_after(LEAVE_TIMEOUT, shield=True):
            with suppress(sqlite3.Error):  # it is forgotten when it is not renewed
                await self._file.write(lambda file: subscriptions.leave(file, address))

    async def _write(
        self,
        work: Callable[[sqlite3.Connection], T],
        *,
        durable: bool = False,
        committed: Callable[[T], None] | None = None,
    ) -> T:
        with translated(self._settings.path, BackendUnavailable):
            return await self._file.write(work, durable=durable, committed=committed)

    async def _read(self, work: Callable[[sqlite3.Connection], T]) -> T:
        with translated(self._settings.path, BackendUnavailable):
            return await self._file.read(work)


class SqliteWatch:
    """What a client hears by its subscription."""

    def __init__(self, subscription: Subscription) -> None:
        self._subscription = subscription

    async def receive(self) -> Sequence[Record]:
        while True:
            await checkpoint()
            taken = self._subscription.take()
            if not isinstance(taken, Wakeup):
                return taken
            await taken.wait()
