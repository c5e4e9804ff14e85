"""Items on their way to who is subscribed to their feeds, within one process.

How other processes hear of an item is each store's own affair.
"""

import asyncio
import threading
from collections.abc import Sequence
from typing import Any, Generic, TypeVar

from anyio.lowlevel import checkpoint

from asyncq.clock import Clock
from asyncq.drivers.wakeup import Wakeup
from asyncq.language.message import new_id
from asyncq.language.record import Record
from asyncq.seams.feeds import Feed

T = TypeVar("T")
SUBSCRIPTION_SIZE = 10_000  # items a subscriber may leave unread before they are dropped


class Subscription(Generic[T]):
    """What a subscriber hears: the items pushed to it and not read yet, so many and no more."""

    def __init__(self, feed: Feed[T], clock: Clock) -> None:
        self.feed = feed
        self.address = feed.key if feed.is_for_one else f"{address_prefix(feed)}{new_id()}"
        """Its own among those of its store."""
        self.clock = clock
        self._loop = asyncio.get_running_loop()
        self._lock = threading.Lock()  # filled by the store's threads, emptied by an event loop
        self._items: list[T] = []
        self._missed = False
        self._wakeup: Wakeup | None = None

    @property
    def is_deserted(self) -> bool:
        """Its reader's loop was closed around it: nobody ever reads it again."""
        return self._loop.is_closed()

    def put(self, items: Sequence[T]) -> None:
        with self._lock:
            self._items += items
            if len(self._items) > SUBSCRIPTION_SIZE:
                self._items.clear()
                self._missed = True
            self._wake()

    def miss(self) -> None:
        """Say that something may have got lost."""
        with self._lock:
            self._missed = True
            self._wake()

    async def receive(self) -> Sequence[T]:
        while True:
            await checkpoint()
            with self._lock:
                if self._missed:
                    self._missed = False
                    return []
                if self._items:
                    taken, self._items = self._items, []
                    return taken
                wakeup = self._wakeup = Wakeup()
            await wakeup.wait()

    def _wake(self) -> None:
        if self._wakeup is not None:
            self._wakeup.wake()
            self._wakeup = None


class Subscriptions:
    """All subscriptions of this process at one store."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._by_address: dict[str, list[Subscription[Any]]] = {}

    def add(self, subscription: Subscription[Any]) -> bool:
        """Whether it is the first of all."""
        with self._lock:
            is_first = not self._by_address
            for deserted in [each for each in self._all() if each.is_deserted]:
                self._drop(deserted)
            self._by_address.setdefault(subscription.address, []).append(subscription)
            return is_first

    def remove(self, subscription: Subscription[Any]) -> bool:
        """Whether it was the last of all; one that was deserted was dropped before."""
        with self._lock:
            return self._drop(subscription) and not self._by_address

    def all(self) -> list[Subscription[Any]]:
        with self._lock:
            return self._all()

    def at(self, address: str) -> list[Subscription[Any]]:
        """Those who listen at this address: several, if one client listens twice."""
        with self._lock:
            return list(self._by_address.get(address, ()))

    def of(self, feed: Feed[T]) -> list[Subscription[T]]:
        """Those of one feed."""
        if feed.is_for_one:
            return self.at(feed.key)
        name = feed.name
        return [each for each in self.all() if each.feed.name == name]

    def has_another(self, subscription: Subscription[Any]) -> bool:
        """Whether somebody else in this process listens to the same address."""
        with self._lock:
            return len(self._by_address.get(subscription.address, ())) > 1

    def is_here(self, address: str) -> bool:
        return address in self._by_address

    def push(self, feed: Feed[T], items: Sequence[T]) -> None:
        """Hand out what was pushed to a feed."""
        for subscription in self.of(feed):
            subscription.put(items)

    def deliver(self, records: Sequence[Record]) -> None:
        """Hand out records that are in the store now, to the addresses they are for."""
        by_address: dict[str, list[Record]] = {}
        for record in records:
            if record.reply_to is not None and record.reply_to in self._by_address:
                by_address.setdefault(record.reply_to, []).append(record)
        for address, own in by_address.items():
            for subscription in self.at(address):
                subscription.put(own)

    def _all(self) -> list[Subscription[Any]]:
        return [each for some in self._by_address.values() for each in some]

    def _drop(self, subscription: Subscription[Any]) -> bool:
        own = self._by_address.get(subscription.address, [])
        if subscription not in own:
            return False
        own.remove(subscription)
        if not own:
            del self._by_address[subscription.address]
        return True


def address_prefix(feed: Feed[Any]) -> str:
    """What the addresses of a feed's subscribers begin with, where it has several.

    No client's address is like that: they are ids.
    """
    return f"{feed.name}\n"
