"""asyncq with two worker processes under its supervisor; nothing but defaults."""

import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager

import asyncq
from asyncq.config import DEFAULTS
from asyncq.language.message import Status
from benchmarks.reliable import tasks
from benchmarks.reliable.interface import EACH, LEASE, OPEN, PROCESSES, STORE_URL

QUEUE = "default"
LETTERS = 1000  # dead letters looked through

app = asyncq.App(STORE_URL)
TASKS = {name: app.task(getattr(tasks, name)) for name in ("record", "block", "poison")}


class Asyncq:
    """As the README has it."""

    blocking = False
    settings: Mapping[str, object] = {
        "lease": f"{LEASE} s, renewed by the parent process (asyncq/config.py)",
        "max_crashes": f"{DEFAULTS.max_crashes}, the default",
        "processes": f"{PROCESSES} x {EACH} coroutines",
    }

    def worker_command(self, index: int) -> Sequence[str]:
        limits = ["--processes", str(PROCESSES), "--concurrency", str(EACH), "--lease", str(LEASE)]
        return [sys.executable, "-m", "asyncq", "worker", f"{__name__}:app", *limits]

    @asynccontextmanager
    async def connect(self) -> AsyncIterator[None]:
        async with app:
            yield

    async def enqueue(self, task: str, id: str, seconds: float) -> None:
        await TASKS[task].options(id=id).enqueue(id, seconds)

    async def fate(self, id: str) -> str:
        if await app.result(id).status() is not Status.FAILED:
            return OPEN
        letters = await app.dead.list(QUEUE, limit=LETTERS)
        reasons = [letter.reason for letter in letters if letter.envelope.id == id]
        return f"dead letter: {reasons[0]}" if reasons else "failed"


contender = Asyncq()
