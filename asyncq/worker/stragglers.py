"""Stragglers: how a worker ends whose tasks run on in threads, past their grace period.

Nobody can end a thread but with its process. Until it has ended, what it runs must not be given to
others, or it runs twice at once.
"""

from collections.abc import Awaitable, Callable, Collection
from itertools import islice

import anyio

from asyncq.loggers import get_logger
from asyncq.seams.broker import Delivery
from asyncq.texts import counted
from asyncq.worker.completer import SETTLE_TIMEOUT, Completer
from asyncq.worker.pool import Pool

log = get_logger(__name__)

SHOWN = 5  # tasks in one line


class Stragglers:
    """Of one worker, all of its sessions.

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
    some = islice(deliveries, SHOWN)
    names = ", ".join(pool.slots.label(delivery.envelope) for delivery in some)
    return counted(len(deliveries), "task"), names


async def _until_settled(completers: Collection[Completer]) -> None:
    # Shielded: what is in hand is to be settled, whatever else ends. Bounded: a dead broker must
    # not keep the process.
    with anyio.move_on_after(SETTLE_TIMEOUT, shield=True):
        for completer in completers:
            await completer.wait_until_settled()
