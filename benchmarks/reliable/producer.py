"""A producer that never rests: it enqueues until it is stopped, and remembers what was kept."""

from itertools import count
from threading import Event, Thread

from benchmarks.reliable.stage import Stage

BATCH = 5
PAUSE = 0.05  # seconds between two batches: some hundred tasks per second
SECONDS = 0.015  # for which each runs


class Producer:
    """Load for the length of a block."""

    def __init__(self, stage: Stage) -> None:
        self.complaints: dict[str, int] = {}
        self._stage = stage
        self._kept: list[str] = []
        self._done = Event()
        self._thread = Thread(target=self._produce)

    def __enter__(self) -> "Producer":
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
        for number in count():
            if self._done.wait(PAUSE):
                return
            messages = [(f"task{number}-{index}", SECONDS) for index in range(BATCH)]
            answer = self._stage.client.ask("enqueue", task="record", messages=messages)
            self._kept += answer["kept"]
            for complaint, times in answer["complaints"].items():
                self.complaints[complaint] = self.complaints.get(complaint, 0) + times
