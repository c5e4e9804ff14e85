"""What an operator asks of the file. Statements, and nothing else."""

import sqlite3
from collections.abc import Sequence

from asyncq.drivers.sqlite.doomed import doom
from asyncq.drivers.sqlite.envelopes import unpack
from asyncq.drivers.sqlite.lines import DOOMED, SUSPECTS, append, take_out
from asyncq.drivers.sqlite.statements import as_json, remove
from asyncq.language.envelope import Envelope
from asyncq.language.message import Status
from asyncq.seams.admin import DeadLetter, Depth, Waiting, due_at
from asyncq.seams.broker import purged
from asyncq.seams.dead import unpack_last

PURGE_BITE = 2000  # messages removed or doomed in one transaction: others write, too


def list_queues(connection: sqlite3.Connection) -> list[str]:
    return [name for (name,) in connection.execute("SELECT name FROM queues ORDER BY name")]


def measure(connection: sqlite3.Connection, queue: str, now: float) -> Depth:
    """How many are where; what is due counts as ready."""
    waiting = _count(connection, "SELECT count(*) FROM ready WHERE queue = ?", queue)
    delayed = _count(connection, "SELECT count(*) FROM delayed WHERE queue = ?", queue)
    due = _count(
        connection, "SELECT count(*) FROM delayed WHERE queue = ? AND due <= ?", queue, now
    )
    in_flight = _count(
        connection,
        "SELECT count(*) FROM held h CROSS JOIN messages m ON m.seq = h.seq WHERE m.queue = ?",
        queue,
    )
    dead = _count(connection, "SELECT count(*) FROM dead WHERE queue = ?", queue)
    sent_at = _first_sent_at(connection, queue, now)
    return Depth(
        ready=waiting + due,
        delayed=delayed - due,
        in_flight=in_flight,
        dead=dead,
        oldest_age=None if sent_at is None else now - sent_at,
    )


def _count(connection: sqlite3.Connection, statement: str, *values: object) -> int:
    [count] = connection.execute(statement, values).fetchone()
    return count


def _first_sent_at(connection: sqlite3.Connection, queue: str, now: float) -> float | None:
    """When the first of the ready ones was sent: each rank's first is its oldest."""
    heads = connection.execute(
        "SELECT m.id, m.envelope FROM ("
        "  SELECT min(place), seq FROM ready WHERE queue = ?1 GROUP BY rank"
        "  UNION ALL"
        "  SELECT min(due), seq FROM delayed WHERE queue = ?1 AND due <= ?2"
        ") AS head JOIN messages m ON m.seq = head.seq",
        (queue, now),
    )
    sent = [unpack(packed, message_id, queue).sent_at for message_id, packed in heads]
    # Messages of other hands have no time of sending; they do not count as from 1970.
    return min((moment for moment in sent if moment > 0), default=None)


def find(connection: sqlite3.Connection, ids: Sequence[str], now: float) -> dict[str, Status]:
    rows = connection.execute(
        "SELECT m.id, CASE"
        " WHEN EXISTS (SELECT 1 FROM held h WHERE h.seq = m.seq) THEN 'running'"
        " WHEN EXISTS (SELECT 1 FROM dead d WHERE d.seq = m.seq) THEN 'failed'"
        " WHEN EXISTS (SELECT 1 FROM delayed l WHERE l.seq = m.seq AND l.due > ?) THEN 'scheduled'"
        " ELSE 'queued' END"
        " FROM messages m WHERE m.id IN (SELECT value FROM json_each(?))",
        (now, as_json(ids)),
    )
    return {message_id: Status(place) for message_id, place in rows}


def envelopes(connection: sqlite3.Connection, ids: Sequence[str]) -> dict[str, Envelope]:
    rows = connection.execute(
        "SELECT m.id, m.queue, m.envelope, l.due FROM messages m"
        " LEFT JOIN delayed l ON l.seq = m.seq"
        " WHERE m.id IN (SELECT value FROM json_each(?))"
        " AND NOT EXISTS (SELECT 1 FROM dead d WHERE d.seq = m.seq)",
        (as_json(ids),),
    )
    return {
        message_id: due_at(unpack(packed, message_id, queue), due)
        for message_id, queue, packed, due in rows
    }


def purge_some(connection: sqlite3.Connection, queue: str) -> int:
    """Remove some of what waits, or doom it; returns how many: 0 when only the doomed are left."""
    # Left joins: a place whose message was lost to other hands goes as well.
    ready = connection.execute(
        "SELECT r.rank, r.place, r.seq FROM ready r LEFT JOIN messages m ON m.seq = r.seq"
        " WHERE r.queue = ? AND r.rank > ? AND m.verdict IS NULL ORDER BY r.rank, r.place LIMIT ?",
        (queue, DOOMED, PURGE_BITE),
    ).fetchall()
    delayed = connection.execute(
        "SELECT d.seq FROM delayed d LEFT JOIN messages m ON m.seq = d.seq"
        " WHERE d.queue = ? AND m.verdict IS NULL LIMIT ?",
        (queue, PURGE_BITE - len(ready)),
    ).fetchall()
    seqs = [seq for *_, seq in (*ready, *delayed)]
    take_out(connection, queue, [(rank, place) for rank, place, _ in ready])
    remove(connection, seqs, "delayed")
    doomed = doom(connection, seqs, purged())
    remove(connection, [seq for seq in seqs if seq not in doomed], "messages")
    return len(seqs)


def peek(connection: sqlite3.Connection, queue: str, limit: int, offset: int) -> list[Waiting]:
    """What waits: suspects, the doomed, then by priority, then by when it is due."""
    line = (
        "SELECT * FROM (SELECT {section} AS section, {first} AS a, {second} AS b, seq,"
        " {due} AS due FROM {place} WHERE queue = ?1 {which} ORDER BY {first}, {second} LIMIT ?2)"
    )
    ready = {"first": "rank", "second": "place", "due": "NULL", "place": "ready"}
    sections = [
        line.format(section=0, which=f"AND rank = {SUSPECTS}", **ready),
        line.format(section=1, which=f"AND rank < {SUSPECTS}", **ready),
        line.format(section=2, which="", first="due", second="seq", due="due", place="delayed"),
    ]
    rows = connection.execute(
        f"SELECT m.id, m.envelope, m.crashes, w.due FROM ({' UNION ALL '.join(sections)}) w"  # noqa: S608 - our own words
        " JOIN messages m ON m.seq = w.seq ORDER BY w.section, w.a, w.b LIMIT ?3 OFFSET ?4",
        (queue, limit + offset, limit, offset),
    )
    return [
        Waiting(envelope=unpack(packed, message_id, queue), due=due, crashes=crashes)
        for message_id, packed, crashes, due in rows
    ]


def list_dead(
    connection: sqlite3.Connection, queue: str, limit: int, offset: int
) -> list[DeadLetter]:
    rows = connection.execute(
        "SELECT m.id, m.envelope, m.crashes, d.reason, d.died_at, d.last"
        " FROM dead d JOIN messages m ON m.seq = d.seq"
        " WHERE d.queue = ? ORDER BY d.died_at, d.seq LIMIT ? OFFSET ?",
        (queue, limit, offset),
    )
    return [
        DeadLetter(
            envelope=unpack(packed, message_id, queue),
            reason=reason,
            died_at=died_at,
            crashes=crashes,
            last=unpack_last(last),
        )
        for message_id, packed, crashes, reason, died_at, last in rows
    ]


def replay(connection: sqlite3.Connection, queue: str, ids: Sequence[str]) -> list[str]:
    """Put dead letters back at the end of the line, in the order they are named."""
    dead = _find_dead(connection, queue, ids)
    seqs = list(dead.values())
    remove(connection, seqs, "dead")
    connection.execute(
        "UPDATE messages SET suspect = 0, crashes = 0, verdict = NULL"
        " WHERE seq IN (SELECT value FROM json_each(?))",
        (as_json(seqs),),
    )
    append(connection, seqs)
    return list(dead)


def delete_dead(connection: sqlite3.Connection, queue: str, ids: Sequence[str]) -> int:
    seqs = _find_dead(connection, queue, ids)
    remove(connection, list(seqs.values()), "dead", "messages")
    return len(seqs)


def _find_dead(connection: sqlite3.Connection, queue: str, ids: Sequence[str]) -> dict[str, int]:
    """Those that are dead letters, and where, in the order they are named."""
    rows = connection.execute(
        "SELECT m.id, m.seq FROM messages m JOIN dead d ON d.seq = m.seq"
        " WHERE m.id IN (SELECT value FROM json_each(?)) AND m.queue = ?",
        (as_json(ids), queue),
    )
    seqs: dict[str, int] = dict(rows)
    return {message_id: seqs[message_id] for message_id in ids if message_id in seqs}
