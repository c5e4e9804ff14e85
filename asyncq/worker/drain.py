"""The drain: what a worker that was told to stop still waits for, and how it ends without it."""

import asyncio
from collections.abc import Awaitable, Callable, Collection
from itertools import islice

import anyio

from asyncq.language.policies import Retry
from asyncq.loggers import get_logger
from asyncq.seams.broker import Delivery
from asyncq.texts import counted
from asyncq.worker.completer import SETTLE_TIMEOUT, Completer
from asyncq.worker.pool import Pool, Slots

log = get_logger(__name__)

SOON = 0.4  # seconds until what it waits for is said
AGAIN = Retry(times=0, base=5.0, ceiling=60.0, jitter=False)  # pauses until it is said again
MOST_NAMED = 5  # tasks in one line
TOLD_AGAIN = "told again (Ctrl-C, SIGTERM), it requeues them at once"


class Drain:
    """What one worker waits for, as its log says soon after the stop and then now and then.

    Whoever stopped it sees only that it does not end. A server that has one inside (uvicorn,
    hypercorn) waits for our block, says nothing of what keeps it, and takes a second Ctrl-C for the
    end of its own patience.
    """

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


class Stragglers:
    """How a worker ends whose tasks run on in threads, past their grace; all of its sessions.

    Nobody can end a thread but with its process. Until it has ended, what it runs must not be given
    to others, or it runs twice at once.

    In a process of its own it leaves with that (``leave``, which does not return) once everything
    else is settled, and the last that it does is to give back what the threads run. In somebody
    else's it waits for them, as that process would on its way out.
    """

    def __init__(
        self, sessions: int, leave: Callable[[], None] | None, tidy: Callable[[], Awaitable[None]]
    ) -> None:
        self._expected = sessions
        self._leave = leave
        self._tidy = tidy
        self._waiting = 0
        self._tidied = anyio.Event()
        self._here = anyio.Event()

    def ended(self) -> None:
        """A session has ended, and holds nothing."""
        self._expected -= 1
        self._look()

    async def part(
        self,
        pool: Pool,
        completers: Collection[Completer],
        give_back: Callable[[Delivery], None],
    ) -> None:
        """End a session in which something cannot be ended: returns when nothing runs in it."""
        if self._leave is None:
            threads = [each for task, each in pool.running.items() if pool.slots.threads.runs(task)]
            if threads:
                log.warning(
                    "tasks in threads run on past the grace period, as no thread can be cancelled: "
                    "the worker waits for %s (%s); cancel or hurry it to have them requeued",
                    *_named(pool, threads),
                )
                await pool.wait_for_threads()
            return
        log.warning(
            "tasks run on although they were cancelled, as threads do: %s (%s); once all else is "
            "settled they are requeued, and the process exits at once",
            *_named(pool, pool.running.values()),
        )
        await _until_settled(completers)
        self._waiting += 1
        first = self._waiting == 1
        self._look()
        await self._here.wait()
        if first:
            await self._tidy()
            self._tidied.set()
        await self._tidied.wait()
        for delivery in pool.running.values():
            give_back(delivery)
        await _until_settled(completers)
        self._waiting -= 1
        if not self._waiting:
            self._leave()
        else:
            await anyio.sleep_forever()

    def _look(self) -> None:
        if self._waiting == self._expected:
            self._here.set()


def _named(pool: Pool, deliveries: Collection[Delivery]) -> tuple[str, str]:
    """How many tasks these are, and what some of them are called."""
    some = islice(deliveries, MOST_NAMED)
    names = ", ".join(pool.slots.label(delivery.envelope) for delivery in some)
    return counted(len(deliveries), "task"), names


async def _until_settled(completers: Collection[Completer]) -> None:
    # Shielded: what is in hand is to be settled, whatever else ends. Bounded: a dead broker must
    # not keep the process.
    with anyio.move_on_after(SETTLE_TIMEOUT, shield=True):
        for completer in completers:
            await completer.wait_until_settled()
