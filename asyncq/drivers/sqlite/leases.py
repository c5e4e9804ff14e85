"""Leases in the file: they are opened, renewed and closed, and what the dead held is recovered.

Consumers do this in the writer's transaction; a renewer does it in one of its own, from a thread
or another process.
"""

import sqlite3
from collections.abc import Generator, Sequence
from contextlib import contextmanager

from asyncq.clock import Clock
from asyncq.drivers.sqlite.connection import SqliteSettings, transaction, translated
from asyncq.drivers.sqlite.forks import Access
from asyncq.drivers.sqlite.lines import append, give_back
from asyncq.drivers.sqlite.statements import as_json, remove
from asyncq.errors import BrokerUnavailable
from asyncq.seams.broker import MAX_BATCH


class SqliteLeaseRenewer:
    """Holds a connection of its own. Every call blocks until the write lock is free."""

    def __init__(self, settings: SqliteSettings, clock: Clock) -> None:
        self._settings = settings
        self._clock = clock
        self._access: Access | None = None

    def renew(self, incarnation: str, queues: Sequence[str], seconds: float) -> bool:
        with self._transaction() as connection:
            return _renew(connection, incarnation, queues, self._clock.now() + seconds)

    def release(self, incarnation: str, queues: Sequence[str]) -> int:
        with self._transaction() as connection:
            return _release(connection, incarnation, queues, self._clock.now())

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


def open_lease(connection: sqlite3.Connection, incarnation: str, queue: str, ends: float) -> int:
    """The number of a new lease: never one that was used before."""
    cursor = connection.execute(
        "INSERT INTO leases (incarnation, queue, expires) VALUES (?, ?, ?)",
        (incarnation, queue, ends),
    )
    assert cursor.lastrowid is not None  # noqa: S101 - it is an INSERT
    return cursor.lastrowid


def close_lease(connection: sqlite3.Connection, lease: int) -> int:
    """End it; what is in flight goes back, uncounted. Returns how many that were."""
    connection.execute("DELETE FROM leases WHERE number = ?", (lease,))
    rows = connection.execute("SELECT seq FROM held WHERE lease = ? ORDER BY claim, seq", (lease,))
    return _give_back_held(connection, rows)


def give_back_claim(connection: sqlite3.Connection, lease: int, claim: int) -> int:
    """Undo a claim whose deliveries reached nobody."""
    rows = connection.execute(
        "SELECT seq FROM held WHERE lease = ? AND claim = ? ORDER BY seq", (lease, claim)
    )
    return _give_back_held(connection, rows)


def _give_back_held(connection: sqlite3.Connection, rows: sqlite3.Cursor) -> int:
    seqs = [seq for (seq,) in rows]
    remove(connection, seqs, "held")
    return give_back(connection, seqs)


def is_there(connection: sqlite3.Connection, lease: int) -> bool:
    """Whether nobody has swept it. Until then it is its owner's, also when its time is over."""
    found = connection.execute("SELECT 1 FROM leases WHERE number = ?", (lease,)).fetchone()
    return found is not None


def sweep(connection: sqlite3.Connection, queue: str, now: float) -> int:
    """Make suspects of what workers hold whose lease has ended, about `MAX_BATCH` of them.

    Worker by worker: who is guilty is told by all that one of them held.
    """
    recovered = 0
    ended = connection.execute(
        "SELECT DISTINCT incarnation FROM leases WHERE queue = ? AND expires <= ? LIMIT ?",
        (queue, now, MAX_BATCH),
    ).fetchall()
    for (incarnation,) in ended:
        recovered += _recover(connection, queue, incarnation, now)
        if recovered >= MAX_BATCH:
            break
    return recovered


def _renew(
    connection: sqlite3.Connection, incarnation: str, queues: Sequence[str], ends: float
) -> bool:
    """Whether there was one for each queue. One that was swept stays so."""
    wanted = (incarnation, as_json(queues))
    [there] = connection.execute(
        "SELECT count(DISTINCT queue) FROM leases WHERE incarnation = ?"
        " AND queue IN (SELECT value FROM json_each(?))",
        wanted,
    ).fetchone()
    connection.execute(
        "UPDATE leases SET expires = ? WHERE incarnation = ?"
        " AND queue IN (SELECT value FROM json_each(?))",
        (ends, *wanted),
    )
    return there == len(set(queues))


def _release(
    connection: sqlite3.Connection, incarnation: str, queues: Sequence[str], now: float
) -> int:
    """End these leases of a dead worker and make suspects of what it held; returns how many."""
    connection.execute(
        "UPDATE leases SET expires = ?1 WHERE incarnation = ?2 AND expires > ?1"
        " AND queue IN (SELECT value FROM json_each(?3))",
        (now, incarnation, as_json(queues)),
    )
    return sum(_recover(connection, queue, incarnation, now) for queue in queues)


def _recover(connection: sqlite3.Connection, queue: str, incarnation: str, now: float) -> int:
    ended = (incarnation, queue, now)
    leases = "SELECT number FROM leases WHERE incarnation = ? AND queue = ? AND expires <= ?"
    rows = connection.execute(
        "SELECT h.seq, m.suspect FROM held h JOIN messages m ON m.seq = h.seq"  # noqa: S608 - our own words
        f" WHERE h.lease IN ({leases}) ORDER BY h.seq",
        ended,
    ).fetchall()
    connection.execute(f"DELETE FROM held WHERE lease IN ({leases})", ended)  # noqa: S608 - our own words
    connection.execute(f"DELETE FROM leases WHERE number IN ({leases})", ended)  # noqa: S608 - likewise
    seqs = [seq for seq, _ in rows]
    # One that was a suspect before is guilty; where there is none, all are.
    caught = any(suspect for _, suspect in rows)
    connection.execute(
        "UPDATE messages SET crashes = crashes + (suspect OR NOT ?), suspect = 1"
        " WHERE seq IN (SELECT value FROM json_each(?))",
        (caught, as_json(seqs)),
    )
    append(connection, seqs)
    return len(seqs)
