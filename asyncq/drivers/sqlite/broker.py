"""The SQLite broker: publishing, leases, and the door to consuming and administration.

One file, no server, many processes: ``sqlite:///asyncq.db``. What is accepted is on the disk, power
cut or not; with ``?synchronous=normal`` it outlives the process, and a power cut may take the last
moments. The tables are in ``asyncq/drivers/sqlite/schema-*.sql``.
"""

import sqlite3
from collections import Counter
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager

from asyncq.clock import Clock
from asyncq.config import Url
from asyncq.drivers.sqlite import admin, items, leases, publishing, records
from asyncq.drivers.sqlite.consumer import SqliteConsumer
from asyncq.drivers.sqlite.declared import declare
from asyncq.drivers.sqlite.envelopes import pack
from asyncq.drivers.sqlite.store import SqliteDriver
from asyncq.errors import BrokerUnavailable
from asyncq.language.envelope import Envelope
from asyncq.language.message import Status
from asyncq.language.topology import Queue
from asyncq.seams.admin import DeadLetter, Depth, Waiting
from asyncq.seams.broker import Consumer, Lease, LeaseRenewer, Offers, QueueSpec
from asyncq.seams.dead import DeadLimits

FRESH = 0.5  # seconds that a sweep may wait for the file


class SqliteBroker(SqliteDriver):
    """Queues in one SQLite file."""

    leases_are_shared = True

    def __init__(self, url: Url, clock: Clock, limits: DeadLimits | None = None) -> None:
        super().__init__(url, clock, BrokerUnavailable)
        self._limits = limits or DeadLimits()

    @property
    def offers(self) -> Offers:
        return Offers(leases=self, admin=self, finder=self)

    async def publish(self, envelopes: Sequence[Envelope]) -> None:
        batch = [pack(envelope) for envelope in envelopes]
        if not batch:
            return
        store = self._file
        by_queue = Counter(each.queue for each in batch)
        delayed = any(each.due for each in batch)

        def published(_: object) -> None:
            for queue, count in by_queue.items():
                store.wake(queue, count)
            if delayed:
                store.look_again()

        full = await self._write(
            lambda file: publishing.publish(file, batch, self._clock.now(), self._limits),
            published,
        )
        if full:
            raise full[0]

    async def declare(self, queues: Sequence[Queue]) -> None:
        await self._write(lambda file: declare(file, queues))

    @asynccontextmanager
    async def consume(self, queue: QueueSpec, lease: Lease) -> AsyncGenerator[Consumer]:
        consumer = SqliteConsumer(
            self._file, self._clock, queue.name, lease, self._limits, durable=self._settings.durable
        )
        try:
            await consumer.enter()
            yield consumer
        finally:
            await consumer.leave()

    # Leases

    def renewer(self) -> LeaseRenewer:
        return leases.SqliteLeaseRenewer(self._settings, self._clock)

    async def sweep(self, queue: str) -> int:
        asked = self._clock.now()

        def work(connection: sqlite3.Connection) -> int:
            now = self._clock.now()
            if now - asked > FRESH:
                return 0  # the file was locked for long: others could not renew their leases either
            records.expire(connection, now)
            records.expire_watchers(connection, now)
            items.expire(connection, now)
            return leases.sweep(connection, queue, now)

        store = self._file
        return await self._write(work, lambda recovered: store.wake(queue, recovered))

    # Administration

    async def queues(self) -> Sequence[str]:
        return await self._read(admin.list_queues)

    async def depth(self, queue: str) -> Depth:
        return await self._read(lambda file: admin.measure(file, queue, self._clock.now()))

    async def find(self, ids: Sequence[str]) -> Sequence[Status | None]:
        found = await self._read(lambda file: admin.find(file, ids, self._clock.now()))
        return [found.get(message_id) for message_id in ids]

    async def envelopes(self, ids: Sequence[str]) -> Sequence[Envelope | None]:
        found = await self._read(lambda file: admin.envelopes(file, ids))
        return [found.get(message_id) for message_id in ids]

    async def purge(self, queue: str) -> int:
        store, purged = self._file, 0
        while count := await self._write(
            lambda file: admin.purge_some(file, queue),
            lambda count: store.wake(queue, count),  # some may be doomed, and handed out
        ):
            purged += count
        return purged

    async def peek(self, queue: str, *, limit: int = 100, offset: int = 0) -> Sequence[Waiting]:
        return await self._read(lambda file: admin.peek(file, queue, limit, offset))

    async def dead_letters(
        self, queue: str, *, limit: int = 100, offset: int = 0
    ) -> Sequence[DeadLetter]:
        return await self._read(lambda file: admin.list_dead(file, queue, limit, offset))

    async def replay(self, queue: str, ids: Sequence[str]) -> Sequence[str]:
        store = self._file
        return await self._write(
            lambda file: admin.replay(file, queue, ids),
            lambda replayed: store.wake(queue, len(replayed)),
        )

    async def delete_dead(self, queue: str, ids: Sequence[str]) -> int:
        return await self._write(lambda file: admin.delete_dead(file, queue, ids))
