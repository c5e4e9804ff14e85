"""Renewing the worker's lease from a thread.

A loop that stands still (a long computation, a blocking call) does not lose its lease: the thread
goes on renewing until ``stall_limit``. Code that holds the interpreter lock stops the thread too.
"""

import math
import threading
import time
from collections.abc import Callable, Sequence
from typing import Protocol

import anyio
from anyio.abc import TaskStatus

from asyncq.config import Config
from asyncq.errors import NOT_RENEWED, AsyncqError
from asyncq.loggers import get_logger
from asyncq.outages import Outage
from asyncq.seams.broker import Lease, Leased, LeaseRenewer

log = get_logger(__name__)

TURN_EVERY = 0.25  # seconds between two signs of life of the loop


class Renewal(Protocol):
    """Keeps a lease alive until cancelled; tells the lease when it could not (`Lease.lose`)."""

    async def run(self, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None: ...


class LeaseRenewal:
    """A `Renewal` by a thread of this process."""

    def __init__(
        self,
        broker: Leased,
        lease: Lease,
        queues: Sequence[str],
        config: Config,
    ) -> None:
        self._lease = lease
        self._queues = list(queues)
        self._config = config
        self._renewer: LeaseRenewer = broker.renewer()
        self._stop = threading.Event()
        self._last_turn = time.monotonic()  # written by the loop, read by the thread

    async def run(self, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        thread = threading.Thread(target=self._renew, name="asyncq-lease", daemon=True)
        thread.start()
        task_status.started()
        try:
            while True:
                self._last_turn = time.monotonic()
                await anyio.sleep(TURN_EVERY)
        finally:
            self._stop.set()

    def _renew(self) -> None:
        """The thread: renew every third of the lease, unless the loop stands still for good."""
        every = self._lease.seconds / 3
        lease = self._lease
        next_renewal = time.monotonic()  # at once, if somebody else has renewed it until now
        if math.isinf(lease.good_until):
            lease.good_until = next_renewal + lease.seconds
            next_renewal += every
        try:
            name = f"lease {lease.incarnation}"
            outage = Outage(f"{name} cannot be renewed", f"{name} is renewed again")
            while not self._stop.wait(min(TURN_EVERY, every)):
                now = time.monotonic()
                if now < next_renewal or now - self._last_turn > self._config.stall_limit:
                    continue
                next_renewal = now + every
                try:
                    if not self._renewer.renew(lease.incarnation, self._queues, lease.seconds):
                        break
                    lease.good_until = now + lease.seconds
                    outage.end()
                except AsyncqError as error:
                    # The broker decides when the lease is over; without it, nobody else can claim.
                    # That it is set up otherwise now and refuses us is no end of the lease either.
                    next_renewal = now + min(outage.fail(error), TURN_EVERY)
            else:
                return
        except Exception:
            # A thread that dies unheard would cost the lease without a word.
            log.exception("renewing lease %s failed", self._lease.incarnation)
        finally:
            self._renewer.close()
        lease.lose(NOT_RENEWED)


MakeRenewal = Callable[[Leased, Lease, Sequence[str], Config], Renewal]  # who renews a lease
