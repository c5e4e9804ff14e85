"""What every library can be asked to do when things break, and what it is told about the run.

An adapter is one module with the name of its library: the tasks and the app that a worker loads,
and a `contender` that the client drives. Both happen in the library's own environment.
"""

import os
from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol

STORE_URL = os.environ.get("BENCH_STORE", "redis://127.0.0.1:6379/0")
LEASE = int(os.environ.get("BENCH_LEASE", "15"))  # seconds
CONCURRENCY = int(os.environ.get("BENCH_CONCURRENCY", "8"))  # tasks at a time, of the whole tree
PROCESSES = 2  # where a library has worker processes of its own
EACH = max(1, CONCURRENCY // PROCESSES)  # tasks at a time in one of them
RESULT_TTL = 3600  # seconds

OPEN = ""  # the fate of what has not ended


class Reliable(Protocol):
    """One task queue with its most reliable documented settings.

    Tasks are named "record", "block" and "poison", as in `benchmarks.reliable.tasks`.
    """

    settings: Mapping[str, object]
    """What was chosen for reliability, and the page or docstring that recommends it."""

    blocking: bool
    """Whether the client's calls block their thread."""

    def worker_command(self, index: int) -> Sequence[str]:
        """The command that runs the main process of worker number ``index``."""
        ...

    def connect(self) -> AbstractAsyncContextManager[None]:
        """Open the client for the length of a block; every other call happens inside it."""
        ...

    async def enqueue(self, task: str, id: str, seconds: float) -> None:
        """Enqueue one message; return once the library has acknowledged it."""
        ...

    async def fate(self, id: str) -> str:
        """How a message ended, in a few words; `OPEN` where the library knows of no end."""
        ...
