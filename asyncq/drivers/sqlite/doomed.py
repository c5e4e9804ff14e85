"""The doomed in the file: what would die by itself though others wait for its end.

Statements, and nothing else; they run in the writer's transaction.
"""

import sqlite3
from collections.abc import Sequence

from asyncq.drivers.sqlite.dead import bury
from asyncq.drivers.sqlite.envelopes import has_ends
from asyncq.drivers.sqlite.lines import append
from asyncq.drivers.sqlite.statements import as_json
from asyncq.seams.dead import DeadLimits


def doom_or_bury(
    connection: sqlite3.Connection,
    queue: str,
    seqs: Sequence[int],
    why: str,
    *,
    now: float,
    limits: DeadLimits,
) -> None:
    """Make dead letters of messages that are in no place any more, or doom them."""
    doomed = doom(connection, seqs, why)
    bury(connection, queue, [(seq, why, None) for seq in seqs if seq not in doomed], now, limits)


def doom(connection: sqlite3.Connection, seqs: Sequence[int], verdict: str) -> set[int]:
    """Line up those of these that have ends, with the verdict; returns which they are."""
    rows = connection.execute(
        "SELECT seq, envelope FROM messages WHERE seq IN (SELECT value FROM json_each(?))",
        (as_json(seqs),),
    )
    doomed = {seq for seq, packed in rows if has_ends(packed)}
    if doomed:
        connection.execute(
            "UPDATE messages SET verdict = ? WHERE seq IN (SELECT value FROM json_each(?))",
            (verdict, as_json(doomed)),
        )
        append(connection, [seq for seq in seqs if seq in doomed])
    return doomed
