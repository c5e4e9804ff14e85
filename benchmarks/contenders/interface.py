"""What every contender can be asked to do, and what it is told about the run.

An adapter is one module: the tasks and the app that its worker loads, and a `contender` that the
client drives. It is imported in two processes, the client and the worker, both in the
contender's own environment.
"""

import os
from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol

STORE_URL = os.environ.get("BENCH_STORE", "redis://127.0.0.1:6379/0")
RESULTS_URL = os.environ.get("BENCH_RESULTS", STORE_URL)  # another one beside RabbitMQ
ON_RABBITMQ = STORE_URL.startswith("amqp://")
QUESTION = os.environ.get("BENCH_QUESTION", "")
CONTENDER = os.environ.get("BENCH_CONTENDER", "")
CONCURRENCY = int(os.environ.get("BENCH_CONCURRENCY", "100"))  # of the worker in this run

RESULT_TTL = 3600  # seconds; every contender keeps its results this long

Handle = Any  # whatever the library gives back for one enqueued message


class Contender(Protocol):
    """One task queue behind the same few calls.

    A task is named by what it does, as in `benchmarks.tasks`: "noop", or "sleeper" where
    coroutines can be run. A contender whose client blocks does so inside these coroutines: they
    never yield, and may then be called from many threads at once.
    """

    settings: Mapping[str, object]
    """What was chosen for speed, and anything a reader has to know."""

    blocking: bool
    """Whether the client's calls block their thread."""

    def worker_command(self) -> Sequence[str]:
        """The command that runs one worker, `CONCURRENCY` tasks at a time."""
        ...

    def connect(self) -> AbstractAsyncContextManager[None]:
        """Open the client for the length of a block; every other call happens inside it."""
        ...

    async def enqueue(self, task: str) -> Handle:
        """Enqueue one message; return once the store has it."""
        ...

    async def enqueue_many(self, task: str, count: int) -> Sequence[Handle]:
        """Enqueue ``count`` messages in the library's best way, in order."""
        ...

    async def wait(self, handle: Handle) -> object:
        """Wait for one result in the library's best way; return the task's value."""
        ...

    async def results(self, handles: Sequence[Handle]) -> list[object]:
        """Read the stored values in order without waiting: None where there is no success yet."""
        ...
