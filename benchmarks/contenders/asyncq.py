"""asyncq itself, on Redis, SQLite or RabbitMQ: the run's URLs decide."""

import asyncio
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import asyncq
from benchmarks import tasks, ticks
from benchmarks.contenders.interface import (
    CONCURRENCY,
    RESULT_TTL,
    RESULTS_URL,
    STORE_URL,
    Handle,
)
from benchmarks.loops import each

READERS = 100  # results asked for at a time

app = asyncq.App(STORE_URL, backend=RESULTS_URL)
_task = app.task(keep_result=float(RESULT_TTL))
LISTENER = _task(tasks.listener)
LEAF = _task(tasks.leaf)
TASKS = {"noop": _task(tasks.noop), "sleeper": _task(tasks.sleeper)}


@_task
async def branch(name: str, leaves: int) -> None:
    """Send so many leaves, mark that, and wait to be cancelled."""
    with tasks.noted(name):
        await app.enqueue_many(LEAF.s(f"{name}.{number}") for number in range(leaves))
        ticks.ended()
        await asyncio.sleep(tasks.FOR_EVER)


class Asyncq:
    """As the README has it."""

    blocking = False
    settings: Mapping[str, object] = {
        "bulk": "enqueue_many()",
        "wait": "await: pushed by the worker",
    }

    def __init__(self, processes: int = 1, concurrency: int = CONCURRENCY) -> None:
        self._processes = processes
        self._concurrency = concurrency  # of each process

    def worker_command(self) -> Sequence[str]:
        limits = ["--processes", str(self._processes), "--concurrency", str(self._concurrency)]
        return [sys.executable, "-m", "asyncq", "worker", f"{__name__}:app", *limits]

    @asynccontextmanager
    async def connect(self) -> AsyncIterator[None]:
        async with app:
            yield

    async def enqueue(self, task: str) -> Handle:
        return await TASKS[task].enqueue()

    async def enqueue_many(self, task: str, count: int) -> Sequence[Handle]:
        return await app.enqueue_many(TASKS[task].s() for _ in range(count))

    async def wait(self, handle: asyncq.Result[Any]) -> object:
        return await handle

    async def results(self, handles: Sequence[asyncq.Result[Any]]) -> list[object]:
        return await each(self._read, handles, READERS)

    async def _read(self, handle: asyncq.Result[Any]) -> object:
        return await handle if await handle.status() == "succeeded" else None


contender = Asyncq()
