"""Claims in the file: what is taken out of a line, and put into a worker's hands. Statements."""

import math
import sqlite3
from collections.abc import Sequence
from itertools import takewhile

from asyncq.drivers.sqlite.declared import bury_late
from asyncq.drivers.sqlite.lines import DOOMED, SUSPECTS, move_due
from asyncq.drivers.sqlite.statements import as_json
from asyncq.language.message import MAX_PRIORITY
from asyncq.seams.broker import MAX_BATCH
from asyncq.seams.dead import DeadLimits
from asyncq.seams.quarantine import Admission

LAST_PLACE = 2**63 - 1
ROUNDS = 4  # looks at the line in one claim, where what waited too long is in the way

Row = tuple[int, int, int, str, object, str | None, float | None]
"""Seq, suspect, crashes, id, envelope, verdict, and when it has waited too long."""


def take(
    connection: sqlite3.Connection,
    queue: str,
    limit: int,
    admission: Admission,
    *,
    now: float,
    limits: DeadLimits,
) -> list[Row]:
    """Take out what is due: suspects, as far as there is room, the doomed, the line in order."""
    limit = min(limit, MAX_BATCH)
    move_due(connection, queue, now)
    suspects = _suspects_for(connection, queue, limit, admission)
    rows = _take(connection, queue, (SUSPECTS, SUSPECTS), suspects) if suspects else []
    for _ in range(ROUNDS):
        if len(rows) >= limit:
            break
        taken = _take(connection, queue, (DOOMED, MAX_PRIORITY), limit - len(rows))
        late = bury_late(connection, queue, [(row[0], row[6]) for row in taken], now, limits)
        rows += [row for row in taken if row[0] not in late]
        if not late:
            break
    return rows


def hold(connection: sqlite3.Connection, rows: Sequence[Row], lease: int, claim: int) -> None:
    """Put what was taken into the hands of this lease; ``claim`` is a number of its own there."""
    if rows:
        connection.execute(
            "INSERT INTO held (seq, lease, claim) SELECT value, ?, ? FROM json_each(?)",
            (lease, claim, as_json([row[0] for row in rows])),
        )


def ready_from(connection: sqlite3.Connection, queue: str, admission: Admission) -> float:
    """From when on a claim brings something; infinity while nothing is in sight."""
    row = connection.execute(
        "SELECT 1 FROM ready WHERE queue = ? AND rank < ? LIMIT 1", (queue, SUSPECTS)
    ).fetchone()
    if row is not None or _suspects_for(connection, queue, 1, admission):
        return 0.0
    [due] = connection.execute("SELECT min(due) FROM delayed WHERE queue = ?", (queue,)).fetchone()
    return math.inf if due is None else due


def _suspects_for(
    connection: sqlite3.Connection, queue: str, limit: int, admission: Admission
) -> int:
    """How many suspects, from the first, there is room for."""
    if limit <= 0 or not admission.together:
        return 0
    counts = connection.execute(
        "SELECT m.crashes FROM ready r CROSS JOIN messages m ON m.seq = r.seq"
        " WHERE r.queue = ? AND r.rank = ? ORDER BY r.place LIMIT ?",
        (queue, SUSPECTS, limit),
    ).fetchall()
    together = sum(1 for _ in takewhile(lambda row: row[0] < admission.together, counts))
    return 1 if counts and admission.alone and not together else together


def _take(
    connection: sqlite3.Connection, queue: str, ranks: tuple[int, int], limit: int
) -> list[Row]:
    """Take the first of these ranks out of the line."""
    rows = connection.execute(
        "SELECT m.seq, m.suspect, m.crashes, m.id, m.envelope, CAST(m.verdict AS TEXT), r.until,"
        " r.rank, r.place FROM ready r CROSS JOIN messages m ON m.seq = r.seq"
        " WHERE r.queue = ? AND r.rank BETWEEN ? AND ? ORDER BY r.rank, r.place LIMIT ?",
        (queue, *ranks, limit),
    ).fetchall()
    # They are the first ones, so they are all up to the last of them, or simply all: what else is
    # there has lost its message to other hands, and would look like work for ever.
    last = rows[-1][7:] if len(rows) == limit else (ranks[1], LAST_PLACE)
    connection.execute(
        "DELETE FROM ready WHERE queue = ? AND rank >= ? AND (rank, place) <= (?, ?)",
        (queue, ranks[0], *last),
    )
    return [row[:7] for row in rows]
