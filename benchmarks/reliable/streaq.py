"""streaq on Redis streams: one process, which renews what it runs."""

import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager

from streaq import Worker
from streaq.task import TaskStatus

from benchmarks.reliable import tasks
from benchmarks.reliable.interface import CONCURRENCY, LEASE, OPEN, RESULT_TTL, STORE_URL

# docs: docstrings of Worker (idle_timeout: "the number of seconds to wait before re-enqueuing idle
# tasks") and of Worker.task (max_tries, 3 by default).
worker: Worker[None] = Worker(STORE_URL, concurrency=CONCURRENCY, idle_timeout=LEASE)
_task = worker.task(ttl=RESULT_TTL)
TASKS = {name: _task(getattr(tasks, name)) for name in ("record", "block", "poison")}


class Streaq:
    """One worker object for both sides, as its manual has it."""

    blocking = False
    settings: Mapping[str, object] = {
        "idle_timeout": LEASE,
        "max_tries": "3, the default",
        "prefetch": f"{CONCURRENCY}, the default",
        "process": f"1 x {CONCURRENCY} coroutines: it has no more",
    }

    def worker_command(self, index: int) -> Sequence[str]:
        return [sys.executable, "-m", "streaq", "run", f"{__name__}:worker"]

    @asynccontextmanager
    async def connect(self) -> AsyncIterator[None]:
        async with worker:
            yield

    async def enqueue(self, task: str, id: str, seconds: float) -> None:
        message = TASKS[task].enqueue(id, seconds)
        message.id = id
        await message

    async def fate(self, id: str) -> str:
        if await worker.status_by_id(id) is not TaskStatus.DONE:
            return OPEN
        result = await worker.result_by_id(id, timeout=5)
        return OPEN if result.success else f"failed: {result.exception!r}"


contender = Streaq()
