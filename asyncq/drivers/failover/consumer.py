"""Consumers that notice when their broker was given up for another."""

from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractContextManager
from typing import Protocol, TypeVar

from asyncq.errors import BrokerUnavailable, LeaseLost
from asyncq.seams.broker import (
    Broker,
    Completion,
    Consumer,
    Delivery,
    Lease,
    PushedConsumer,
    Settlement,
    UnifiedConsumer,
    WaitingConsumer,
)

T = TypeVar("T")


class Lookout(Protocol):
    """Who knows which driver is in use."""

    driver: Broker

    async def look_around(self, lost: Broker) -> None: ...

    def until_moved(self) -> AbstractContextManager[None]: ...


class FollowingConsumer:
    """One driver's consumer for as long as that driver is in use; then its lease is lost."""

    def __init__(self, lookout: Lookout, driver: Broker, consumer: Consumer, lease: Lease) -> None:
        self._lookout = lookout
        self._driver = driver
        self._consumer = consumer
        self._lease = lease

    async def wait(self) -> None:
        with self._lookout.until_moved():
            await self._call(self._consumer.wait)
        self._check()

    async def receive(self, limit: int) -> Sequence[Delivery]:
        return await self._call(lambda: self._consumer.receive(limit))

    async def settle(self, batch: Sequence[Settlement]) -> Sequence[Delivery]:
        return await self._call(lambda: self._consumer.settle(batch))

    async def _call(self, call: Callable[[], Awaitable[T]]) -> T:
        self._check()
        try:
            return await call()
        except BrokerUnavailable:
            await self._lookout.look_around(self._driver)
            self._check()
            raise

    def _check(self) -> None:
        if self._lookout.driver is not self._driver:
            raise LeaseLost(self._lease.incarnation, "its broker was given up for another")


class _Unified(FollowingConsumer):
    async def complete(self, batch: Sequence[Completion]) -> Sequence[Delivery]:
        consumer = self._consumer
        assert isinstance(consumer, UnifiedConsumer)  # noqa: S101 - or it would not be ours
        return await self._call(lambda: consumer.complete(batch))


class _Waiting(FollowingConsumer):
    async def wait_and_receive(self, limit: int) -> Sequence[Delivery]:
        consumer = self._consumer
        assert isinstance(consumer, WaitingConsumer)  # noqa: S101 - or it would not be ours
        received: Sequence[Delivery] = ()
        with self._lookout.until_moved():
            received = await self._call(lambda: consumer.wait_and_receive(limit))
        self._check()
        return received


class _Pushed(FollowingConsumer):
    async def take_no_more(self) -> None:
        consumer = self._consumer
        assert isinstance(consumer, PushedConsumer)  # noqa: S101 - or it would not be ours
        await self._call(consumer.take_no_more)


_ABILITIES = {UnifiedConsumer: _Unified, WaitingConsumer: _Waiting, PushedConsumer: _Pushed}


def follow_lease(
    lookout: Lookout, driver: Broker, consumer: Consumer, lease: Lease
) -> FollowingConsumer:
    """The consumer, able to do what it could."""
    able = [ours for seam, ours in _ABILITIES.items() if isinstance(consumer, seam)]
    kind: type[FollowingConsumer] = type("FollowingConsumer", (*able, FollowingConsumer), {})
    return kind(lookout, driver, consumer, lease)
