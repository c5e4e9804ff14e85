"""taskiq on Redis streams, or on RabbitMQ with results in Redis."""

import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager

from taskiq import AsyncBroker, AsyncTaskiqTask
from taskiq.serializers import ORJSONSerializer
from taskiq_aio_pika import AioPikaBroker
from taskiq_redis import RedisAsyncResultBackend, RedisStreamBroker

from benchmarks import tasks
from benchmarks.contenders.interface import (
    CONCURRENCY,
    ON_RABBITMQ,
    RESULT_TTL,
    RESULTS_URL,
    STORE_URL,
    Handle,
)
from benchmarks.loops import each, repeat

BULK_WIDTH = 50  # calls at a time
POLL = 0.001  # seconds

backend: RedisAsyncResultBackend[int] = RedisAsyncResultBackend(
    RESULTS_URL, result_ex_time=RESULT_TTL, serializer=ORJSONSerializer()
)
broker: AsyncBroker = (
    AioPikaBroker(STORE_URL, qos=CONCURRENCY)
    if ON_RABBITMQ
    else RedisStreamBroker(STORE_URL, xread_count=CONCURRENCY)
)
broker.with_result_backend(backend).with_serializer(ORJSONSerializer())

TASKS = {"noop": broker.task(tasks.noop), "sleeper": broker.task(tasks.sleeper)}


class Taskiq:
    """The brokers that acknowledge, with results in Redis."""

    blocking = False
    settings: Mapping[str, object] = {
        "broker": type(broker).__name__,
        "backend": "RedisAsyncResultBackend",
        "serializer": "orjson",
        "qos" if ON_RABBITMQ else "xread_count": CONCURRENCY,
        "bulk": f"{BULK_WIDTH} concurrent kiq(): there is no bulk call",
        "wait": f"wait_result(check_interval={POLL}): there is only polling",
    } | ({"queue": "quorum, its default; messages are persistent"} if ON_RABBITMQ else {})

    def worker_command(self) -> Sequence[str]:
        app = f"{__name__}:broker"
        limits = ["--workers", "1", "--max-async-tasks", str(CONCURRENCY)]
        prefetch = ["--max-prefetch", str(CONCURRENCY)]
        quiet = ["--log-level", "WARNING", "--no-parse"]
        return [sys.executable, "-m", "taskiq", "worker", app, *limits, *prefetch, *quiet]

    @asynccontextmanager
    async def connect(self) -> AsyncIterator[None]:
        await broker.startup()
        yield
        await broker.shutdown()

    async def enqueue(self, task: str) -> Handle:
        return await TASKS[task].kiq()

    async def enqueue_many(self, task: str, count: int) -> Sequence[Handle]:
        return await repeat(TASKS[task].kiq, count, BULK_WIDTH)

    async def wait(self, handle: AsyncTaskiqTask[int]) -> object:
        result = await handle.wait_result(check_interval=POLL, timeout=30)
        result.raise_for_error()
        return result.return_value

    async def results(self, handles: Sequence[AsyncTaskiqTask[int]]) -> list[object]:
        return await each(self._read, handles, BULK_WIDTH)

    async def _read(self, handle: AsyncTaskiqTask[int]) -> object:
        if not await handle.is_ready():
            return None
        result = await handle.get_result()
        return None if result.is_err else result.return_value


contender = Taskiq()
