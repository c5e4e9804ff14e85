"""Recovering what dead workers had in flight: every worker looks, none leads."""

import random
import time
from collections.abc import Sequence

import anyio
from anyio.abc import TaskStatus

from asyncq.errors import BrokerUnavailable, ConfigurationError, QueueUnavailable
from asyncq.loggers import get_logger
from asyncq.seams.broker import Lease, Leased
from asyncq.texts import counted

log = get_logger(__name__)

EVERY = 1.0  # seconds, spread by half so that many workers do not look together


class Sweeper:
    """Sweeps the worker's queues until cancelled.

    Only in calm times: when the broker or this machine stood still, every lease looks ended until
    its owner had a chance to renew it, and the living would be blamed as dead. Our own lease tells:
    the sweeper waits until it has been renewed in time for half its length.
    """

    def __init__(self, broker: Leased, queues: Sequence[str], lease: Lease) -> None:
        self._broker = broker
        self._queues = queues
        self._lease = lease

    async def run(self, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        task_status.started()
        half = self._lease.seconds / 2
        calm_since = time.monotonic()
        while True:
            await anyio.sleep(min(EVERY, half / 2) * random.uniform(0.5, 1.5))  # noqa: S311 - no secret
            now = time.monotonic()
            if self._lease.good_until - now < half:
                calm_since = now
            if now - calm_since < half:
                continue
            try:
                for queue in tuple(self._queues):  # more may come
                    await self._sweep(queue)
            except BrokerUnavailable as error:
                log.debug("looking for messages of dead workers is interrupted: %s", error)
                calm_since = time.monotonic()
            if time.monotonic() - now > half:
                calm_since = time.monotonic()  # the broker stood still, or has a lot to do

    async def _sweep(self, queue: str) -> None:
        recovered = 0
        try:
            while count := await self._broker.sweep(queue):
                recovered += count
        except (ConfigurationError, QueueUnavailable) as error:
            # Its consumer says it louder.
            log.debug("queue %s cannot be swept for a dead worker's messages: %s", queue, error)
        if recovered:
            count = counted(recovered, "message")
            log.warning("requeued %s of a dead worker in queue %s", count, queue)
