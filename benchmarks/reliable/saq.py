"""saq: one process; a sweep gives back what has run for longer than its timeout."""

import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

from saq import Queue, Status

from benchmarks.reliable import tasks
from benchmarks.reliable.interface import CONCURRENCY, LEASE, OPEN, RESULT_TTL, STORE_URL

RETRIES = 3  # runs in all; 1 by default, and then what is swept is aborted
FAILED = (Status.FAILED, Status.ABORTED)

queue = Queue.from_url(STORE_URL)


async def record(_context: dict[str, Any], *, id: str, seconds: float) -> None:
    """Wait."""
    await tasks.record(id, seconds)


async def block(_context: dict[str, Any], *, id: str, seconds: float) -> None:
    """Hold the event loop."""
    await tasks.block(id, seconds)


async def poison(_context: dict[str, Any], *, id: str, seconds: float) -> None:
    """End the process."""
    await tasks.poison(id, seconds)


# docs: docstrings of Worker (timers: "sweep: how often to clean up stuck jobs", 60 s by default)
# and of Job (timeout, retries).
worker = {
    "queue": queue,
    "functions": [record, block, poison],
    "concurrency": CONCURRENCY,
    "timers": {"sweep": LEASE},
}


class Saq:
    """The Redis queue, with keys of our own."""

    blocking = False
    settings: Mapping[str, object] = {
        "timeout": LEASE,
        "retries": RETRIES,
        "sweep": f"every {LEASE} s",
        "process": f"1 x {CONCURRENCY} coroutines: it has no more",
    }

    def worker_command(self, index: int) -> Sequence[str]:
        return [sys.executable, "-m", "saq", f"{__name__}.worker"]

    @asynccontextmanager
    async def connect(self) -> AsyncIterator[None]:
        await queue.connect()
        yield
        await queue.disconnect()

    async def enqueue(self, task: str, id: str, seconds: float) -> None:
        limits = {"timeout": LEASE, "retries": RETRIES, "ttl": RESULT_TTL}
        await queue.enqueue(task, key=id, id=id, seconds=seconds, **limits)

    async def fate(self, id: str) -> str:
        job = await queue.job(id)
        if job is None or job.status not in FAILED:
            return OPEN
        return f"{job.status.value}: {(job.error or '').strip().rpartition(chr(10))[2]}"


contender = Saq()
