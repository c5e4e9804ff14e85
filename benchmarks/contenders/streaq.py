"""streaq: Redis streams through coredis, on anyio."""

import asyncio
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager

from streaq import Worker
from streaq.task import Task

from benchmarks import tasks
from benchmarks.contenders.interface import CONCURRENCY, RESULT_TTL, STORE_URL, Handle

CHUNK = 1000  # messages enqueued, and records read, in one call
POLL = 0.001  # seconds

worker: Worker[None] = Worker(
    STORE_URL, concurrency=CONCURRENCY, anyio_kwargs={"use_uvloop": True}, idle_timeout=300
)
_task = worker.task(ttl=RESULT_TTL, timeout=None, silent=True)
TASKS = {"noop": _task(tasks.noop), "sleeper": _task(tasks.sleeper)}


class Streaq:
    """One worker object for both sides, as its manual has it."""

    blocking = False
    settings: Mapping[str, object] = {
        "prefetch": f"{CONCURRENCY} more than run: the default",
        "task logs": "silent",
        "bulk": f"enqueue_many, {CHUNK} at a time",
        # result() is published by the worker, but takes 0.1 s to end the subscription.
        "wait": f"its record, polled every {POLL} s: result() itself takes 0.1 s",
    }

    def worker_command(self) -> Sequence[str]:
        return [sys.executable, "-m", "streaq", "run", f"{__name__}:worker"]

    @asynccontextmanager
    async def connect(self) -> AsyncIterator[None]:
        async with worker:
            yield

    async def enqueue(self, task: str) -> Handle:
        return await TASKS[task].enqueue()

    async def enqueue_many(self, task: str, count: int) -> Sequence[Handle]:
        messages = [TASKS[task].enqueue() for _ in range(count)]
        for start in range(0, count, CHUNK):
            await worker.enqueue_many(messages[start : start + CHUNK])
        return messages

    async def wait(self, handle: Task[[], int]) -> object:
        while (value := (await self.results([handle]))[0]) is None:
            await asyncio.sleep(POLL)
        return value

    async def results(self, handles: Sequence[Task[[], int]]) -> list[object]:
        values: list[object] = []
        for start in range(0, len(handles), CHUNK):
            keys = [worker.results_key + handle.id for handle in handles[start : start + CHUNK]]
            values += [await self._value(record) for record in await worker.redis.mget(keys)]
        return values

    async def _value(self, record: object) -> object:
        found = await worker.deserialize(record) if record else {"s": False}
        return found["r"] if found["s"] else None


contender = Streaq()
