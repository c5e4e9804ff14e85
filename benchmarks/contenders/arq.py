"""arq: a sorted set that is polled, with each job in a key of its own."""

import asyncio
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import uvloop
from arq import create_pool
from arq.connections import ArqRedis, RedisSettings
from arq.jobs import Job

from benchmarks import tasks
from benchmarks.contenders.interface import CONCURRENCY, RESULT_TTL, STORE_URL, Handle
from benchmarks.loops import each, repeat

WIDTH = 50  # calls at a time
POLL = 0.001  # seconds

# Its command line takes the policy's event loop.
asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())


async def noop(_context: dict[str, Any]) -> int:
    """Do nothing."""
    return await tasks.noop()


async def sleeper(_context: dict[str, Any]) -> int:
    """Wait a second."""
    return await tasks.sleeper()


class WorkerSettings:
    """What the worker is run with."""

    functions = (noop, sleeper)
    redis_settings = RedisSettings.from_dsn(STORE_URL)
    max_jobs = CONCURRENCY
    poll_delay = POLL
    keep_result = RESULT_TTL
    log_results = False


class Arq:
    """One pool; the worker polls as often as uvloop's clock can."""

    blocking = False
    settings: Mapping[str, object] = {
        "poll_delay": POLL,
        "bulk": f"{WIDTH} concurrent enqueue_job(): there is no bulk call",
        "wait": f"result(poll_delay={POLL}): there is only polling",
    }
    pool: ArqRedis

    def worker_command(self) -> Sequence[str]:
        quiet = ["--custom-log-dict", f"{__name__}.LOGS"]
        return [sys.executable, "-m", "arq", f"{__name__}.WorkerSettings", *quiet]

    @asynccontextmanager
    async def connect(self) -> AsyncIterator[None]:
        self.pool = await create_pool(WorkerSettings.redis_settings)
        yield
        await self.pool.aclose()

    async def enqueue(self, task: str) -> Handle:
        return await self.pool.enqueue_job(task)

    async def enqueue_many(self, task: str, count: int) -> Sequence[Handle]:
        return await repeat(lambda: self.enqueue(task), count, WIDTH)

    async def wait(self, handle: Job) -> object:
        return await handle.result(timeout=30, poll_delay=POLL)

    async def results(self, handles: Sequence[Job]) -> list[object]:
        return await each(self._read, handles, WIDTH)

    async def _read(self, handle: Job) -> object:
        found = await handle.result_info()
        return found.result if found and found.success else None


LOGS = {"version": 1, "loggers": {"arq": {"level": "WARNING"}}}
contender = Arq()
