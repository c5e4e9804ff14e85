"""A producer that never rests: it enqueues until it is stopped, and remembers what was kept."""

from itertools import count
from threading import Event, Thread
from typing import Self

from benchmarks.reliable.stage import Stage

BATCH = 5
PAUSE = 0.05  # seconds between two batches: some hundred tasks per second
SECONDS = 0.015  # for which each runs


class Producer:
    """Load for the length of a block."""

    def __init__(self, stage: Stage) -> None:
        self.complaints: dict[str, int] = {}
        self.batch = 0  # the one that is being enqueued
        self._stage = stage
        self._kept: list[str] = []
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
        return self._kept

    def _produce(self) -> None:
        for self.batch in count():
            if self._done.wait(PAUSE):
                return
            messages = [(f"task-{self.batch}-{index}", SECONDS) for index in range(BATCH)]
            answer = self._stage.client.ask("enqueue", task="record", messages=messages)
            self._kept += answer["kept"]
            for complaint, times in answer["complaints"].items():
                self.complaints[complaint] = self.complaints.get(complaint, 0) + times


def batch_of(id: str) -> int:
    """Which batch a task came with; -1 if it is none of these."""
    kind, _, rest = id.partition("-")
    return int(rest.partition("-")[0]) if kind == "task" else -1
