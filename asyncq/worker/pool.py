"""The pool: a bounded number of deliveries that run at a time.

The one file that starts bare tasks: 2 µs each, where a task group takes 11 µs (asyncio's) or 20 µs
(anyio's). The pool is their owner instead: it keeps them, and ends them.
"""

import asyncio
import traceback
from collections.abc import Callable, Collection, Coroutine, Generator, Mapping
from contextlib import contextmanager
from itertools import islice
from typing import Any, cast
from weakref import WeakSet

import anyio

from asyncq.language.envelope import Envelope
from asyncq.language.marks import Mark
from asyncq.loggers import get_logger
from asyncq.seams.broker import Delivery, Lease
from asyncq.texts import counted
from asyncq.worker.failures import describe
from asyncq.worker.threads import Threads

log = get_logger(__name__)

MOST_NAMED = 3  # messages that may have held up the loop
MOST_SPARE = 8  # slots one consumer may wait with
REMIND = 10.0  # seconds between two lines about threads that are waited for
CANCEL_TIMEOUT = 5.0  # seconds a task gets to end once it was cancelled
LAST_TIMEOUT = 0.5  # seconds it gets once it was cancelled again


class Line:
    """The slots of one queue that has a bound of its own."""

    __slots__ = ("free",)

    def __init__(self, size: int) -> None:
        self.free = size


class Slots:
    """How many deliveries a worker may run at a time, and whose they are.

    ``bounds`` are those of queues that have one, beside the worker's own ``size``. An attempt that
    waits for others may lend its slot; when it goes on there are more at work than there are slots,
    and less than nothing is free until one has ended.
    """

    def __init__(
        self,
        size: int,
        bounds: Mapping[str, int] | None,
        label: Callable[[Envelope], str],
    ) -> None:
        self.size = size
        self.label = label
        """What log lines call a message."""
        self.free = size  # written by consumers (take, give), by ending tasks, and by loans
        self.bounds = bounds or {}
        self.lines = {queue: Line(bound) for queue, bound in self.bounds.items()}
        self.lent = 0
        self.threads = Threads(size)
        """As many as there are slots, those that were lent included."""
        self.changed = asyncio.Event()
        self.started = 0
        """How many deliveries they were ever used for."""
        self.pools: set[Pool] = set()
        self._cancelled = WeakSet[asyncio.Task[Any]]()
        self._hosts: dict[asyncio.Task[Any], int] = {}  # and how often each was cancelled before
        self._is_deserted = False

    async def wait_for_room(self, line: Line | None = None) -> None:
        """Return once one is free, also of this line. Holds nothing."""
        while self.free <= 0 or (line is not None and line.free <= 0):
            self.changed.clear()
            await self.changed.wait()

    def take_spare(self, lines: int, line: Line | None = None) -> int:
        """Take a few to wait with, where ``lines`` consumers could and most stay free."""
        return self.take(min(MOST_SPARE, self.free // (4 * lines)), line)

    def take(self, wanted: int, line: Line | None = None) -> int:
        """Take up to ``wanted``; returns how many."""
        taken = min(wanted, self.free)
        if line is not None:
            taken = min(taken, line.free)
        if taken <= 0:
            return 0
        self.free -= taken
        if line is not None:
            line.free -= taken
        return taken

    def give(self, count: int, line: Line | None = None) -> None:
        """Give back so many that were taken and not used."""
        if count:
            self.free += count
            if line is not None:
                line.free += count
            self.changed.set()

    def lend(self, queue: str, count: int) -> None:
        """Let others have this attempt's slot (1), or have it again, at once (-1)."""
        self.lent += count
        self.threads.lend(self.lent)
        for pool in self.pools:
            pool.lease.stretch(self.lent)
        self.give(count, self.lines.get(queue))

    def cancel(self, task: "asyncio.Task[Any]", why: str) -> None:
        """End what this task runs, and know later who has ended it."""
        self._cancelled.add(task)
        task.cancel(why)

    @contextmanager
    def hosted(self) -> Generator[None]:
        """The current task is one of the worker's own: what cancels it, or has ended it before,
        ends all that runs."""
        host = cast("asyncio.Task[Any]", asyncio.current_task())
        self._is_deserted = False
        self._hosts[host] = host.cancelling()
        try:
            yield
        finally:
            del self._hosts[host]
            self._is_deserted = not self._hosts

    def is_cancelling(self) -> bool:
        """Whether we have cancelled the current task; users and their time-outs cancel as well.

        So does a program that ends and cancels every task of its loop: the worker's own with them.
        """
        if self._is_deserted or asyncio.current_task() in self._cancelled:
            return True
        return any(host.cancelling() > before for host, before in self._hosts.items())

    def message_of(self, task: "asyncio.Task[Any] | None") -> str | None:
        """What the message that this task runs is called, if it is one of ours.

        Also asked from another thread, hence the copy.
        """
        if task is not None:
            for pool in tuple(self.pools):
                if (delivery := pool.running.get(task)) is not None:
                    return self.label(delivery.envelope)
        return None

    @property
    def running(self) -> int:
        """How many tasks run, those included that lent their slot."""
        return sum(len(pool.running) for pool in self.pools)

    def crashes_of(self, id: str) -> int | None:
        """How many workers a suspect that runs has outlived; None of what is none."""
        for pool in self.pools:
            for delivery in pool.running.values():
                if delivery.suspect and delivery.envelope.id == id:
                    return delivery.crashes
        return None

    def runs_already(self, id: str) -> bool:
        """Whether another delivery of this message runs, which was started before that of the
        current task. Where brokers know no ids there may be copies."""
        here = cast("asyncio.Task[Any]", asyncio.current_task())
        for pool in self.pools:
            if here in pool.running:
                for task, delivery in pool.running.items():  # in the order of their start
                    if task is here:
                        return False
                    if delivery.envelope.id == id:
                        return True
        return False

    def some_running(self, most: int = MOST_NAMED) -> list[str]:
        """What a few messages are called whose tasks run; and of threads, that it is one."""
        running = ((each, pool.running[each]) for pool in self.pools for each in pool.running)
        return [
            self.label(delivery.envelope) + (" (in a thread)" if self.threads.runs(task) else "")
            for task, delivery in islice(running, most)
        ]


class Pool:
    """What one broker's consumers run, in slots that they share with those of other brokers.

    A slot is taken before a delivery is claimed for it.
    """

    def __init__(
        self,
        slots: Slots,
        *,
        give_back: Callable[[Delivery], None],
        complete: Callable[[Delivery, Mark], None],
        why_asked: Callable[[str], str | None],
        lease: Lease,
    ) -> None:
        self.slots = slots
        self._give_back = give_back
        """Told of what was ended before it began."""
        self._complete = complete
        """Told of what was cancelled and is left behind."""
        self._why_asked = why_asked
        """Of a message that somebody has asked to end, by its id; None of others."""
        self.lease = lease
        """Told how many of what it holds wait for others."""
        self.running: dict[asyncio.Task[None], Delivery] = {}
        self._patience = anyio.CancelScope()
        self._last_patience = anyio.CancelScope()
        self._cancelled: set[asyncio.Task[None]] = set()
        self._loop = asyncio.get_running_loop()
        slots.pools.add(self)

    async def wait_until_idle(self) -> bool:
        """Return once nothing runs, here or in another pool; False if what runs waits for more."""
        slots = self.slots
        while any(pool.running for pool in slots.pools):
            if slots.lent:
                return False
            slots.changed.clear()
            await slots.changed.wait()
        return True

    def start(self, delivery: Delivery, run: Coroutine[Any, Any, None]) -> None:
        """Run this delivery in a slot that was taken for it."""
        self.slots.started += 1
        task = self._loop.create_task(run)
        self.running[task] = delivery
        task.add_done_callback(self._end)

    async def close(self, grace: float) -> None:
        """Let what runs end, for ``grace`` seconds; cancel the rest.

        Returns when nothing runs, or only what cannot be ended: threads, and coroutines that
        ignore their cancellation. `abandon` has to follow.
        """
        try:
            with self._patience:
                if self.running:
                    await asyncio.wait(self.running, timeout=grace)
        finally:
            await self._cancel(lambda task: not self.slots.threads.has_begun(task))

    async def wait_for_threads(self) -> None:
        """Return when none is left, or we are told to `hurry`."""
        with self._last_patience:
            while left := [task for task in self.running if self.slots.threads.has_begun(task)]:
                await asyncio.wait(left, timeout=REMIND)
                if self.running:
                    count = counted(len(self.running), "task")
                    log.warning("still waiting for %s in threads", count)

    async def abandon(self) -> None:
        """Leave behind what could not be ended; the process that ends, ends it."""
        await self._cancel(lambda _: True)
        for delivery in self.running.values():
            name = self.slots.label(delivery.envelope)
            log.error("task %s ignores its cancellation: the worker ends without it", name)
        self.slots.pools.discard(self)

    def leave(self, task: "asyncio.Task[None]", mark: Mark) -> None:
        """Go on without what ignores that it was cancelled: its slot is free, and it has ended."""
        delivery = self._let_go(task)
        if delivery is not None:
            self._complete(delivery, mark)

    def hurry(self) -> None:
        """Cut the grace period of `close` short, and wait for no thread."""
        self._patience.cancel()
        self._last_patience.cancel()

    async def _cancel(self, which: Callable[["asyncio.Task[None]"], bool]) -> None:
        """Cancel some of what runs, and was not cancelled before; wait until it has ended."""
        ending = {task for task in self.running if task not in self._cancelled and which(task)}
        for task in ending:
            if not self._cleans_up(task):
                self.slots.cancel(task, "the worker is stopping")
        self._cancelled |= ending
        if not await _ended(ending, CANCEL_TIMEOUT):
            # It may have lost the first, which came as a wait of its own ended.
            for task in ending:
                self.slots.cancel(task, "the worker is stopping, and does not wait any more")
            await _ended(ending, LAST_TIMEOUT)

    def _cleans_up(self, task: "asyncio.Task[None]") -> bool:
        """Whether it ends already, as somebody has cancelled it: it is not disturbed at that.

        A thread that was asked to end is not cancelled yet.
        """
        is_asked = self._why_asked(self.running[task].envelope.id) is not None
        return is_asked and task.cancelling() > 0

    def _let_go(self, task: "asyncio.Task[None]") -> Delivery | None:
        """Have its slot free again; None if it was already."""
        delivery = self.running.pop(task, None)
        if delivery is None:
            return None
        slots = self.slots
        slots.free += 1
        if slots.lines and (line := slots.lines.get(delivery.envelope.queue)) is not None:
            line.free += 1
        slots.changed.set()
        return delivery

    def _end(self, task: "asyncio.Task[None]") -> None:
        delivery, slots = self._let_go(task), self.slots
        if delivery is None:
            if not task.cancelled():
                task.exception()  # of what was left behind, nobody wants to know
            return
        if task.cancelled():
            if _never_began(task):
                self._give_back(delivery)
        elif (error := task.exception()) is not None and not isinstance(error, KeyboardInterrupt):
            told = describe(error).traceback
            name = slots.label(delivery.envelope)
            log.critical("asyncq itself failed to run task %s: please report this\n%s", name, told)


async def _ended(tasks: Collection["asyncio.Task[None]"], timeout: float) -> bool:
    """Wait until these have ended, or the time is up; whether they have."""
    # Shielded: what was cancelled must still say what becomes of its delivery. Bounded: it may not
    # listen.
    cancelled: asyncio.CancelledError | None = None
    with anyio.move_on_after(timeout, shield=True) as patience:
        while any(not task.done() for task in tasks):
            try:
                await asyncio.wait(tasks)
            except asyncio.CancelledError as error:  # with every task of the loop
                if patience.cancel_called:
                    raise
                cancelled = error
    if cancelled is not None:
        raise cancelled
    return all(task.done() for task in tasks)


def _never_began(task: "asyncio.Task[None]") -> bool:
    """Whether a task was cancelled before its first step; else it has completed all the same.

    Only then the cancellation is raised by the coroutine, which is not there to catch it.
    """
    try:
        task.result()
    except asyncio.CancelledError as error:
        code = getattr(task.get_coro(), "cr_code", None)
        return any(frame.f_code is code for frame, _ in traceback.walk_tb(error.__traceback__))
    return False
