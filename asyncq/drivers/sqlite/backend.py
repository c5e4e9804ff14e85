"""The SQLite backend: outcomes in a file, next to the queues when the broker has the same one."""

import sqlite3
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager, suppress
from typing import TypeVar

from anyio import move_on_after

from asyncq.clock import Clock
from asyncq.config import Url
from asyncq.drivers.sqlite import records as rows
from asyncq.drivers.sqlite import subscriptions
from asyncq.drivers.sqlite.ledger import SqliteLedger
from asyncq.drivers.sqlite.registry import SqliteRegistry
from asyncq.drivers.sqlite.topics import SqliteTopics
from asyncq.drivers.subscriptions import Subscription
from asyncq.errors import BackendUnavailable
from asyncq.language.record import Record
from asyncq.seams.backend import BackendOffers
from asyncq.seams.feeds import Feed
from asyncq.seams.feeds import Subscription as Heard
from asyncq.seams.records import read_record

T = TypeVar("T")
LEAVE_TIMEOUT = 5.0  # seconds to take an address off the list in; it comes off by itself, later


class SqliteBackend(SqliteTopics, SqliteLedger, SqliteRegistry):
    """Outcomes in one SQLite file: ``sqlite:///asyncq.db``."""

    def __init__(self, url: Url, clock: Clock) -> None:
        super().__init__(url, clock, BackendUnavailable)

    @property
    def offers(self) -> BackendOffers:
        return BackendOffers(topics=self, ledger=self, registry=self)

    async def store_records(self, records: Sequence[Record]) -> Sequence[Record]:
        if not records:
            return ()
        subscriptions = self._file.subscriptions
        parcels = [rows.pack(record) for record in records]
        _, stood = await self._write(
            lambda file: rows.keep(file, parcels, self._clock.now(), subscriptions.is_here),
            lambda kept: subscriptions.deliver(kept[0]),
        )
        return stood

    async def fetch(self, ids: Sequence[str]) -> Sequence[Record | None]:
        found = await self._read(lambda file: rows.fetch(file, ids, self._clock.now()))
        return [read_record(id, found[id]) if id in found else None for id in ids]

    @asynccontextmanager
    async def subscribe(self, feed: Feed[T]) -> AsyncGenerator[Heard[T]]:
        subscription = Subscription(feed, self._clock)
        with self._file.subscribed(subscription):
            try:
                await self._write(
                    lambda file: subscriptions.listen(file, subscription), durable=False
                )
                yield subscription
            finally:
                if not self._file.subscriptions.has_another(subscription):
                    await self._leave(subscription.address)

    async def push(self, feed: Feed[T], items: Sequence[T]) -> None:
        if not items:
            return
        here, packed = self._file.subscriptions, [feed.items.encode(item) for item in items]
        await self._write(
            lambda file: subscriptions.lay_out(
                file, feed, packed, [each.address for each in here.of(feed)]
            ),
            lambda _: here.push(feed, items),
            durable=False,
        )

    async def forget(self, ids: Sequence[str]) -> None:
        await self._write(lambda file: rows.forget(file, ids))

    async def _leave(self, address: str) -> None:
        # Shielded: others would lay out records for nobody. Bounded: not for long.
        with move_on_after(LEAVE_TIMEOUT, shield=True):
            with suppress(sqlite3.Error):  # it is forgotten when it is not renewed
                await self._file.write(lambda file: subscriptions.leave(file, address))
