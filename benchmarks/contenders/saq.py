"""saq: Redis lists, with each job in a key of its own."""

import asyncio
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any

import orjson
import uvloop
from saq import Job, Queue, Status

from benchmarks import tasks
from benchmarks.contenders.interface import CONCURRENCY, RESULT_TTL, STORE_URL, Handle
from benchmarks.loops import repeat

BULK_WIDTH = 100  # calls at a time
CHUNK = 1000  # jobs read in one call
SWEEP = 600  # seconds
LISTEN = 0.02  # seconds to wait for what is published, before looking again

# Its command line makes a plain event loop unless the policy says otherwise.
asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())
queue = Queue.from_url(STORE_URL, dump=orjson.dumps, load=orjson.loads, max_concurrent_ops=100)


async def noop(_context: dict[str, Any]) -> int:
    """Do nothing."""
    return await tasks.noop()


async def sleeper(_context: dict[str, Any]) -> int:
    """Wait a second."""
    return await tasks.sleeper()


async def hold_the_sweep(_context: dict[str, Any]) -> None:
    """Sweep before the first job is taken, and so not again for a while.

    The sweep at boot would race with the first jobs: those that are taken and not yet marked as
    active it stores as aborted, although they run.
    """
    await queue.sweep(SWEEP)


worker = {
    "queue": queue,
    "functions": [noop, sleeper],
    "concurrency": CONCURRENCY,
    "startup": hold_the_sweep,
    "timers": {"sweep": SWEEP},
}


class Saq:
    """The Redis queue, with orjson."""

    blocking = False
    settings: Mapping[str, object] = {
        "serializer": "orjson",
        "max_concurrent_ops": 100,
        "job timeout": "off",
        "sweep": f"before the first job, then every {SWEEP} s: at boot it can spoil results",
        "bulk": f"{BULK_WIDTH} concurrent enqueue(): there is no bulk call",
        # It subscribes after it has looked, and may miss what is published in between.
        "wait": f"refresh(until_complete={LISTEN}), repeated: published by the worker",
    }

    def worker_command(self) -> Sequence[str]:
        return [sys.executable, "-m", "saq", f"{__name__}.worker"]

    @asynccontextmanager
    async def connect(self) -> AsyncIterator[None]:
        await queue.connect()
        yield
        await queue.disconnect()

    async def enqueue(self, task: str) -> Handle:
        return await queue.enqueue(task, timeout=0, ttl=RESULT_TTL)

    async def enqueue_many(self, task: str, count: int) -> Sequence[Handle]:
        return await repeat(lambda: self.enqueue(task), count, BULK_WIDTH)

    async def wait(self, handle: Job) -> object:
        while not handle.completed:
            with suppress(TimeoutError):
                await handle.refresh(until_complete=LISTEN)
        return handle.result

    async def results(self, handles: Sequence[Job]) -> list[object]:
        values: list[object] = []
        for start in range(0, len(handles), CHUNK):
            jobs = await queue.jobs(handle.key for handle in handles[start : start + CHUNK])
            values += [
                job.result if job and job.status is Status.COMPLETE else None for job in jobs
            ]
        return values


contender = Saq()
