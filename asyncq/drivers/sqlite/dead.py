"""Dead letters in the file: how messages become some, and what gives way.

Statements, and nothing else; what writes runs in the writer's transaction.
"""

import sqlite3
from collections.abc import Sequence

from asyncq.drivers.sqlite.statements import remove
from asyncq.seams.dead import TRIM_BITE, DeadLimits

Death = tuple[int, str, bytes | None]
"""A message's seq, the reason, and how its last attempt failed, as bytes."""


def bury(
    connection: sqlite3.Connection,
    queue: str,
    deaths: Sequence[Death],
    now: float,
    limits: DeadLimits,
) -> None:
    """Make dead letters of messages that are in no place any more."""
    if deaths:
        connection.executemany(
            "INSERT INTO dead (seq, queue, reason, last, died_at)"
            " SELECT seq, queue, ?2, ?3, ?4 FROM messages WHERE seq = ?1",
            [(*death, now) for death in deaths],
        )
        _trim(connection, queue, now, limits)


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
        remove(connection, [seq for (seq,) in oldest], "dead", "messages")
        limits.note(queue, len(oldest))
