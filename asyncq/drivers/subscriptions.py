"""Records on their way to who waits for them, within one process.

How other processes hear of a record is each store's own affair.
"""

import asyncio
import threading
from collections.abc import Sequence

from anyio.lowlevel import checkpoint

from asyncq.clock import Clock
from asyncq.drivers.wakeup import Wakeup
from asyncq.language.record import Record

SUBSCRIPTION_SIZE = 10_000  # records a client may leave unread before they are dropped


class Subscription:
    """What a client hears: the records pushed to it and not read yet, so many and no more."""

    def __init__(self, address: str, clock: Clock) -> None:
        self.address = address
        self.clock = clock
        self._loop = asyncio.get_running_loop()
        self._lock = threading.Lock()  # filled by the store's threads, emptied by an event loop
        self._records: list[Record] = []
        self._missed = False
        self._wakeup: Wakeup | None = None

    @property
    def is_deserted(self) -> bool:
        """Its reader's loop was closed around it: nobody ever reads it again."""
        return self._loop.is_closed()

    def put(self, records: Sequence[Record]) -> None:
        with self._lock:
            self._records += records
            if len(self._records) > SUBSCRIPTION_SIZE:
                self._records.clear()
                self._missed = True
            self._wake()

    def miss(self) -> None:
        """Say that something may have got lost."""
        with self._lock:
            self._missed = True
            self._wake()

    async def receive(self) -> Sequence[Record]:
        while True:
            await checkpoint()
            with self._lock:
                if self._missed:
                    self._missed = False
                    return []
                if self._records:
                    taken, self._records = self._records, []
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
        self._by_address: dict[str, list[Subscription]] = {}

    def add(self, subscription: Subscription) -> bool:
        """Whether it is the first of all."""
        with self._lock:
            is_first = not self._by_address
            for deserted in [each for each in self._all() if each.is_deserted]:
                self._drop(deserted)
            self._by_address.setdefault(subscription.address, []).append(subscription)
            return is_first

    def remove(self, subscription: Subscription) -> bool:
        """Whether it was the last of all; one that was deserted was dropped before."""
        with self._lock:
            return self._drop(subscription) and not self._by_address

    def all(self) -> list[Subscription]:
        with self._lock:
            return self._all()

    def has_another(self, subscription: Subscription) -> bool:
        """Whether somebody else in this process listens to the same address."""
        with self._lock:
            return len(self._by_address.get(subscription.address, ())) > 1

    def is_here(self, address: str) -> bool:
        return address in self._by_address

    def deliver(self, records: Sequence[Record]) -> None:
        """Hand out records that are in the store now."""
        by_address: dict[str, list[Record]] = {}
        for record in records:
            if record.reply_to is not None and record.reply_to in self._by_address:
                by_address.setdefault(record.reply_to, []).append(record)
        for address, own in by_address.items():
            with self._lock:
                subscriptions = list(self._by_address.get(address, ()))
            for subscription in subscriptions:
                subscription.put(own)

    def _all(self) -> list[Subscription]:
        return [each for some in self._by_address.values() for each in some]

    def _drop(self, subscription: Subscription) -> bool:
        own = self._by_address.get(subscription.address, [])
        if subscription not in own:
            return False
        own.remove(subscription)
        if not own:
            del self._by_address[subscription.address]
        return True
