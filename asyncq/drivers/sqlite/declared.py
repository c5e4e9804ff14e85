"""Bounds of queues in the file: how they are declared, and what gives way to them.

Statements, and nothing else; they run in the writer's transaction.
"""

import sqlite3
from collections.abc import Iterable, Sequence

import msgspec

from asyncq.drivers.sqlite.doomed import doom_or_bury
from asyncq.drivers.sqlite.lines import DOOMED, take_out
from asyncq.drivers.sqlite.statements import as_json
from asyncq.language.message import MAX_PRIORITY
from asyncq.language.topology import Queue
from asyncq.seams.broker import MAX_BATCH, overflowed, waited_too_long
from asyncq.seams.dead import DeadLimits


class Bounds(msgspec.Struct, frozen=True):
    """What is declared of a queue."""

    queue: str
    lowest_rank: int
    ttl: float | None
    max_length: int | None
    drops_head: bool


def declare(connection: sqlite3.Connection, queues: Sequence[Queue]) -> None:
    connection.executemany(
        "INSERT INTO declared (queue, lowest_rank, ttl, max_length, drops_head, single_active)"
        " VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (queue) DO UPDATE SET"
        " lowest_rank = excluded.lowest_rank, ttl = excluded.ttl,"
        " max_length = excluded.max_length, drops_head = excluded.drops_head,"
        " single_active = excluded.single_active",
        [
            (
                queue.name,
                MAX_PRIORITY - (queue.max_priority or MAX_PRIORITY),
                queue.ttl,
                queue.max_length,
                queue.overflow == "drop-head",
                queue.single_active,
            )
            for queue in queues
        ],
    )


def bounds_of(connection: sqlite3.Connection, queues: Iterable[str]) -> dict[str, Bounds]:
    """Those of these queues that have any."""
    rows = connection.execute(
        "SELECT queue, lowest_rank, ttl, max_length, drops_head FROM declared"
        " WHERE queue IN (SELECT value FROM json_each(?))",
        (as_json(list(queues)),),
    )
    return {row[0]: Bounds(*row) for row in rows}


def without_room(
    connection: sqlite3.Connection, bounds: Bounds, ids: Sequence[str], now: float
) -> list[str]:
    """Those of these new messages, in their order, that the queue has no room for."""
    if bounds.max_length is None or bounds.drops_head:
        return []
    room = bounds.max_length - _count_ready(connection, bounds.queue, bounds.max_length)
    if room >= len(ids):
        return []
    known = connection.execute(
        "SELECT id FROM messages WHERE queue = ?1 AND id IN (SELECT value FROM json_each(?2))"
        " UNION SELECT id FROM records WHERE expires > ?3"
        " AND id IN (SELECT value FROM json_each(?2))",
        (bounds.queue, as_json(ids), now),
    )
    there = {message_id for (message_id,) in known}
    new = [message_id for message_id in dict.fromkeys(ids) if message_id not in there]
    return new[max(room, 0) :]


def drop_head(
    connection: sqlite3.Connection, bounds: Bounds, now: float, limits: DeadLimits
) -> None:
    """Bury or doom what exceeds the bound: of the lowest priority, the oldest."""
    if bounds.max_length is None or not bounds.drops_head:
        return
    most = bounds.max_length + MAX_BATCH
    excess = _count_ready(connection, bounds.queue, most) - bounds.max_length
    if excess <= 0:
        return
    rows: list[tuple[int, int, int]] = []
    for rank in range(MAX_PRIORITY, -1, -1):  # each is in order: nothing has to be sorted
        if len(rows) < excess:
            rows += connection.execute(
                "SELECT rank, place, seq FROM ready WHERE queue = ? AND rank = ?"
                " ORDER BY place LIMIT ?",
                (bounds.queue, rank, excess - len(rows)),
            )
    take_out(connection, bounds.queue, [(rank, place) for rank, place, _ in rows])
    seqs = [seq for *_, seq in rows]
    doom_or_bury(
        connection, bounds.queue, seqs, overflowed(bounds.max_length), now=now, limits=limits
    )


def bury_late(
    connection: sqlite3.Connection,
    queue: str,
    waited: Sequence[tuple[int, float | None]],
    now: float,
    limits: DeadLimits,
) -> set[int]:
    """Bury or doom those of these seqs that were taken out of the line later than it says there.

    Returns which they are.
    """
    late = [seq for seq, until in waited if until is not None and until <= now]
    if not late:
        return set()
    [ttl] = connection.execute("SELECT ttl FROM declared WHERE queue = ?", (queue,)).fetchone()
    if ttl is None:  # it had one when they were sent
        return set()
    doom_or_bury(connection, queue, late, waited_too_long(ttl), now=now, limits=limits)
    return set(late)


def stands_by(connection: sqlite3.Connection, queue: str, lease: int, now: float) -> bool:
    """Whether another lease has this queue for itself; if none has and one should, it is ours."""
    row = connection.execute(
        "SELECT active FROM declared WHERE queue = ? AND single_active", (queue,)
    ).fetchone()
    if row is None or row[0] == lease:
        return False
    if active_until(connection, queue) > now:
        return True
    connection.execute("UPDATE declared SET active = ? WHERE queue = ?", (lease, queue))
    return False


def active_until(connection: sqlite3.Connection, queue: str) -> float:
    """When the lease ends that has this queue for itself; 0 when none has."""
    row = connection.execute(
        "SELECT l.expires FROM declared d JOIN leases l ON l.number = d.active WHERE d.queue = ?",
        (queue,),
    ).fetchone()
    return 0.0 if row is None else row[0]


def _count_ready(connection: sqlite3.Connection, queue: str, most: int) -> int:
    [count] = connection.execute(
        "SELECT count(*) FROM (SELECT 1 FROM ready WHERE queue = ? AND rank > ? LIMIT ?)",
        (queue, DOOMED, most),
    ).fetchone()
    return count
