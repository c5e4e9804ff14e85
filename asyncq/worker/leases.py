"""Keeping the worker's lease, and recovering what those had whose lease has ended.

A loop that stands still (a long computation, a blocking call) does not lose its lease: a thread
goes on renewing until ``stall_limit``. Code that holds the interpreter lock stops the thread too.
"""

import math
import random
import threading
import time
from collections.abc import Sequence
from typing import Protocol

import anyio
from anyio.abc import TaskStatus

from asyncq.config import Config
from asyncq.errors import (
    NOT_RENEWED,
    AsyncqError,
    BrokerUnavailable,
    ConfigurationError,
    QueueUnavailable,
)
from asyncq.loggers import get_logger
from asyncq.outages import Outage
from asyncq.seams.broker import Lease, Leased
from asyncq.texts import counted

log = get_logger(__name__)

TURN_EVERY = 0.25  # seconds between two signs of life of the loop
SWEEP_EVERY = 1.0  # seconds, spread by half so that many workers do not look together


class Renew(Protocol):
    """Keeps a lease alive until cancelled; tells the lease when it could not (`Lease.lose`)."""

    async def __call__(
        self,
        broker: Leased,
        lease: Lease,
        queues: Sequence[str],
        config: Config,
        *,
        task_status: TaskStatus[None],
    ) -> None: ...


async def renew_lease(
    broker: Leased,
    lease: Lease,
    queues: Sequence[str],
    config: Config,
    *,
    task_status: TaskStatus[None],
) -> None:
    """`Renew` by a thread of this process."""
    thread = _Renewal(broker, lease, queues, config.stall_limit)
    thread.start()
    task_status.started()
    try:
        while True:
            thread.last_turn = time.monotonic()
            await anyio.sleep(TURN_EVERY)
    finally:
        thread.stop.set()


class _Renewal(threading.Thread):
    """Renews every third of the lease, unless the loop stands still for good."""

    def __init__(
        self, broker: Leased, lease: Lease, queues: Sequence[str], stall_limit: float
    ) -> None:
        super().__init__(name="asyncq-lease", daemon=True)
        self.stop = threading.Event()
        self.last_turn = time.monotonic()  # written by the loop, read by the thread
        self._lease = lease
        self._queues = queues
        self._stall_limit = stall_limit
        self._renewer = broker.renewer()

    def run(self) -> None:
        lease = self._lease
        every = lease.seconds / 3
        turn = min(TURN_EVERY, every / 4)  # so that it can be tried again before it is too late
        next_renewal = time.monotonic()  # at once, if somebody else has renewed it until now
        if math.isinf(lease.good_until):
            lease.good_until = next_renewal + lease.seconds
            next_renewal += every
        try:
            name = f"lease {lease.incarnation}"
            outage = Outage(f"{name} cannot be renewed", f"{name} is renewed again")
            while not self.stop.wait(turn):
                now = time.monotonic()
                if now < next_renewal or now - self.last_turn > self._stall_limit:
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
                    next_renewal = now + min(outage.fail(error), turn)
            else:
                return
        except Exception:
            # A thread that dies unheard would cost the lease without a word.
            log.exception("renewing lease %s failed", lease.incarnation)
        finally:
            self._renewer.close()
        lease.lose(NOT_RENEWED)


async def sweep(
    broker: Leased, queues: Sequence[str], lease: Lease, *, task_status: TaskStatus[None]
) -> None:
    """Recover what dead workers had in flight, until cancelled: every worker looks, none leads.

    Only in calm times: when the broker or this machine stood still, every lease looks ended until
    its owner had a chance to renew it, and the living would be blamed as dead. Our own lease tells:
    we wait until it has been renewed in time for half its length.
    """
    task_status.started()
    half = lease.seconds / 2
    calm_since = time.monotonic()
    while True:
        await anyio.sleep(min(SWEEP_EVERY, half / 2) * random.uniform(0.5, 1.5))  # noqa: S311 - no secret
        now = time.monotonic()
        if lease.good_until - now < half:
            calm_since = now
        if now - calm_since < half:
            continue
        try:
            for queue in tuple(queues):  # more may come
                await _sweep(broker, queue)
        except BrokerUnavailable as error:
            log.debug("looking for messages of dead workers is interrupted: %s", error)
            calm_since = time.monotonic()
        if time.monotonic() - now > half:
            calm_since = time.monotonic()  # the broker stood still, or has a lot to do


async def _sweep(broker: Leased, queue: str) -> None:
    recovered = 0
    try:
        while count := await broker.sweep(queue):
            recovered += count
    except (ConfigurationError, QueueUnavailable) as error:
        # Its consumer says it louder.
        log.debug("queue %s cannot be swept for a dead worker's messages: %s", queue, error)
    if recovered:
        count = counted(recovered, "message")
        log.warning("requeued %s of a dead worker in queue %s", count, queue)
