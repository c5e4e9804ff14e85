"""Items for who is subscribed in other processes: laid out in a table, and taken from it.

Only what is for an address that is written down as listening is laid out, and for each once.
"""

import sqlite3
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

from asyncq.drivers.sqlite.operations import Operation
from asyncq.drivers.sqlite.records import expire_watchers
from asyncq.drivers.sqlite.statements import as_json
from asyncq.drivers.subscriptions import Subscription, Subscriptions, address_prefix
from asyncq.seams.feeds import Feed

LISTENS = 60.0  # seconds for which an address is written down as listening
RENEW_EVERY = 20.0  # ... and when that is renewed
PAGE = 1000  # records taken from the table at a time


class SqliteSubscriptions(Subscriptions):
    """All subscriptions of this process for one file, and the poll for what others lay out."""

    def __init__(self, submit: Callable[[Operation[Any]], None]) -> None:
        super().__init__()
        self._submit = submit  # to the writer
        self._last = 0  # the newest push that was taken from the table
        self._renew_at = 0.0  # on the monotonic clock

    def add(self, subscription: Subscription[Any]) -> bool:
        is_first = super().add(subscription)
        if is_first:  # and nobody polls yet
            self._renew_at = time.monotonic() + RENEW_EVERY
        return is_first

    def pause(self) -> float:
        return self._renew_at - time.monotonic()

    def look(self, connection: sqlite3.Connection) -> None:
        subscriptions = self.all()
        if not subscriptions:
            return
        if self.pause() <= 0:
            self._renew_at = time.monotonic() + RENEW_EVERY
            renewal = Operation(
                lambda writing: renew(writing, subscriptions), committed=_miss_all, awaited=False
            )
            self._submit(renewal)
        addresses = as_json([subscription.address for subscription in subscriptions])
        while self._take_page(connection, addresses) == PAGE:
            pass  # there is more

    def give_up(self) -> None:
        _miss_all(self.all())

    def _take_page(self, connection: sqlite3.Connection, addresses: str) -> int:
        rows = connection.execute(
            "SELECT number, address, record FROM pushes WHERE number > ? AND address IN"
            " (SELECT value FROM json_each(?)) ORDER BY number LIMIT ?",
            (self._last, addresses, PAGE),
        ).fetchall()
        if rows:
            self._last = rows[-1][0]
            by_address: dict[str, list[object]] = defaultdict(list)
            for _, address, packed in rows:
                by_address[address].append(packed)
            for address, own in by_address.items():
                self._deliver_packed(address, own)
            numbers = as_json([number for number, _, _ in rows])
            self._submit(Operation(lambda writing: _remove(writing, numbers), awaited=False))
        return len(rows)

    def _deliver_packed(self, address: str, packed: Sequence[object]) -> None:
        if subscriptions := self.at(address):
            read = subscriptions[0].feed.items.read_one
            items = [item for each in packed for item in read(each)]
            for subscription in subscriptions:
                subscription.put(items)


def listen(connection: sqlite3.Connection, subscription: Subscription[Any]) -> None:
    """Write down that this address listens."""
    connection.execute(
        "INSERT INTO watchers (address, expires) VALUES (?, ?)"
        " ON CONFLICT (address) DO UPDATE SET expires = excluded.expires",
        (subscription.address, subscription.clock.now() + LISTENS),
    )


def lay_out(
    connection: sqlite3.Connection, feed: Feed[Any], packed: Sequence[bytes], here: Sequence[str]
) -> None:
    """Lay these out for all who are subscribed to a feed, but for those at addresses ``here``."""
    if feed.is_for_one:
        chosen, where = [feed.key], "address = ?"
    else:  # all that begin so: what follows are ids
        chosen, where = (
            [address_prefix(feed), f"{address_prefix(feed)}~"],
            "address BETWEEN ? AND ?",
        )
    addresses = [
        address
        for (address,) in connection.execute(
            f"SELECT address FROM watchers WHERE {where}",  # noqa: S608 - our own words
            chosen,
        )
        if address not in here
    ]
    connection.executemany(
        "INSERT INTO pushes (address, record) VALUES (?, ?)",
        [(address, each) for each in packed for address in addresses],
    )


def leave(connection: sqlite3.Connection, address: str) -> None:
    """Nobody here listens to it any more."""
    connection.execute("DELETE FROM watchers WHERE address = ?", (address,))
    connection.execute("DELETE FROM pushes WHERE address = ?", (address,))


def renew(
    connection: sqlite3.Connection, subscriptions: Sequence[Subscription[Any]]
) -> list[Subscription[Any]]:
    """Write down again that these listen; returns those that were not written down any more."""
    forgotten: list[Subscription[Any]] = []
    for subscription in subscriptions:
        known = connection.execute(
            "SELECT 1 FROM watchers WHERE address = ?", (subscription.address,)
        ).fetchone()
        if known is None:
            forgotten.append(subscription)
        listen(connection, subscription)
        expire_watchers(connection, subscription.clock.now())
    return forgotten


def _miss_all(subscriptions: Sequence[Subscription[Any]]) -> None:
    for subscription in subscriptions:
        subscription.miss()


def _remove(connection: sqlite3.Connection, numbers: str) -> None:
    connection.execute(
        "DELETE FROM pushes WHERE number IN (SELECT value FROM json_each(?))", (numbers,)
    )
