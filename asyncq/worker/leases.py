"""Renewing the worker's lease from a thread, and watching the event loop from outside.

A loop that stands still (a long computation, a blocking call) does not lose its lease: the thread
goes on renewing until ``stall_limit``. Code that holds the interpreter lock stops the thread too.
"""

import asyncio
import logging
import math
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from types import FrameType
from typing import Protocol

import anyio
from anyio.abc import TaskStatus

from asyncq.brokers.base import Lease, Leased, LeaseKeeper
from asyncq.config import Config
from asyncq.errors import BrokerUnavailable, LeaseLost
from asyncq.worker.pool import Pool

log = logging.getLogger(__name__)

# The one way to see what another thread is doing; documented, in spite of its name.
current_frames: Callable[[], dict[int, FrameType]] = vars(sys)["_current_frames"]

TICK = 0.25  # seconds between two signs of life of the loop
STALL = 1.0  # seconds without one after which the loop is said to stand still
STACK_LINES = 8


class Renewal(Protocol):
    """Keeps a lease alive until cancelled; raises `LeaseLost` when it could not."""

    async def run(self, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None: ...


class LeaseRenewal:
    """A `Renewal` by a thread of this process."""

    def __init__(
        self,
        broker: Leased,
        lease: Lease,
        queues: Sequence[str],
        config: Config,
        pool: Pool,
        *,
        watches: bool = True,
    ) -> None:
        self._lease = lease
        self._queues = list(queues)
        self._config = config
        self._pool = pool
        self._watches = watches  # for one of several brokers, so that a stall is logged once
        self._keeper: LeaseKeeper = broker.keeper()
        self._loop = asyncio.get_running_loop()
        self._loop_thread = threading.get_ident()
        self._stop = threading.Event()
        self._lost = asyncio.Event()
        self._last_tick = time.monotonic()  # written by the loop, read by the thread

    async def run(self, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        thread = threading.Thread(target=self._renew, name="asyncq-lease", daemon=True)
        thread.start()
        task_status.started()
        try:
            while not self._lost.is_set():
                self._last_tick = time.monotonic()
                with anyio.move_on_after(TICK):
                    await self._lost.wait()
        finally:
            self._stop.set()
        raise LeaseLost(self._lease.incarnation)

    def _renew(self) -> None:
        """The thread: renew every third of the lease, look at the loop in between."""
        every = self._lease.seconds / 3
        lease = self._lease
        next_renewal = time.monotonic()  # at once, if somebody else has renewed it until now
        if math.isinf(lease.good_until):
            lease.good_until = next_renewal + lease.seconds
            next_renewal += every
        try:
            stalled = away = False
            while not self._stop.wait(min(TICK, every)):
                now = time.monotonic()
                if self._watches:
                    stalled = self._watch(now - self._last_tick, stalled)
                if now < next_renewal or now - self._last_tick > self._config.stall_limit:
                    continue
                next_renewal = now + every
                try:
                    if not self._keeper.renew(lease.incarnation, self._queues, lease.seconds):
                        break
                    lease.good_until = now + lease.seconds
                    if away:
                        log.warning("the lease of worker %s is renewed again", lease.incarnation)
                    away = False
                except BrokerUnavailable as error:
                    # The broker decides when the lease is over; without it, nobody else can claim.
                    next_renewal = now + TICK
                    if not away:
                        log.warning("%s", error)
                    away = True
            else:
                return
        except Exception:
            # A thread that dies unheard would cost the lease without a word.
            log.exception("renewing the lease of worker %s failed", self._lease.incarnation)
        finally:
            self._keeper.close()
        lease.lost = True
        self._tell_lost()

    def _tell_lost(self) -> None:
        try:
            self._loop.call_soon_threadsafe(self._lost.set)
        except RuntimeError:
            log.debug("the loop ended before it heard of its lease")

    def _watch(self, silence: float, stalled: bool) -> bool:
        """Log when the loop begins to stand still, with task and line, and when it moves again."""
        if silence < STALL:
            if stalled:
                log.warning("the event loop moves again")
            return False
        if not stalled:
            frame = current_frames().get(self._loop_thread)
            log.error(
                "the event loop has stood still for %.1f s in task %s:\n%s",
                silence,
                self._task_name(),
                _where(frame),
            )
        return True

    def _task_name(self) -> str:
        return self._pool.slots.message_of(asyncio.current_task(self._loop)) or "(none of ours)"


Keep = Callable[[Leased, Lease, Sequence[str], Config, Pool], Renewal]  # who renews a lease


def _where(frame: FrameType | None) -> str:
    if frame is None:
        return "  (unknown)"
    stack = traceback.extract_stack(frame)[-STACK_LINES:]
    return "\n".join(f"  {call.filename}:{call.lineno} in {call.name}" for call in stack)
