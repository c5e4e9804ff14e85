"""dramatiq: two processes of threads, which beat by asking for messages."""

import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager

import dramatiq
from dramatiq.brokers.redis import RedisBroker
from dramatiq.message import Message

from benchmarks.reliable import tasks
from benchmarks.reliable.interface import EACH, LEASE, OPEN, PROCESSES, STORE_URL

ALWAYS = 1_000_000  # of a million commands: each looks for dead workers; 1,000 by default
DEAD = "dramatiq:default.XQ.msgs"

# docs: docstring of RedisBroker (heartbeat_timeout, maintenance_chance).
broker = RedisBroker(url=STORE_URL, heartbeat_timeout=1000 * LEASE, maintenance_chance=ALWAYS)
dramatiq.set_broker(broker)
TASKS = {
    "record": dramatiq.actor(tasks.blocking_record, actor_name="record"),
    "block": dramatiq.actor(tasks.blocking_record, actor_name="block"),
    "poison": dramatiq.actor(tasks.blocking_poison, actor_name="poison"),
}


class Dramatiq:
    """Acknowledged after the run and retried up to 20 times, as is the default."""

    blocking = True
    settings: Mapping[str, object] = {
        "heartbeat_timeout": 1000 * LEASE,
        "maintenance_chance": ALWAYS,
        "max_retries": "20, the default",
        "processes": f"{PROCESSES} x {EACH} threads",
    }

    def worker_command(self, index: int) -> Sequence[str]:
        limits = ["--processes", str(PROCESSES), "--threads", str(EACH)]
        return [sys.executable, "-m", "dramatiq", __name__, *limits]

    @asynccontextmanager
    async def connect(self) -> AsyncIterator[None]:
        yield
        broker.close()

    async def enqueue(self, task: str, id: str, seconds: float) -> None:
        broker.enqueue(TASKS[task].message(id, seconds).copy(message_id=id))

    async def fate(self, id: str) -> str:
        dead = (Message.decode(data) for data in broker.client.hvals(DEAD))
        return "dead letter" if any(message.message_id == id for message in dead) else OPEN


contender = Dramatiq()
