"""arq: one process that polls; a job that was taken is locked for as long as it may run."""

import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

from arq import create_pool
from arq.connections import ArqRedis, RedisSettings
from arq.jobs import Job

from benchmarks.reliable import tasks
from benchmarks.reliable.interface import CONCURRENCY, LEASE, OPEN, RESULT_TTL, STORE_URL

MARGIN = 10  # seconds that arq adds to the longest job_timeout: so long a job stays locked
MAX_TRIES = 5
POLL = 0.01  # seconds; at the default of 0.5 it takes `max_jobs` jobs twice a second, and no more


async def record(_context: dict[str, Any], id: str, seconds: float) -> None:
    """Wait."""
    await tasks.record(id, seconds)


async def block(_context: dict[str, Any], id: str, seconds: float) -> None:
    """Hold the event loop."""
    await tasks.block(id, seconds)


async def poison(_context: dict[str, Any], id: str, seconds: float) -> None:
    """End the process."""
    await tasks.poison(id, seconds)


class WorkerSettings:
    """What the worker is run with.

    docs: docstring of Worker; what it makes of job_timeout is in its source, in_progress_timeout_s.
    """

    functions = (record, block, poison)
    redis_settings = RedisSettings.from_dsn(STORE_URL)
    max_jobs = CONCURRENCY
    job_timeout = LEASE - MARGIN
    max_tries = MAX_TRIES
    poll_delay = POLL
    keep_result = RESULT_TTL


class Arq:
    """One pool, and ids of our own, as its manual has it for enqueueing at most once."""

    blocking = False
    settings: Mapping[str, object] = {
        "job_timeout": f"{LEASE - MARGIN}: a lost job stays locked {MARGIN} s longer",
        "max_tries": f"{MAX_TRIES}, the default",
        "retry_jobs": "on, the default",
        "poll_delay": POLL,
        "process": f"1 x {CONCURRENCY} coroutines: it has no more",
    }
    pool: ArqRedis

    def worker_command(self, index: int) -> Sequence[str]:
        return [sys.executable, "-m", "arq", f"{__name__}.WorkerSettings"]

    @asynccontextmanager
    async def connect(self) -> AsyncIterator[None]:
        self.pool = await create_pool(WorkerSettings.redis_settings)
        yield
        await self.pool.aclose()

    async def enqueue(self, task: str, id: str, seconds: float) -> None:
        await self.pool.enqueue_job(task, id, seconds, _job_id=id)

    async def fate(self, id: str) -> str:
        found = await Job(id, self.pool).result_info()
        return OPEN if found is None or found.success else f"failed: {found.result!r}"


contender = Arq()
