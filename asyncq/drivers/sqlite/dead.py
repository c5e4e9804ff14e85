"""Dead letters in the file: how messages are buried, what gives way, and how they come back.

Statements, and nothing else; what writes runs in the writer's transaction.
"""

import sqlite3
from collections.abc import Sequence

import msgspec

from asyncq.drivers.sqlite.records import as_json
from asyncq.seams.broker import Reject
from asyncq.seams.dead import TRIM_BITE, DeadLimits, pack_last


class Burial(msgspec.Struct, frozen=True):
    """A rejected message, as it goes to the dead letters."""

    seq: int
    reason: str
    last: bytes | None


def burial(seq: int, rejected: Reject) -> Burial:
    last = None if rejected.last is None else pack_last(rejected.last)
    return Burial(seq, rejected.reason, last)


def bury(
    connection: sqlite3.Connection,
    queue: str,
    burials: Sequence[Burial],
    now: float,
    limits: DeadLimits,
) -> None:
    """Make dead letters of messages that are in no place any more."""
    if not burials:
        return
    connection.executemany(
        "INSERT INTO dead (seq, queue, died_at, reason, last)"
        " SELECT seq, queue, ?, ?, ? FROM messages WHERE seq = ?",
        [(now, each.reason, each.last, each.seq) for each in burials],
    )
    _trim(connection, queue, now, limits)


def bury_in_flight(
    connection: sqlite3.Connection,
    queue: str,
    burials: Sequence[Burial],
    now: float,
    limits: DeadLimits,
) -> None:
    """Make dead letters of messages that are in a worker's hands."""
    connection.executemany("DELETE FROM held WHERE seq = ?", [(each.seq,) for each in burials])
    bury(connection, queue, burials, now, limits)


def _trim(connection: sqlite3.Connection, queue: str, now: float, limits: DeadLimits) -> None:
    """Remove what is over the bounds, the oldest first, and not too many at a time."""
    row = connection.execute("SELECT count FROM dead_counts WHERE queue = ?", (queue,)).fetchone()
    excess = (0 if row is None else row[0]) - limits.most
    oldest = connection.execute(
        "SELECT seq FROM (SELECT seq, died_at FROM dead WHERE queue = ?1 AND died_at <= ?2"
        " ORDER BY died_at, seq LIMIT ?3)"
        " UNION SELECT seq FROM"
        " (SELECT seq FROM dead WHERE queue = ?1 ORDER BY died_at, seq LIMIT ?4)",
        (queue, now - limits.keep, TRIM_BITE, min(max(excess, 0), TRIM_BITE)),
    ).fetchall()
    if oldest:
        forget(connection, [seq for (seq,) in oldest])
        limits.note(queue, len(oldest))


def forget(connection: sqlite3.Connection, seqs: Sequence[int]) -> None:
    """Remove dead letters for good."""
    chosen = (as_json(seqs),)
    connection.execute("DELETE FROM dead WHERE seq IN (SELECT value FROM json_each(?))", chosen)
    connection.execute("DELETE FROM messages WHERE seq IN (SELECT value FROM json_each(?))", chosen)
