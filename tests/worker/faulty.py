"""A store that drops, repeats and delays: memory, now and then not there."""

import random
from collections import Counter
from collections.abc import AsyncGenerator, Hashable, Sequence
from contextlib import asynccontextmanager
from typing import ClassVar

import anyio

from asyncq.clock import Clock
from asyncq.config import Url
from asyncq.drivers.memory.backend import MemoryBackend
from asyncq.drivers.memory.broker import MemoryBroker, MemoryConsumer
from asyncq.errors import BackendUnavailable, BrokerUnavailable
from asyncq.language.envelope import Envelope
from asyncq.language.record import Record
from asyncq.seams.broker import (
    Completed,
    Completion,
    Consumer,
    ConsumerOffers,
    Delivery,
    Lease,
    QueueSpec,
    Settlement,
)
from asyncq.seams.dead import DeadLimits

RATE = 0.25  # of the calls


class Chance:
    """Decides which call fails before its deed, which after it, and which takes its time."""

    def __init__(self, seed: int, error: type[Exception]) -> None:
        self._random = random.Random(seed)
        self._error = error
        self.failures = 0

    async def strike(self, moment: str) -> None:
        drawn = self._random.random()
        if drawn < RATE / 2:
            self.failures += 1
            raise self._error(f"{moment} the deed")
        if drawn < RATE:
            await anyio.sleep(0.001)


class FaultyBroker(MemoryBroker):
    """``faulty://seed.name``: a quarter of its calls do not go well."""

    def __init__(self, url: Url, clock: Clock, limits: DeadLimits | None = None) -> None:
        super().__init__(url, clock, limits)
        self.chance = Chance(_seed(url), BrokerUnavailable)
        self._url = url

    async def publish(self, envelopes: Sequence[Envelope]) -> None:
        await self.chance.strike("before")
        await super().publish(envelopes)
        await self.chance.strike("after")

    @asynccontextmanager
    async def consume(self, queue: QueueSpec, lease: Lease) -> AsyncGenerator[Consumer]:
        await self.chance.strike("before")
        async with super().consume(queue, lease) as consumer:
            assert isinstance(consumer, MemoryConsumer)
            yield FaultyConsumer(consumer, self.chance)


class BarringBroker(MemoryBroker):
    """``barring://name``: raises what a test wrote down for a queue, when it is to be consumed."""

    barred: ClassVar[dict[str, Exception]] = {}  # by queue; tests change it as they go
    attempts: ClassVar[Counter[str]] = Counter()

    @asynccontextmanager
    async def consume(self, queue: QueueSpec, lease: Lease) -> AsyncGenerator[Consumer]:
        self.attempts[queue.name] += 1
        if queue.name in self.barred:
            raise self.barred[queue.name]
        async with super().consume(queue, lease) as consumer:
            assert isinstance(consumer, MemoryConsumer)
            yield BarringConsumer(consumer, queue.name)


class BarringConsumer:
    def __init__(self, consumer: MemoryConsumer, queue: str) -> None:
        self._consumer = consumer
        self._queue = queue
        self.settle = consumer.settle
        self.offers = consumer.offers

    async def wait(self) -> None:
        with anyio.move_on_after(0.05):
            await self._consumer.wait()

    async def receive(self, limit: int) -> Sequence[Delivery]:
        if self._queue in BarringBroker.barred:
            raise BarringBroker.barred[self._queue]
        return await self._consumer.receive(limit)


class FaultyConsumer:
    def __init__(self, consumer: MemoryConsumer, chance: Chance) -> None:
        self._consumer = consumer
        self._chance = chance

    @property
    def offers(self) -> ConsumerOffers:
        return ConsumerOffers(complete=self.complete)

    async def wait(self) -> None:
        await self._chance.strike("before")
        await self._consumer.wait()
        await self._chance.strike("after")

    async def receive(self, limit: int) -> Sequence[Delivery]:
        await self._chance.strike("before")  # after it, what was claimed would have to go back
        return await self._consumer.receive(limit)

    async def settle(self, batch: Sequence[Settlement]) -> Sequence[Delivery]:
        await self._chance.strike("before")
        fenced = await self._consumer.settle(batch)
        await self._chance.strike("after")
        return fenced

    async def complete(self, batch: Sequence[Completion]) -> Completed:
        await self._chance.strike("before")
        completed = await self._consumer.complete(batch)
        await self._chance.strike("after")
        return completed


class FaultyBackend(MemoryBackend):
    def __init__(self, url: Url, clock: Clock) -> None:
        super().__init__(url, clock)
        self.chance = Chance(_seed(url) + 1, BackendUnavailable)
        self.stored: list[Record] = []

    @property
    def store(self) -> Hashable:
        return ("faulty", super().store)

    async def store_records(self, records: Sequence[Record]) -> Sequence[Record]:
        await self.chance.strike("before")
        stood = await super().store_records(records)
        self.stored += records
        await self.chance.strike("after")
        return stood

    async def fetch(self, ids: Sequence[str]) -> Sequence[Record | None]:
        await self.chance.strike("before")
        return await super().fetch(ids)


def _seed(url: Url) -> int:
    return int(url.partition("://")[2].partition(".")[0])
