"""dramatiq: threads, on Redis lists behind one script or on RabbitMQ with results in Redis."""

import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager

import dramatiq
from dramatiq.brokers.rabbitmq import RabbitmqBroker
from dramatiq.brokers.redis import RedisBroker
from dramatiq.message import Message
from dramatiq.results import ResultMissing, Results
from dramatiq.results.backends import RedisBackend

from benchmarks import tasks
from benchmarks.contenders.interface import (
    CONCURRENCY,
    ON_RABBITMQ,
    RESULT_TTL,
    RESULTS_URL,
    STORE_URL,
    Handle,
)

# ms between looks at an empty queue; each of the threads wakes up as often. RabbitMQ pushes.
IDLE = "1000" if ON_RABBITMQ else "5"

backend = RedisBackend(url=RESULTS_URL)
broker = (
    RabbitmqBroker(url=STORE_URL, confirm_delivery=True)
    if ON_RABBITMQ
    else RedisBroker(url=STORE_URL)
)
broker.add_middleware(Results(backend=backend))
dramatiq.set_broker(broker)


@dramatiq.actor(store_results=True, result_ttl=1000 * RESULT_TTL)
def noop() -> int:
    """Do nothing."""
    return tasks.blocking_noop()


class Dramatiq:
    """One process of as many threads, with the results middleware."""

    blocking = True
    settings: Mapping[str, object] = {
        "workers": f"1 process of {CONCURRENCY} threads",
        "dramatiq_worker_timeout": IDLE,
        "bulk": "one send() after the other, as group() does: there is no bulk call",
        "wait": "get_result(block=True): blocks in Redis",
    } | ({"queue": "classic, durable; confirm_delivery=True"} if ON_RABBITMQ else {})

    def worker_command(self) -> Sequence[str]:
        limits = ["--processes", "1", "--threads", str(CONCURRENCY)]
        environ = ["env", f"dramatiq_worker_timeout={IDLE}"]
        return [*environ, sys.executable, "-m", "dramatiq", __name__, *limits]

    @asynccontextmanager
    async def connect(self) -> AsyncIterator[None]:
        yield
        broker.close()

    async def enqueue(self, task: str) -> Handle:
        return noop.send()

    async def enqueue_many(self, task: str, count: int) -> Sequence[Handle]:
        return [noop.send() for _ in range(count)]

    async def wait(self, handle: Message[int]) -> object:
        return handle.get_result(backend=backend, block=True, timeout=30_000)

    async def results(self, handles: Sequence[Message[int]]) -> list[object]:
        return [self._read(handle) for handle in handles]

    def _read(self, handle: Message[int]) -> object:
        try:
            return handle.get_result(backend=backend)
        except ResultMissing:
            return None


contender = Dramatiq()
