"""Lines in the file: in which order messages stand there.

Statements, and nothing else; what is here, in `publishing`, `claims`, `leases` and `settlements`
runs in the writer's transaction, so that nobody else writes meanwhile.
"""

import sqlite3
from collections.abc import Iterable, Sequence
from itertools import repeat

from asyncq.drivers.sqlite.statements import remove
from asyncq.language.message import MAX_PRIORITY
from asyncq.seams.broker import MAX_BATCH

DOOMED = -1  # their rank: before all others
SUSPECTS = MAX_PRIORITY + 1  # their rank: behind all others, and never claimed with them


def move_due(connection: sqlite3.Connection, queue: str, now: float) -> None:
    """Let what is due join at the end of its line, in the order it came due."""
    rows = connection.execute(
        "SELECT seq, until FROM delayed WHERE queue = ? AND due <= ? ORDER BY due, seq LIMIT ?",
        (queue, now, MAX_BATCH),
    ).fetchall()
    if rows:
        seqs = [seq for seq, _ in rows]
        remove(connection, seqs, "delayed")
        append(connection, seqs, [until for _, until in rows])


def append(
    connection: sqlite3.Connection,
    seqs: Sequence[int],
    untils: Iterable[float | None] = repeat(None),
) -> None:
    """Put these at the end of their lines, in this order."""
    first = take_numbers(connection, len(seqs))
    _line_up(connection, range(first, first + len(seqs)), seqs, untils)


def give_back(connection: sqlite3.Connection, seqs: Sequence[int]) -> int:
    """Put these at the head of their lines, in this order; returns how many they are."""
    if seqs:
        first = take_numbers(connection, len(seqs))
        # What is newer comes before what is older, and all that before what was never claimed.
        _line_up(connection, range(1 - first - len(seqs), 1 - first), seqs)
    return len(seqs)


def take_out(connection: sqlite3.Connection, queue: str, places: Iterable[tuple[int, int]]) -> None:
    """Take what stands at these ranks and places out of the line; it is in no place then."""
    connection.executemany(
        "DELETE FROM ready WHERE queue = ? AND rank = ? AND place = ?",
        [(queue, rank, place) for rank, place in places],
    )


def take_numbers(connection: sqlite3.Connection, count: int) -> int:
    """The first of ``count`` new numbers."""
    [first] = connection.execute("SELECT next FROM counter").fetchone()
    connection.execute("UPDATE counter SET next = ?", (first + count,))
    return first


def _line_up(
    connection: sqlite3.Connection,
    places: Sequence[int],
    seqs: Sequence[int],
    untils: Iterable[float | None] = repeat(None),
) -> None:
    connection.executemany(
        "INSERT INTO ready (queue, rank, place, seq, until)"
        " SELECT queue, rank, ?, seq, ? FROM lines WHERE seq = ?",
        zip(places, untils, seqs, strict=False),
    )
