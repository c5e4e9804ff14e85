"""Producers: they enqueue from a thread of their own, and remember what was acknowledged."""

from itertools import count
from threading import Event, Thread
from typing import Self

from benchmarks.reliable.stage import Stage

BATCH = 5
PAUSE = 0.05  # seconds between two batches: some hundred tasks per second
SECONDS = 0.015  # for which each runs
FEED = 100  # tasks of a feeder's batch
AHEAD = 3  # batches that wait or run: half a second's work
REST = 0.02  # seconds between two looks at how many wait


class Producer:
    """Load for the length of a block: it enqueues until it is stopped."""

    def __init__(self, stage: Stage) -> None:
        self.complaints: dict[str, int] = {}
        self.kept: list[str] = []
        self.batch = 0  # the one that is being enqueued
        self._stage = stage
        self._done = Event()
        self._thread = Thread(target=self._produce)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> list[str]:
        """Enqueue nothing more; return the ids of all that was acknowledged."""
        self._done.set()
        self._thread.join()
        return self.kept

    def _produce(self) -> None:
        for batch in count():
            self.batch = batch
            if self._done.wait(PAUSE):
                return
            self._enqueue([(f"task-{self.batch}-{index}", SECONDS) for index in range(BATCH)])

    def _enqueue(self, messages: list[tuple[str, float]]) -> None:
        answer = self._stage.client.ask("enqueue", task="record", messages=messages)
        self.kept += answer["kept"]
        for complaint, times in answer["complaints"].items():
            self.complaints[complaint] = self.complaints.get(complaint, 0) + times


class Feeder(Producer):
    """So many tasks, with never more than a few of them waiting.

    What comes back joins the end of its queue in some libraries: with all the work queued at once,
    recovery would last as long as that work.
    """

    def __init__(self, stage: Stage, total: int) -> None:
        super().__init__(stage)
        self._total = total
        self._begun = -1
        self._seen = 0  # entries of the ledger

    @property
    def is_done(self) -> bool:
        """Whether all of them are enqueued."""
        return not self._thread.is_alive()

    def _produce(self) -> None:
        for first in range(0, self._total, FEED):
            self.batch = first // FEED
            while self.batch - self._newest_begun() > AHEAD:
                if self._done.wait(REST):
                    return
            left = min(FEED, self._total - first)
            self._enqueue([(f"task-{self.batch}-{n}", 0.010 + n % 11 / 1000) for n in range(left)])

    def _newest_begun(self) -> int:
        """The newest batch of which a task has begun; what is held up meanwhile may be older."""
        entries = self._stage.ledger.entries
        while self._seen < len(entries):
            self._begun = max(self._begun, batch_of(entries[self._seen].id))
            self._seen += 1
        return self._begun


def batch_of(id: str) -> int:
    """Which batch of a producer a task came with; -1 if it is none of these."""
    kind, _, rest = id.partition("-")
    return int(rest.partition("-")[0]) if kind == "task" else -1
