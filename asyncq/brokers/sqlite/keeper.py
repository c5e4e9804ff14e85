"""Renewing leases in the file, from a thread or a process of its own."""

import sqlite3
from collections.abc import Sequence

from asyncq.brokers.sqlite.queue import renew_leases
from asyncq.clock import Clock
from asyncq.errors import BrokerUnavailable
from asyncq.stores.sqlite.connection import SqliteSettings, connect, transaction, translated


class SqliteLeaseKeeper:
    """Holds a connection of its own. Every call blocks until the write lock is free."""

    def __init__(self, settings: SqliteSettings, clock: Clock) -> None:
        self._settings = settings
        self._clock = clock
        self._connection: sqlite3.Connection | None = None

    def renew(self, incarnation: str, queues: Sequence[str], seconds: float) -> bool:
        with translated(self._settings.path, BrokerUnavailable):
            if self._connection is None:
                self._connection = connect(self._settings.path)
            # Not durable: a lease does not outlive the machine's power, and neither does a worker.
            with transaction(self._connection, durable=False):
                return renew_leases(
                    self._connection, incarnation, queues, self._clock.now(), seconds
                )

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None
