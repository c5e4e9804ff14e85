"""The mail: records on their way to who waits for them, within this process and from others.

Within the process a record goes from hand to hand, once it is in the file. For other processes it
is laid out in a table, but only for addresses that are written down as listening.
"""

import math
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from asyncq.clock import Clock
from asyncq.drivers.sqlite.operations import Operation
from asyncq.drivers.sqlite.records import as_json, expire_watchers
from asyncq.drivers.wakeup import Wakeup
from asyncq.language.message import Record
from asyncq.seams.records import read_pushed_one

SUBSCRIPTION_SIZE = 10_000  # records a client may leave unread before they are dropped
LISTENS = 60.0  # seconds for which an address is written down as listening
RENEW_EVERY = 20.0  # ... and when that is renewed
PAGE = 1000  # records taken from the table at a time


class Subscription:
    """The records pushed to one watcher and not read yet: so many, and no more."""

    def __init__(self, address: str, clock: Clock) -> None:
        self.address = address
        self.clock = clock
        self._lock = threading.Lock()  # filled by the store's threads, emptied by an event loop
        self._records: deque[Record] = deque()
        self._missed = False
        self._wakeup: Wakeup | None = None

    @property
    def is_deserted(self) -> bool:
        """Its reader's loop was closed around it: nobody ever reads it again."""
        wakeup = self._wakeup
        return wakeup is not None and wakeup.is_deserted

    def put(self, records: Sequence[Record]) -> None:
        with self._lock:
            self._records.extend(records)
            if len(self._records) > SUBSCRIPTION_SIZE:
                self._records.clear()
                self._missed = True
            self._wake()

    def miss(self) -> None:
        """Say that something may have got lost."""
        with self._lock:
            self._missed = True
            self._wake()

    def take(self) -> list[Record] | Wakeup:
        """What has come; an empty list when some was dropped, a wakeup to wait for when nothing."""
        with self._lock:
            if self._missed:
                self._missed = False
                return []
            if not self._records:
                self._wakeup = Wakeup()
                return self._wakeup
            taken = list(self._records)
            self._records.clear()
            return taken

    def _wake(self) -> None:
        if self._wakeup is not None:
            self._wakeup.wake()
            self._wakeup = None


class Subscriptions:
    """All subscriptions of this process for one file, and the poll for what others lay out."""

    def __init__(self, submit: Callable[[Operation[Any]], None]) -> None:
        self._submit = submit  # to the writer
        self._lock = threading.Lock()
        self._subscriptions: dict[str, list[Subscription]] = {}
        self._last = 0  # the newest push that was taken from the table
        self._renew_at = math.inf  # on the monotonic clock

    # Addresses

    def add(self, subscription: Subscription) -> bool:
        """Whether it is the first of all."""
        with self._lock:
            is_first = not self._subscriptions
            self._drop_deserted()
            self._subscriptions.setdefault(subscription.address, []).append(subscription)
            self._renew_at = min(self._renew_at, time.monotonic() + RENEW_EVERY)
            return is_first

    def remove(self, subscription: Subscription) -> bool:
        """Whether it was the last of all."""
        with self._lock:
            if not self._drop(subscription):
                return False  # it was deserted, and so dropped before
            return not self._subscriptions

    def has_another(self, subscription: Subscription) -> bool:
        """Whether somebody else in this process listens to the same address."""
        with self._lock:
            return len(self._subscriptions.get(subscription.address, ())) > 1

    def is_here(self, address: str) -> bool:
        return address in self._subscriptions

    def deliver(self, records: Sequence[Record]) -> None:
        """Hand out records that are in the file now."""
        by_address: dict[str, list[Record]] = {}
        for record in records:
            if record.reply_to is not None and record.reply_to in self._subscriptions:
                by_address.setdefault(record.reply_to, []).append(record)
        for address, own in by_address.items():
            with self._lock:
                subscriptions = list(self._subscriptions.get(address, ()))
            for subscription in subscriptions:
                subscription.put(own)

    # The poll

    def pause(self) -> float:
        return self._renew_at - time.monotonic()

    def look(self, connection: sqlite3.Connection) -> None:
        with self._lock:
            subscriptions = [each for some in self._subscriptions.values() for each in some]
        if not subscriptions:
            self._renew_at = math.inf
            return
        if self.pause() <= 0:
            self._renew_at = time.monotonic() + RENEW_EVERY
            renewal = Operation(
                lambda writing: renew(writing, subscriptions),
                committed=_tell_forgotten,
                awaited=False,
            )
            self._submit(renewal)
        addresses = as_json([subscription.address for subscription in subscriptions])
        while self._take_page(connection, addresses) == PAGE:
            pass  # there is more

    def give_up(self) -> None:
        with self._lock:
            subscriptions = [each for some in self._subscriptions.values() for each in some]
        for subscription in subscriptions:
            subscription.miss()

    def _drop(self, subscription: Subscription) -> bool:
        subscriptions = self._subscriptions.get(subscription.address, [])
        if subscription not in subscriptions:
            return False
        subscriptions.remove(subscription)
        if not subscriptions:
            del self._subscriptions[subscription.address]
        return True

    def _drop_deserted(self) -> None:
        for subscriptions in list(self._subscriptions.values()):
            for subscription in [each for each in subscriptions if each.is_deserted]:
                self._drop(subscription)

    def _take_page(self, connection: sqlite3.Connection, addresses: str) -> int:
        rows = connection.execute(
            "SELECT number, record FROM pushes WHERE number > ? AND address IN"
            " (SELECT value FROM json_each(?)) ORDER BY number LIMIT ?",
            (self._last, addresses, PAGE),
        ).fetchall()
        if rows:
            self._last = rows[-1][0]
            self.deliver([record for _, packed in rows for record in read_pushed_one(packed)])
            numbers = as_json([number for number, _ in rows])
            self._submit(Operation(lambda writing: _remove(writing, numbers), awaited=False))
        return len(rows)


def listen(connection: sqlite3.Connection, subscription: Subscription) -> None:
    """Write down that this address listens."""
    _write_down(connection, subscription)


def leave(connection: sqlite3.Connection, address: str) -> None:
    """Nobody here listens to it any more."""
    connection.execute("DELETE FROM watchers WHERE address = ?", (address,))
    connection.execute("DELETE FROM pushes WHERE address = ?", (address,))


def renew(
    connection: sqlite3.Connection, subscriptions: Sequence[Subscription]
) -> list[Subscription]:
    """Write down again that these listen; returns those that were not written down any more."""
    forgotten: list[Subscription] = []
    for subscription in subscriptions:
        known = connection.execute(
            "SELECT 1 FROM watchers WHERE address = ?", (subscription.address,)
        ).fetchone()
        if known is None:
            forgotten.append(subscription)
        _write_down(connection, subscription)
        expire_watchers(connection, subscription.clock.now())
    return forgotten


def _tell_forgotten(subscriptions: Sequence[Subscription]) -> None:
    for subscription in subscriptions:
        subscription.miss()


def _write_down(connection: sqlite3.Connection, subscription: Subscription) -> None:
    connection.execute(
        "INSERT INTO watchers (address, expires) VALUES (?, ?)"
        " ON CONFLICT (address) DO UPDATE SET expires = excluded.expires",
        (subscription.address, subscription.clock.now() + LISTENS),
    )


def _remove(connection: sqlite3.Connection, numbers: str) -> None:
    connection.execute(
        "DELETE FROM pushes WHERE number IN (SELECT value FROM json_each(?))", (numbers,)
    )
