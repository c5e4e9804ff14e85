"""The backend seam: where outcomes are kept until they expire, and pushed to who waits for them."""

from collections.abc import Hashable, Sequence
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import Protocol, Self, TypeVar

import msgspec

from asyncq.language.record import Record
from asyncq.seams.feeds import Feed, Subscription
from asyncq.seams.ledger import Ledger
from asyncq.seams.registry import Registry
from asyncq.seams.topics import Topics

T = TypeVar("T")


class BackendOffers(msgspec.Struct, frozen=True, kw_only=True):
    """What only some backends can do, or cannot."""

    topics: Topics | None = None
    ledger: Ledger | None = None
    registry: Registry | None = None
    keeps_nothing: bool = False
    """Who does not listen when an outcome is stored never hears it: a client listens before it
    sends."""
    tells_nothing: bool = False
    """Nor does it tell anybody: waiting for an outcome is in vain."""

    @property
    def keeps_effects(self) -> bool:
        """Whether what a record says stands, so that what follows from it can be relied on."""
        return not (self.keeps_nothing or self.tells_nothing)


class Backend(Protocol):
    """Keeps one outcome per message until ``keep`` seconds have passed.

    Entering connects; leaving closes what was opened.
    """

    @property
    def offers(self) -> BackendOffers:
        """What it can do besides; the same from the start, connected or not."""
        ...

    @property
    def store(self) -> Hashable:
        """What it keeps its records in; equal to a broker's ``store`` where that is the same."""
        ...

    async def __aenter__(self) -> Self: ...

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
        /,
    ) -> None: ...

    async def store_records(self, records: Sequence[Record]) -> Sequence[Record]:
        """Keep these records and push them to who waits. The first one stored for an id stands.

        A record with ``keep`` of 0 is pushed and not kept. Returns the records that stood for any
        of these ids before: the effects of those are to be carried out, and not of these.

        Raises:
            BackendUnavailable: some may have been stored; storing them again is safe.
        """
        ...

    async def fetch(self, ids: Sequence[str]) -> Sequence[Record | None]:
        """The record of each id, None where there is none.

        Raises:
            BackendUnavailable: nothing was read; call again.
        """
        ...

    def subscribe(self, feed: Feed[T]) -> AbstractAsyncContextManager[Subscription[T]]:
        """Hear what is pushed to a feed; entered, nothing is missed.

        Records are pushed to their ``reply_to`` as they are stored (`replies_to`).
        """
        ...

    async def push(self, feed: Feed[T], items: Sequence[T]) -> None:
        """Tell these to who is subscribed, here and in other processes; nobody is no error.

        Raises:
            BackendUnavailable: some may have heard some of it.
            ConfigurationError: the store does not let us.
            BackendError: an item is larger than the store carries.
        """
        ...

    async def forget(self, ids: Sequence[str]) -> None:
        """Remove these records."""
        ...
