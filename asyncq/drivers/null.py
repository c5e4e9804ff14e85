"""The backend that keeps nothing: for tasks whose outcome nobody reads."""

from collections.abc import AsyncGenerator, Hashable, Sequence
from contextlib import asynccontextmanager
from typing import Any, Self, TypeVar

import anyio

from asyncq.clock import Clock
from asyncq.config import Url
from asyncq.language.record import Record
from asyncq.seams.backend import BackendOffers
from asyncq.seams.feeds import Feed, Subscription

T = TypeVar("T")


class NullBackend:
    """Takes every record and keeps none."""

    def __init__(self, url: Url, clock: Clock) -> None:
        self._identity = (url, clock)

    @property
    def offers(self) -> BackendOffers:
        return BackendOffers(tells_nothing=True)

    @property
    def store(self) -> Hashable:
        return "null"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        return None

    async def store_records(self, records: Sequence[Record]) -> Sequence[Record]:
        return ()

    async def fetch(self, ids: Sequence[str]) -> Sequence[Record | None]:
        return [None] * len(ids)

    @asynccontextmanager
    async def subscribe(self, feed: Feed[T]) -> AsyncGenerator[Subscription[T]]:
        yield _Silence()

    async def push(self, feed: Feed[T], items: Sequence[T]) -> None:
        return None

    async def forget(self, ids: Sequence[str]) -> None:
        return None


class _Silence:
    async def receive(self) -> Sequence[Any]:
        await anyio.sleep_forever()
        return []  # unreachable: sleep_forever only ends by cancellation
