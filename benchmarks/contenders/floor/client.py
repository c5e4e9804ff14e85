"""The floor's client: publish in batches, and listen on one channel."""

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import chain, count

import msgspec

from benchmarks.contenders.floor.store import (
    PUBLISH,
    RESULT,
    Message,
    Outcome,
    Store,
    Succeeded,
)
from benchmarks.contenders.interface import CONCURRENCY, RESULT_TTL

BATCH = 1000  # messages published at a time

encode = msgspec.msgpack.Encoder().encode
decode_outcome = msgspec.msgpack.Decoder(Outcome).decode
decode_replies = msgspec.msgpack.Decoder(list[tuple[str, Outcome]]).decode


@dataclass(frozen=True, slots=True)
class Sent:
    """One message that was published, and where its reply arrives."""

    id: str
    reply: asyncio.Future[Outcome] | None = None


class Floor:
    """What is enqueued while a batch is on its way goes with the next."""

    blocking = False
    settings: Mapping[str, object] = {
        "concurrency": CONCURRENCY,
        "result ttl": RESULT_TTL,
        "bulk": f"{BATCH} at a time, one ahead",
        "wait": "published by the worker, in batches",
    }

    def worker_command(self) -> Sequence[str]:
        return [sys.executable, "-m", "benchmarks.contenders.floor.worker"]

    @asynccontextmanager
    async def connect(self) -> AsyncIterator[None]:
        self._name = os.urandom(8).hex()
        self._numbers = count()
        self._waiting: dict[str, asyncio.Future[Outcome]] = {}
        self._buffer: list[tuple[str, bytes, asyncio.Future[None]]] = []
        self._filled = asyncio.Event()
        self._publisher, self._bulk, self._listener = Store(), Store(), Store()
        for store in (self._publisher, self._bulk, self._listener):
            await store.open()
        await self._listener.call("SUBSCRIBE", self._name)
        async with asyncio.TaskGroup() as group:
            loops = [group.create_task(self._publish()), group.create_task(self._listen())]
            yield
            for loop in loops:
                loop.cancel()
        for store in (self._publisher, self._bulk, self._listener):
            await store.close()

    async def enqueue(self, task: str) -> Sent:
        loop = asyncio.get_running_loop()
        identity, body = self._message(task)
        reply: asyncio.Future[Outcome] = loop.create_future()
        published: asyncio.Future[None] = loop.create_future()
        self._waiting[identity] = reply
        self._buffer.append((identity, body, published))
        self._filled.set()
        await published
        return Sent(identity, reply)

    async def enqueue_many(self, task: str, count: int) -> Sequence[Sent]:
        sent: list[Sent] = []
        under_way = False
        for start in range(0, count, BATCH):
            batch = [self._message(task) for _ in range(min(BATCH, count - start))]
            await self._bulk.send(self._bulk.packed(PUBLISH, *chain.from_iterable(batch)))
            if under_way:
                await self._bulk.read()
            under_way = True
            sent.extend(Sent(identity) for identity, _ in batch)
        if under_way:
            await self._bulk.read()
        return sent

    async def wait(self, handle: Sent) -> object:
        outcome = await handle.reply if handle.reply else None
        return outcome.value if isinstance(outcome, Succeeded) else None

    async def results(self, handles: Sequence[Sent]) -> list[object]:
        values: list[object] = []
        for start in range(0, len(handles), BATCH):
            keys = [RESULT + handle.id for handle in handles[start : start + BATCH]]
            for record in await self._bulk.call("MGET", *keys):
                outcome = decode_outcome(record) if record else None
                values.append(outcome.value if isinstance(outcome, Succeeded) else None)
        return values

    def _message(self, task: str) -> tuple[str, bytes]:
        identity = f"{self._name}{next(self._numbers):x}"
        return identity, encode(Message(identity, task, [], self._name))

    async def _publish(self) -> None:
        while True:
            while not self._buffer:
                self._filled.clear()
                await self._filled.wait()
            batch, self._buffer = self._buffer[:BATCH], self._buffer[BATCH:]
            await self._publisher.run(
                PUBLISH, *chain.from_iterable((identity, body) for identity, body, _ in batch)
            )
            for _, _, published in batch:
                published.set_result(None)

    async def _listen(self) -> None:
        while True:
            _, _, batch = await self._listener.read()
            for identity, outcome in decode_replies(batch):
                if reply := self._waiting.pop(identity, None):
                    reply.set_result(outcome)


contender = Floor()
