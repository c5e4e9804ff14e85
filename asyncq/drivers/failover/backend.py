"""The backend next to a broker of several URLs: outcomes are kept where the broker in use is."""

from collections.abc import AsyncGenerator, Awaitable, Callable, Hashable, Sequence
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Any, Literal, Self, TypeVar

import anyio

from asyncq.config import Url
from asyncq.drivers.failover.broker import LEAVE_TIMEOUT, Failover
from asyncq.errors import BackendUnavailable
from asyncq.language.message import Progress, Record
from asyncq.seams.backend import Backend, ProgressBoard, PushOnly, Watch

T = TypeVar("T")

Make = Callable[[Url], Backend]


class FollowingBackend:
    """Delegates to the backend at the URL that its broker uses."""

    def __init__(self, broker: Failover, urls: Sequence[Url], make: Make) -> None:
        self._broker = broker
        self._urls = urls
        self._make = make
        self._at = broker.at
        self._backend = make(urls[broker.at])
        self._following = anyio.Lock()

    @property
    def store(self) -> Hashable:
        """As the broker's: whichever is in use, a consumer's records are kept beside its queue."""
        return self._broker.store

    async def __aenter__(self) -> Self:
        self._at = self._broker.at
        self._backend = self._make(self._urls[self._at])
        await self._backend.__aenter__()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
        /,
    ) -> None:
        await self._backend.__aexit__(kind, error, trace)

    async def store_records(self, records: Sequence[Record]) -> None:
        await self._on_present(lambda backend: backend.store_records(records))

    async def fetch(self, ids: Sequence[str]) -> Sequence[Record | None]:
        return await self._on_present(lambda backend: backend.fetch(ids))

    async def forget(self, ids: Sequence[str]) -> None:
        await self._on_present(lambda backend: backend.forget(ids))

    @asynccontextmanager
    async def watch(self, address: str) -> AsyncGenerator[Watch]:
        backend = await self._follow()
        async with backend.watch(address) as watch:
            yield FollowingWatch(self._broker, watch)

    async def _on_present(self, call: Callable[[Any], Awaitable[T]]) -> T:
        driver = self._broker.driver
        try:
            return await call(await self._follow())
        except BackendUnavailable:
            await self._broker.look_around(driver)
            raise

    async def _follow(self) -> Backend:
        """The backend to use: another than before, if the broker has moved."""
        if self._at == self._broker.at:
            return self._backend
        async with self._following:
            if (at := self._broker.at) != self._at:
                backend = self._make(self._urls[at])
                await backend.__aenter__()
                left, self._at, self._backend = self._backend, at, backend
                # Shielded: what was opened is closed. Bounded: it may not answer.
                with anyio.move_on_after(LEAVE_TIMEOUT, shield=True):
                    await left.__aexit__(None, None, None)
        return self._backend


class _WithProgress(FollowingBackend):
    async def store_progress(self, id: str, progress: Progress, keep: float) -> None:
        await self._on_present(lambda backend: backend.store_progress(id, progress, keep))

    async def fetch_progress(self, ids: Sequence[str]) -> Sequence[Progress | None]:
        return await self._on_present(lambda backend: backend.fetch_progress(ids))


class _PushOnly(FollowingBackend):
    keeps_nothing: Literal[True] = True
    _heard_at: int | None = None

    @asynccontextmanager
    async def watch(self, address: str) -> AsyncGenerator[Watch]:
        """As `Backend.watch`. What is told at the one that was given up is told to nobody."""
        async with super().watch(address) as watch:
            assert isinstance(watch, FollowingWatch)  # noqa: S101 - it is ours
            watch.has_lost = self._heard_at not in (None, self._at)
            self._heard_at = self._at
            yield watch


class FollowingWatch:
    """A client's ear at one backend, until another is in use."""

    def __init__(self, broker: Failover, watch: Watch) -> None:
        self._broker = broker
        self._driver = broker.driver
        self._watch = watch
        self.has_lost = False
        """Whether the first `receive` is to say that something was missed for good."""

    async def receive(self) -> Sequence[Record]:
        if self.has_lost:
            self.has_lost = False
            return ()
        with self._broker.until_moved():
            if self._broker.driver is self._driver:
                return await self._watch.receive()
        raise BackendUnavailable("this backend was given up with its broker; watch the other")


def follow(broker: Failover, urls: Sequence[Url], make: Make) -> FollowingBackend:
    """The backend at the URL that ``broker`` uses, not yet connected."""
    first = make(urls[0])
    if isinstance(first, PushOnly):
        return _PushOnly(broker, urls, make)
    return (_WithProgress if isinstance(first, ProgressBoard) else FollowingBackend)(
        broker, urls, make
    )
