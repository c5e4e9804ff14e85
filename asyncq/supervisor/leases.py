"""The lease of one worker process, renewed from here, and released when that process is dead."""

import time
from collections.abc import Callable

import anyio
from anyio import CapacityLimiter, to_thread

from asyncq.clock import SystemClock
from asyncq.config import Url
from asyncq.drivers.table import make_broker
from asyncq.errors import AsyncqError, ConfigurationError
from asyncq.loggers import get_logger
from asyncq.outages import Outage
from asyncq.worker.channel import Holding, Lost, Renewed

log = get_logger(__name__)

LOOK = 0.1  # seconds between two looks whether it may be renewed
RELEASE_TIMEOUT = 5.0  # seconds to go on trying; after that the lease decides
LONGEST_PAUSE = 1.0  # seconds between two attempts, whatever is wrong: the lease does not wait


class SupervisedLease:
    """One incarnation's lease. Its calls to the broker block a thread, one at a time."""

    def __init__(self, holding: Holding) -> None:
        self._incarnation = lease = holding.incarnation
        self._queues = holding.queues
        self._seconds = holding.seconds
        url = Url(holding.url)
        if (leased := make_broker(url, SystemClock()).offers.leases) is None:
            raise ConfigurationError(f"{url!r} has no leases to renew")
        self._renewer = leased.renewer()
        self._thread = CapacityLimiter(1)
        self._outage = Outage(f"lease {lease} cannot be renewed", f"lease {lease} is renewed again")

    @property
    def is_renewed(self) -> bool:
        """The last renewal went well."""
        return self._outage.error is None

    async def renew(
        self, may_renew: Callable[[], bool], tell: Callable[[Renewed | Lost], None]
    ) -> None:
        """Renew every third of the lease while ``may_renew``; return when it is lost."""
        pause = self._seconds / 3
        while True:
            await anyio.sleep(pause)
            while not may_renew():  # noqa: ASYNC110 - what is asked for is an age
                await anyio.sleep(LOOK)
            began = time.monotonic()
            try:
                lasts = await to_thread.run_sync(
                    self._renewer.renew, self._incarnation, self._queues, self._seconds,
                    limiter=self._thread,
                )  # fmt: skip
            except AsyncqError as error:
                # The broker decides when the lease is over; without it, nobody else can claim.
                # That it is set up otherwise now, and refuses us, ends no worker either.
                pause = min(self._outage.fail(error), LONGEST_PAUSE)
                continue
            if not lasts:
                tell(Lost(self._incarnation))
                return
            self._outage.end()
            pause = self._seconds / 3
            tell(Renewed(self._incarnation, began + self._seconds))

    async def release(self) -> int:
        """Requeue what the dead process had in flight; returns how many messages that were."""
        what = f"what is in flight under lease {self._incarnation}"
        outage = Outage(f"{what} cannot be requeued", f"{what} is requeued")
        with anyio.move_on_after(RELEASE_TIMEOUT):
            while True:
                try:
                    released = await to_thread.run_sync(
                        self._renewer.release, self._incarnation, self._queues, limiter=self._thread
                    )
                except AsyncqError as error:
                    await anyio.sleep(min(outage.fail(error), LONGEST_PAUSE))
                else:
                    outage.end()
                    return released
        log.error(
            "%s could not be requeued: it runs again when its %g s are over", what, self._seconds
        )
        return 0

    async def close(self) -> None:
        await to_thread.run_sync(self._renewer.close, limiter=self._thread)
