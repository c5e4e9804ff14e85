"""Loans: an attempt that waits for the results of others lends them its slot.

Else parents that wait for their children in all slots would wait for ever, as none is left for a
child. An attempt lends one slot, however many of its coroutines wait, and has it again when the
last of them has what it waits for: had it to be given back with the first, the others might wait
for what cannot run. It goes on at once, also if that makes one too many for a moment.

A suspect that waits for long lends its place in the quarantine as well, for what it waits for may
be a suspect.
"""

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress

from asyncq.client.context import Context
from asyncq.loggers import get_logger
from asyncq.seams.quarantine import Quarantine
from asyncq.texts import NAME_LIMIT, counted, shown
from asyncq.worker.pool import Slots
from asyncq.worker.tasks import label

log = get_logger(__name__)

QUARANTINE_PATIENCE = 2.0  # seconds; what is no suspect ends meanwhile, and none comes beside it
REMIND = 60.0  # seconds between two lines about attempts that may not lend


class _Wait:
    """One attempt that waits."""

    __slots__ = ("awaited", "count", "crashes", "has_lent", "patience", "since")

    def __init__(self, awaited: str, since: float) -> None:
        self.awaited = awaited
        self.since = since
        self.count = 1
        """How many of its coroutines do."""
        self.has_lent = False
        self.patience: asyncio.TimerHandle | None = None
        """Of a suspect, until it lends its place in the quarantine."""
        self.crashes: int | None = None
        """Of one that has lent it."""


class Loans:
    """Who waits in one worker; at most ``most`` lend their slot. May be asked in any thread."""

    def __init__(self, slots: Slots, most: int, quarantine: Quarantine) -> None:
        self._slots = slots
        self._quarantine = quarantine
        self._most = most
        self._loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()
        self._waits: dict[Context, _Wait] = {}
        self._refused: dict[Context, _Wait] = {}  # those that keep their slot, in their order
        self._reminder: asyncio.TimerHandle | None = None

    def begin(self, context: Context, awaited: str) -> None:
        """This attempt waits for a task with that id."""
        if threading.get_ident() != self._thread:
            self._call(lambda: self.begin(context, awaited))
            return
        wait = self._waits.get(context)
        if wait is not None:
            wait.count += 1
            return
        wait = self._waits[context] = _Wait(awaited, self._loop.time())
        if not self._quarantine.is_empty:
            crashes = self._slots.crashes_of(context.id)
            if crashes is not None:
                wait.patience = self._loop.call_later(
                    QUARANTINE_PATIENCE, self._lend_quarantine, context, wait, crashes
                )
        if self._slots.lent < self._most:
            self._lend(context, wait)
            return
        self._refused[context] = wait
        if self._reminder is None:
            self._remind()

    def end(self, context: Context) -> None:
        """One of its waits is over."""
        if threading.get_ident() != self._thread:
            self._call(lambda: self.end(context))
            return
        wait = self._waits[context]
        wait.count -= 1
        if wait.count:
            return
        del self._waits[context]
        self._refused.pop(context, None)
        if wait.patience is not None:
            wait.patience.cancel()
        if wait.crashes is not None:
            self._quarantine.take_back(wait.crashes)
        if not wait.has_lent:
            return
        self._slots.lend(context.queue, -1)
        if self._refused:
            first = next(iter(self._refused))
            self._lend(first, self._refused.pop(first))

    def _lend(self, context: Context, wait: _Wait) -> None:
        wait.has_lent = True
        self._slots.lend(context.queue, 1)

    def _lend_quarantine(self, context: Context, wait: _Wait, crashes: int) -> None:
        log.info(
            "task %s, a suspect that outlived %s, waits for task %s: other suspects may run "
            "meanwhile",
            label(context.task, context.id), counted(crashes, "worker"),
            shown(wait.awaited, NAME_LIMIT),
        )  # fmt: skip
        wait.crashes = crashes
        self._quarantine.lend()

    def _remind(self) -> None:
        """Say who waits in a slot, now and while somebody does."""
        self._reminder = None
        if not self._refused:
            return
        context, wait = next(iter(self._refused.items()))
        log.warning(
            "task %s waits for task %s and keeps its slot (since %.0f s, with %d more): %d "
            "wait already without one, which is max_waiting; if nothing goes on any more, raise it "
            "with App(config=Config(max_waiting=...)), start more workers, or wait less deeply",
            label(context.task, context.id),
            shown(wait.awaited, NAME_LIMIT), self._loop.time() - wait.since,
            len(self._refused) - 1, self._slots.lent,
        )  # fmt: skip
        self._reminder = self._loop.call_later(REMIND, self._remind)

    def _call(self, function: Callable[[], None]) -> None:
        """From a thread, in order with what else it says."""
        with suppress(RuntimeError):  # the loop is closed, and the worker gone
            self._loop.call_soon_threadsafe(function)
