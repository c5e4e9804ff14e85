"""The lease of one worker process, renewed from here, and released when that process is dead."""

import time
from collections.abc import Callable
from functools import partial
from typing import TypeVar

import anyio
from anyio import CapacityLimiter, to_thread

from asyncq.clock import SystemClock
from asyncq.config import Url
from asyncq.drivers.table import make_broker
from asyncq.errors import AsyncqError, ConfigurationError
from asyncq.language.policies import Retry
from asyncq.loggers import get_logger
from asyncq.seams.broker import Leased, LeaseRenewer
from asyncq.worker.channel import Holding, Lost, Renewed

R = TypeVar("R")

log = get_logger(__name__)

PAUSE = Retry(times=0, base=0.1, ceiling=1.0, jitter=False)
RELEASE_TIMEOUT = 5.0  # seconds to go on trying; after that the lease decides


class SupervisedLease:
    """One incarnation's lease. Its calls to the broker block a thread, one at a time."""

    def __init__(self, holding: Holding) -> None:
        self.is_renewed = True
        """The last renewal went well."""
        self._incarnation = holding.incarnation
        self._queues = holding.queues
        self._seconds = holding.seconds
        self._renewer = _renewer_at(Url(holding.url))
        self._thread = CapacityLimiter(1)

    async def renew(
        self, may_renew: Callable[[], bool], tell: Callable[[Renewed | Lost], None]
    ) -> None:
        """Renew every third of the lease while ``may_renew``; return when it is lost."""
        failures = 0
        while True:
            await anyio.sleep(PAUSE.pause(failures) if failures else self._seconds / 3)
            while not may_renew():  # noqa: ASYNC110 - what is asked for is an age
                await anyio.sleep(PAUSE.base)
            began = time.monotonic()
            try:
                lasts = await self._call(
                    partial(self._renewer.renew, self._incarnation, self._queues, self._seconds)
                )
            except AsyncqError as error:
                # The broker decides when the lease is over; without it, nobody else can claim.
                # That it is set up otherwise now, and refuses us, ends no worker either.
                if failures == 0:
                    log.warning(
                        "lease %s cannot be renewed, trying again: %s",
                        self._incarnation, error,
                    )  # fmt: skip
                failures += 1
                self.is_renewed = False
                continue
            if not lasts:
                tell(Lost(self._incarnation))
                return
            if failures:
                log.warning("lease %s is renewed again", self._incarnation)
            failures = 0
            self.is_renewed = True
            tell(Renewed(self._incarnation, began + self._seconds))

    async def release(self) -> int:
        """Give back what the dead process held; returns how many messages that were."""
        failures = 0
        with anyio.move_on_after(RELEASE_TIMEOUT):
            while True:
                try:
                    return await self._call(
                        partial(self._renewer.release, self._incarnation, self._queues)
                    )
                except AsyncqError as error:
                    if failures == 0:
                        log.warning(
                            "what is in flight under lease %s cannot be requeued, trying again: %s",
                            self._incarnation, error,
                        )  # fmt: skip
                    failures += 1
                    await anyio.sleep(PAUSE.pause(failures))
        log.error(
            "what is in flight under lease %s could not be requeued: it runs again when its "
            "%g s are over",
            self._incarnation, self._seconds,
        )  # fmt: skip
        return 0

    async def close(self) -> None:
        await self._call(self._renewer.close)

    async def _call(self, call: Callable[[], R]) -> R:
        return await to_thread.run_sync(call, limiter=self._thread)


def _renewer_at(url: Url) -> LeaseRenewer:
    broker = make_broker(url, SystemClock())
    if not isinstance(broker, Leased):
        raise ConfigurationError(f"{url!r} has no leases to renew")
    return broker.renewer()
