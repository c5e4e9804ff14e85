"""huey: threads, a Redis list."""

import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager

from huey import RedisExpireHuey
from huey.api import Result

from benchmarks import tasks
from benchmarks.contenders.interface import (
    CONCURRENCY,
    QUESTION,
    RESULT_TTL,
    STORE_URL,
    Handle,
)

# Two more commands per task, which only pay where somebody waits.
NOTIFY = QUESTION == "latency"

huey = RedisExpireHuey(
    "bench", url=STORE_URL, expire_time=RESULT_TTL, notify_result=NOTIFY, utc=True
)
noop = huey.task()(tasks.blocking_noop)


class Huey:
    """Results in keys that expire; the consumer blocks in Redis."""

    blocking = True
    settings: Mapping[str, object] = {
        "workers": f"{CONCURRENCY} threads",
        "notify_result": NOTIFY,
        "health check, periodic tasks": "off",
        "bulk": "one call after the other, as map() does: there is no bulk call",
        "wait": "get(blocking=True): blocks in Redis, as notify_result is on",
    }

    def worker_command(self) -> Sequence[str]:
        limits = ["--workers", str(CONCURRENCY), "--worker-type", "thread"]
        quiet = ["--quiet", "--no-periodic", "--disable-health-check"]
        return [sys.executable, "-m", "huey.bin.huey_consumer", f"{__name__}.huey", *limits, *quiet]

    @asynccontextmanager
    async def connect(self) -> AsyncIterator[None]:
        yield
        huey.storage.conn.close()

    async def enqueue(self, task: str) -> Handle:
        return noop()

    async def enqueue_many(self, task: str, count: int) -> Sequence[Handle]:
        return [noop() for _ in range(count)]

    async def wait(self, handle: Result) -> object:
        return handle.get(blocking=True, timeout=30)

    async def results(self, handles: Sequence[Result]) -> list[object]:
        return [handle.get() for handle in handles]


contender = Huey()
