"""One contender in front of a fresh store, ready for one question."""

import asyncio
import subprocess
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic

from benchmarks import processes, tasks, ticks
from benchmarks.contenders.interface import Contender, Handle
from benchmarks.ticks import Ticks

WATCH = 0.002  # seconds between two looks at what the worker has done
READ = 100  # results looked for at a time
LATE = 30.0  # seconds for them to be stored once the last body has run


class WorkerDied(Exception):
    """The worker ended before its work did."""

    def __init__(self, code: int) -> None:
        super().__init__(f"the worker ended with exit code {code}")


class ResultsMissing(Exception):
    """Bodies have run, but not every result is there."""

    def __init__(self, missing: int, of: int) -> None:
        super().__init__(f"{missing} of {of} results are not stored, or are failures")


@dataclass(frozen=True)
class Measured:
    """What a question found out."""

    figures: Mapping[str, float]
    counts: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Worker:
    """A contender's worker under way."""

    process: subprocess.Popen[bytes]

    def check(self) -> None:
        """Raise `WorkerDied` if it has ended."""
        if (code := self.process.poll()) is not None:
            raise WorkerDied(code)


@dataclass(frozen=True)
class Trial:
    """What a question is given."""

    contender: Contender
    options: Mapping[str, int]
    directory: Path

    @property
    def marks(self) -> Path:
        """Where the tasks leave their ticks."""
        return self.directory / "ticks"

    @property
    def ledger(self) -> Path:
        """Where they note what has to be told apart."""
        return self.directory / "ledger"

    @contextmanager
    def worker(self) -> Iterator[Worker]:
        """Run the contender's worker for the length of the block; what it says goes to a file."""
        ticks.create(self.marks)
        with (self.directory / "worker.log").open("ab") as log:
            command = self.contender.worker_command()
            process = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
        try:
            yield Worker(process)
        finally:
            processes.end(process)

    @asynccontextmanager
    async def ready_worker(self) -> AsyncIterator[Worker]:
        """Run a worker that has finished its first task, and so has booted."""
        with self.worker() as worker:
            handle = await self.contender.enqueue("noop")
            await self.ended(1, worker)
            await self.contender.wait(handle)
            yield worker

    def so_far(self) -> Ticks:
        """What this worker's tasks have marked until now."""
        return ticks.read(self.marks)

    async def ended(self, count: int, worker: Worker) -> Ticks:
        """Wait until ``count`` bodies have run."""
        while (marks := self.so_far()).count < count:
            worker.check()
            await asyncio.sleep(WATCH)
        return marks

    async def stored(self, handles: Sequence[Handle]) -> float:
        """Wait until all results are stored; return when the last that was late was found.

        That is 0 if none was late. The newest are read first: while they are waited for the
        others arrive, and to read those, however slowly, costs nobody time.

        Raises:
            ResultsMissing: some are not there, or are failures.
        """
        latest = 0.0
        for end in range(len(handles), 0, -READ):
            chunk = handles[max(0, end - READ) : end]
            deadline = monotonic() + LATE
            moment = 0.0
            while missing := len(chunk) - (await self.contender.results(chunk)).count(tasks.DONE):
                if moment > deadline:
                    raise ResultsMissing(missing, len(chunk))
                await asyncio.sleep(WATCH)
                moment = monotonic()
            latest = max(latest, moment)
        return latest

    async def drain(self, task: str) -> Measured:
        """Have a worker run ``tasks`` messages that wait for it, and check every result.

        The time goes from the first body's start to when the last results are stored.
        """
        count = self.options["tasks"]
        async with self.contender.connect():
            handles = await self.contender.enqueue_many(task, count)
            with self.worker() as worker:
                marks = await self.ended(count, worker)
                stored = max(marks.last, await self.stored(handles))
        return Measured(
            figures={
                "tasks_per_second": count / (stored - marks.first),
                "seconds": stored - marks.first,
                "seconds_to_last_body": marks.last - marks.first,
            },
            counts={"tasks": count, "runs": marks.count, "verified": len(handles)},
        )
