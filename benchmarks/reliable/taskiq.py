"""taskiq on a Redis stream, which keeps what is not acknowledged."""

import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager

from taskiq_redis import RedisAsyncResultBackend, RedisStreamBroker

from benchmarks.reliable import tasks
from benchmarks.reliable.interface import (
    EACH,
    LEASE,
    OPEN,
    PROCESSES,
    RESULT_TTL,
    STORE_URL,
)

UNLOCK = 5  # seconds after which the lock of a reclaiming that died ends; never, by default

backend: RedisAsyncResultBackend[None] = RedisAsyncResultBackend(
    STORE_URL, result_ex_time=RESULT_TTL
)
# docs: README of taskiq-redis for which broker acknowledges; docstring of RedisStreamBroker.
broker = RedisStreamBroker(
    STORE_URL,
    consumer_id="0",  # the whole stream, also what came before the first worker
    idle_timeout=1000 * LEASE,
    unacknowledged_lock_timeout=UNLOCK,
).with_result_backend(backend)
TASKS = {
    name: broker.task(task_name=name)(getattr(tasks, name))
    for name in ("record", "block", "poison")
}


class Taskiq:
    """Two worker processes that acknowledge once the result is saved, as is the default."""

    blocking = False
    settings: Mapping[str, object] = {
        "broker": "RedisStreamBroker",
        "idle_timeout": 1000 * LEASE,
        "unacknowledged_lock_timeout": UNLOCK,
        "consumer_id": "0",
        "ack-type": "when_saved, the default",
        "workers": f"{PROCESSES} x {EACH} coroutines",
    }

    def worker_command(self, index: int) -> Sequence[str]:
        limits = ["--workers", str(PROCESSES), "--max-async-tasks", str(EACH)]
        return [sys.executable, "-m", "taskiq", "worker", f"{__name__}:broker", *limits]

    @asynccontextmanager
    async def connect(self) -> AsyncIterator[None]:
        await broker.startup()
        yield
        await broker.shutdown()

    async def enqueue(self, task: str, id: str, seconds: float) -> None:
        await TASKS[task].kicker().with_task_id(id).kiq(id, seconds)

    async def fate(self, id: str) -> str:
        if not await backend.is_result_ready(id):
            return OPEN
        result = await backend.get_result(id)
        return f"failed: {result.error!r}" if result.is_err else OPEN


contender = Taskiq()
