"""Renewing leases in the file, and ending those of the dead, from a thread or another process."""

import sqlite3
from collections.abc import Generator, Sequence
from contextlib import contextmanager

from asyncq.clock import Clock
from asyncq.drivers.sqlite.connection import SqliteSettings, transaction, translated
from asyncq.drivers.sqlite.forks import Access
from asyncq.drivers.sqlite.queue import release_leases, renew_leases
from asyncq.errors import BrokerUnavailable


class SqliteLeaseRenewer:
    """Holds a connection of its own. Every call blocks until the write lock is free."""

    def __init__(self, settings: SqliteSettings, clock: Clock) -> None:
        self._settings = settings
        self._clock = clock
        self._access: Access | None = None

    def renew(self, incarnation: str, queues: Sequence[str], seconds: float) -> bool:
        with self._transaction() as connection:
            return renew_leases(connection, incarnation, queues, self._clock.now(), seconds)

    def release(self, incarnation: str, queues: Sequence[str]) -> int:
        with self._transaction() as connection:
            return release_leases(connection, incarnation, queues, self._clock.now())

    def close(self) -> None:
        if self._access is not None:
            self._access.close()
            self._access = None

    @contextmanager
    def _transaction(self) -> Generator[sqlite3.Connection]:
        with translated(self._settings.path, BrokerUnavailable):
            if self._access is None:
                self._access = Access(self._settings.path)
            # Not durable: a lease does not outlive the machine's power, and neither does a worker.
            with self._access:
                connection = self._access.open()
                with transaction(connection, durable=False):
                    yield connection
