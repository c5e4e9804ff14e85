"""Celery on Redis or RabbitMQ, with results in Redis: threads, or child processes."""

import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager

from celery import Celery
from celery.result import AsyncResult

from benchmarks import tasks
from benchmarks.contenders.interface import (
    CONCURRENCY,
    CONTENDER,
    ON_RABBITMQ,
    RESULT_TTL,
    RESULTS_URL,
    STORE_URL,
    Handle,
)

THREADS = CONTENDER.endswith("-threads")
CHILDREN = 2  # with no-ops, more children than cores only get in each other's way

app = Celery("bench", broker=STORE_URL, backend=RESULTS_URL)
app.conf.update(
    result_expires=RESULT_TTL,
    worker_send_task_events=False,
    task_send_sent_event=False,
    broker_pool_limit=100,
    redis_max_connections=None,
    worker_enable_remote_control=False,
    broker_transport_options={"confirm_publish": True} if ON_RABBITMQ else {},
)
noop = app.task(tasks.blocking_noop, name="noop")


class CeleryAlone:
    """A worker without gossip, mingling, heartbeats, events and remote control."""

    blocking = True
    settings: Mapping[str, object] = {
        "pool": f"threads, {CONCURRENCY}" if THREADS else f"prefork, {CHILDREN} children",
        "worker_prefetch_multiplier": app.conf.worker_prefetch_multiplier,
        "gossip, mingle, heartbeat, events, remote control": "off",
        "bulk": "apply_async on one producer: there is no bulk call",
        "wait": "get(): published by the worker",
        "acks": "late" if app.conf.task_acks_late else "early, its default",
    } | ({"queue": "classic, durable, its default; confirm_publish"} if ON_RABBITMQ else {})

    def worker_command(self) -> Sequence[str]:
        pool, size = ("threads", CONCURRENCY) if THREADS else ("prefork", CHILDREN)
        limits = ["--pool", pool, "--concurrency", str(size), "--loglevel", "WARNING"]
        alone = ["--without-gossip", "--without-mingle", "--without-heartbeat"]
        return [sys.executable, "-m", "celery", "-A", __name__, "worker", *limits, *alone]

    @asynccontextmanager
    async def connect(self) -> AsyncIterator[None]:
        yield
        app.close()

    async def enqueue(self, task: str) -> Handle:
        return noop.delay()

    async def enqueue_many(self, task: str, count: int) -> Sequence[Handle]:
        with app.producer_pool.acquire(block=True) as producer:
            return [noop.apply_async(producer=producer) for _ in range(count)]

    async def wait(self, handle: AsyncResult) -> object:
        return handle.get(timeout=30)

    async def results(self, handles: Sequence[AsyncResult]) -> list[object]:
        return [self._read(handle) for handle in handles]

    def _read(self, handle: AsyncResult) -> object:
        return handle.result if handle.successful() else None


contender = CeleryAlone()
