"""Celery with a prefork pool, late acknowledgement and bounded redelivery."""

import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager

from celery import Celery

from benchmarks.reliable import tasks
from benchmarks.reliable.interface import CONCURRENCY, LEASE, OPEN, RESULT_TTL, STORE_URL

SWEEP = 1  # seconds between looks for what was abandoned; 10, and then every tenth, by default

app = Celery("reliable", broker=STORE_URL, backend=STORE_URL)
app.conf.update(
    # docs: faq, "Should I use retry or acks_late?"; docstring of Task.reject_on_worker_lost.
    task_acks_late=True,
    task_reject_on_worker_lost=True,
    # docs: docstring of Task.retry_on_worker_lost; bounded by max_retries, 3 by default.
    task_retry_on_worker_lost=True,
    # docs: userguide/optimizing "Reserve one task at a time".
    worker_prefetch_multiplier=1,
    # What was acknowledged late is not to run on beside its redelivery.
    worker_cancel_long_running_tasks_on_connection_loss=True,
    broker_connection_retry_on_startup=True,
    broker_connection_max_retries=None,
    # docs: using Redis, "Visibility timeout"; docstring of kombu.transport.redis for how often
    # what was abandoned is looked for.
    broker_transport_options={
        "visibility_timeout": LEASE,
        "unacked_restore_interval": SWEEP,
        "unacked_restore_throttle": 1,
        "unacked_restore_limit": None,
    },
    result_expires=RESULT_TTL,
)
BODIES = {
    "record": tasks.blocking_record,
    "block": tasks.blocking_record,
    "poison": tasks.blocking_poison,
}
# The pause before a retry is 180 s by default.
TASKS = {name: app.task(name=name, default_retry_delay=0)(body) for name, body in BODIES.items()}


class CeleryPrefork:
    """A pool of children under a main process that talks to Redis."""

    blocking = True
    settings: Mapping[str, object] = {
        "task_acks_late, task_reject_on_worker_lost, task_retry_on_worker_lost": True,
        "max_retries": 3,
        "default_retry_delay": 0,
        "visibility_timeout": LEASE,
        "unacked_restore_interval, unacked_restore_throttle": f"{SWEEP}, 1",
        "worker_prefetch_multiplier": 1,
        "worker_cancel_long_running_tasks_on_connection_loss": True,
        "pool": f"prefork, {CONCURRENCY} children",
    }

    def worker_command(self, index: int) -> Sequence[str]:
        limits = ["--pool", "prefork", "--concurrency", str(CONCURRENCY), "--loglevel", "INFO"]
        name = ["-n", f"worker{index}@%h"]
        return [sys.executable, "-m", "celery", "-A", __name__, "worker", *limits, *name]

    @asynccontextmanager
    async def connect(self) -> AsyncIterator[None]:
        yield
        app.close()

    async def enqueue(self, task: str, id: str, seconds: float) -> None:
        TASKS[task].apply_async((id, seconds), task_id=id)

    async def fate(self, id: str) -> str:
        result = app.AsyncResult(id)
        return f"failed: {result.result!r}" if result.state == "FAILURE" else OPEN


contender = CeleryPrefork()
