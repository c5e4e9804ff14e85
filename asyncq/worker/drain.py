"""The drain: what a worker that was told to stop still waits for, as its log says.

The log says it soon after the stop and then now and then, in every kind of worker: whoever stopped
it sees only that it does not end. A server that has one inside (uvicorn, hypercorn) waits for our
block, says nothing of what keeps it, and takes a second Ctrl-C for the end of its own patience.
"""

import asyncio

from asyncq.language.policies import Retry
from asyncq.loggers import get_logger
from asyncq.texts import counted
from asyncq.worker.pool import Slots

log = get_logger(__name__)

SOON = 0.4  # seconds until what it waits for is said
AGAIN = Retry(times=0, base=5.0, ceiling=60.0, jitter=False)  # pauses until it is said again
MOST_NAMED = 5  # tasks in that line
TOLD_AGAIN = "told again (Ctrl-C, SIGTERM), it requeues them at once"


class Drain:
    """That of one worker. It ends when the worker has."""

    def __init__(self, worker: str, grace: float, slots: Slots) -> None:
        self.phase = ""
        """What it does beside running tasks, a hook of the user's say; for the log."""
        self.remedy = ""
        """How whoever waits can hasten it; for the log."""
        self._worker = worker
        self._grace = grace
        self._slots = slots
        self._loop = asyncio.get_running_loop()
        self._has_ended = False
        self._began: float | None = None
        self._is_hurried = False
        self._times_said = 0
        self._timer: asyncio.TimerHandle | None = None

    def begin(self) -> None:
        """The worker is told to stop."""
        if self._began is None and not self._has_ended:
            self._began = self._loop.time()
            self._timer = self._loop.call_later(SOON, self._say)

    def hurry(self) -> None:
        """Its grace is over now."""
        self.begin()
        self._is_hurried = True

    def end(self) -> None:
        """The worker has ended."""
        self._has_ended = True
        if self._timer is not None:
            self._timer.cancel()

    def _say(self) -> None:
        said = self._times_said
        self._times_said = said + 1
        self._timer = self._loop.call_later(AGAIN.pause(said + 1), self._say)
        waited = self._loop.time() - (self._began or 0.0)
        log.warning(
            "worker %s %s for %s",
            self._worker,
            "is stopping and waits" if said == 0 else f"still waits after {waited:.0f} s",
            self._what(max(self._grace - waited, 0.0)),
        )

    def _what(self, left: float) -> str:
        if not self._slots.running:
            return self.phase or "what has ended to be stored and settled"
        if self._is_hurried or left == 0.0:
            return f"{self._tasks()}; their grace is over"
        remedy = f"; {self.remedy}" if self.remedy else ""
        return f"{self._tasks()}, up to {left:.0f} s{remedy}"

    def _tasks(self) -> str:
        count = self._slots.running
        more = f" and {count - MOST_NAMED} more" if count > MOST_NAMED else ""
        names = ", ".join(self._slots.some_running(MOST_NAMED))
        return f"{counted(count, 'task')}: {names}{more}"
