"""The broker of several URLs: the `Broker` seam, carried out by the driver in use."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Hashable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from types import TracebackType
from typing import Any, Self, TypeVar

import anyio

from asyncq.config import Url
from asyncq.drivers.failover.consumer import follow_lease
from asyncq.errors import BrokerUnavailable, ConfigurationError
from asyncq.language.message import Status
from asyncq.language.policies import Retry
from asyncq.language.topology import Queue
from asyncq.loggers import get_logger
from asyncq.seams.admin import (
    DeadLetter,
    Depth,
    MessageFinder,
    QueueAdmin,
    QueuePeeker,
    QueueProber,
    Waiting,
)
from asyncq.seams.broker import (
    Broker,
    Consumer,
    Envelope,
    Exchanges,
    Lease,
    Leased,
    LeaseRenewer,
    QueueSpec,
)

log = get_logger(__name__)

T = TypeVar("T")

PATIENCE = 2.0  # seconds the one in use may be away: a restart is no reason to leave it
SAME_OUTAGE = 10.0  # seconds without a failure after which the next is another outage
PROBE_TIMEOUT = 3.0  # seconds to connect in
LEAVE_TIMEOUT = 2.0  # seconds to close what was given up
ROUNDS = 3  # through the list when the app connects
PAUSE = Retry(times=0, base=0.1, ceiling=1.0)  # between them; jittered

Make = Callable[[Url], Broker]


class Failover:
    """Delegates to the driver in use; finds another when that one stays away.

    A call that fails has looked around before it raises: call again, as for any broker. Consumers
    of a driver that was given up raise `LeaseLost`, for what they held is out of reach.
    """

    def __init__(self, urls: Sequence[Url], make: Make, silence: float) -> None:
        self._urls = urls
        self._make = make
        self._silence = silence  # seconds after which a call to publish counts as failed
        drivers = [make(url) for url in urls]
        self._store = ("failover", *(driver.store for driver in drivers))
        self.at = 0
        """Which of the URLs is in use."""
        self.driver = drivers[0]
        self._declared: Sequence[Queue] = ()
        self._searching = anyio.Lock()
        self._scopes: set[anyio.CancelScope] = set()
        self._away_since = self._last_failure = -SAME_OUTAGE  # loop time

    @property
    def store(self) -> Hashable:
        """Equal to that of the backend that follows it, and to no other: see `follow`."""
        return self._store

    async def __aenter__(self) -> Self:
        for attempt in range(1, ROUNDS + 1):
            for at in range(len(self._urls)):
                if (driver := await self._connect(at)) is not None:
                    self.at, self.driver = at, driver
                    return self
            await anyio.sleep(PAUSE.pause(attempt))
        raise BrokerUnavailable(f"none of {', '.join(map(repr, self._urls))} answers")

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
        /,
    ) -> None:
        await self.driver.__aexit__(kind, error, trace)

    async def publish(self, envelopes: Sequence[Envelope]) -> None:
        driver = self.driver
        try:
            with anyio.fail_after(self._silence):
                await driver.publish(envelopes)
        except (BrokerUnavailable, TimeoutError) as error:
            await self.look_around(driver)
            if isinstance(error, TimeoutError):
                raise BrokerUnavailable(f"no answer in {self._silence:.1f} s") from error
            raise

    async def declare(self, queues: Sequence[Queue]) -> None:
        await self.on_present(lambda driver: driver.declare(queues))
        self._declared = queues

    @asynccontextmanager
    async def consume(self, queue: QueueSpec, lease: Lease) -> AsyncGenerator[Consumer]:
        driver = self.driver
        async with AsyncExitStack() as stack:
            try:
                consumer = await stack.enter_async_context(driver.consume(queue, lease))
            except BrokerUnavailable:
                await self.look_around(driver)
                raise
            yield follow_lease(self, driver, consumer, lease)

    async def look_around(self, lost: Broker) -> None:
        """After a call to ``lost`` failed: if it stays away, go on with the first that answers."""
        async with self._searching:
            if lost is not self.driver:
                return  # somebody has moved already
            if await self._is_back():
                return
            for at in range(len(self._urls)):
                if at != self.at and (driver := await self._connect(at)) is not None:
                    await self._move(at, driver)
                    return

    @contextmanager
    def until_moved(self) -> Generator[None]:
        """Cut short what is in the block when another driver is taken into use."""
        with anyio.CancelScope() as scope:
            self._scopes.add(scope)
            try:
                yield
            finally:
                self._scopes.discard(scope)

    async def on_present(self, call: Callable[[Any], Awaitable[T]]) -> T:
        """Ask the driver in use for something that is not in every broker."""
        driver = self.driver
        try:
            return await call(driver)
        except BrokerUnavailable:
            await self.look_around(driver)
            raise

    async def _is_back(self) -> bool:
        """Whether the one in use answers again, or has not been away for long enough."""
        loop = asyncio.get_running_loop()
        if loop.time() - self._last_failure > SAME_OUTAGE:
            self._away_since = loop.time()
        probe = await self._connect(self.at)
        if probe is not None:
            self._last_failure = -SAME_OUTAGE
            await _leave(probe)
            return True
        self._last_failure = loop.time()
        return self._last_failure - self._away_since < PATIENCE

    async def _connect(self, at: int) -> Broker | None:
        """A new driver for this URL, ready; None when it does not answer."""
        driver = self._make(self._urls[at])
        try:
            async with AsyncExitStack() as stack:
                with anyio.fail_after(PROBE_TIMEOUT):
                    await stack.enter_async_context(driver)
                    await self._declare(driver)
                stack.pop_all()
        except (BrokerUnavailable, TimeoutError) as error:
            log.debug("%r does not answer: %s", self._urls[at], error)
            return None
        return driver

    async def _move(self, at: int, driver: Broker) -> None:
        log.warning(
            "broker %r does not answer: going on with %r; messages in the "
            "former wait there until it is back",
            self._urls[self.at],
            self._urls[at],
        )
        given_up, self.at, self.driver = self.driver, at, driver
        for scope in list(self._scopes):
            scope.cancel()
        await _leave(given_up)

    async def _declare(self, driver: Broker) -> None:
        if self._declared:
            await driver.declare(self._declared)
            if isinstance(driver, Exchanges):
                await driver.bind(self._declared)


async def _leave(driver: Broker) -> None:
    # Shielded: what was opened is closed. Bounded: it may not answer.
    with anyio.move_on_after(LEAVE_TIMEOUT, shield=True):
        await driver.__aexit__(None, None, None)


class _WithLeases(Failover):
    def renewer(self) -> LeaseRenewer:
        """Of the driver in use now, as the lease that begins now is."""
        assert isinstance(self.driver, Leased)  # noqa: S101 - all drivers of a list are of one kind
        return self.driver.renewer()

    async def sweep(self, queue: str) -> int:
        return await self.on_present(lambda driver: driver.sweep(queue))


class _WithQueues(Failover):
    async def queues(self) -> Sequence[str]:
        return await self.on_present(lambda driver: driver.queues())

    async def depth(self, queue: str) -> Depth:
        return await self.on_present(lambda driver: driver.depth(queue))

    async def purge(self, queue: str) -> int:
        return await self.on_present(lambda driver: driver.purge(queue))

    async def dead_letters(
        self, queue: str, *, limit: int = 100, offset: int = 0
    ) -> Sequence[DeadLetter]:
        return await self.on_present(
            lambda driver: driver.dead_letters(queue, limit=limit, offset=offset)
        )

    async def replay(self, queue: str, ids: Sequence[str]) -> Sequence[str]:
        return await self.on_present(lambda driver: driver.replay(queue, ids))

    async def delete_dead(self, queue: str, ids: Sequence[str]) -> int:
        return await self.on_present(lambda driver: driver.delete_dead(queue, ids))


class _WithProbes(Failover):
    async def is_there(self, queue: str) -> bool:
        return await self.on_present(lambda driver: driver.is_there(queue))


class _WithPeeks(Failover):
    async def peek(self, queue: str, *, limit: int = 100, offset: int = 0) -> Sequence[Waiting]:
        return await self.on_present(lambda driver: driver.peek(queue, limit=limit, offset=offset))


class _WithIds(Failover):
    async def find(self, ids: Sequence[str]) -> Sequence[Status | None]:
        return await self.on_present(lambda driver: driver.find(ids))


class _WithExchanges(Failover):
    async def bind(self, queues: Sequence[Queue]) -> None:
        await self.on_present(lambda driver: driver.bind(queues))


_ABILITIES = {
    Leased: _WithLeases,
    QueueAdmin: _WithQueues,
    QueueProber: _WithProbes,
    QueuePeeker: _WithPeeks,
    MessageFinder: _WithIds,
    Exchanges: _WithExchanges,
}


def open_failover(urls: Sequence[Url], make: Make, silence: float) -> Failover:
    """The broker of these URLs, not yet connected; it can do what their driver can.

    Raises:
        ConfigurationError: they are of several kinds.
    """
    drivers = [make(url) for url in urls]
    if len({type(driver) for driver in drivers}) > 1:
        raise ConfigurationError(
            f"{', '.join(map(repr, urls))} are of several kinds: a list of URLs is of one, and is "
            "tried in its order; for queues in different brokers, give them names in brokers={...}"
        )
    able = [ours for seam, ours in _ABILITIES.items() if isinstance(drivers[0], seam)]
    kind: type[Failover] = type("Failover", (*able, Failover), {})
    return kind(urls, make, silence)
