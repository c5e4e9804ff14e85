"""Queues in the file: how messages come, are claimed, and end. Statements, and nothing else.

Every function here runs in the writer's transaction, so that nobody else writes meanwhile.
"""

import sqlite3
from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import repeat, takewhile
from typing import assert_never

import msgspec

from asyncq.drivers.sqlite.dead import Burial, bury_in_flight
from asyncq.drivers.sqlite.declared import (
    Bounds,
    Refusal,
    bounds_of,
    bury_late,
    drop_head,
    without_room,
)
from asyncq.drivers.sqlite.parcels import Parcel
from asyncq.drivers.sqlite.records import as_json
from asyncq.language.message import MAX_PRIORITY
from asyncq.seams.broker import MAX_BATCH, Ack, Nack, Reject, Settlement
from asyncq.seams.dead import DeadLimits
from asyncq.seams.quarantine import Admission

SUSPECTS = MAX_PRIORITY + 1  # their rank: behind all others, and never claimed with them
LAST_PLACE = 2**63 - 1
ROUNDS = 4  # looks at the line in one claim, where what waited too long is in the way


class Held:
    """What a delivery's token is: the row that says whose it is."""

    __slots__ = ("claim", "seq", "suspect", "untold")

    def __init__(self, seq: int, claim: int, suspect: bool) -> None:
        self.seq = seq
        self.claim = claim
        self.suspect = suspect
        # Settled in the file, by a call that has not said so to its caller yet. Written by the
        # writer's thread.
        self.untold = False


Row = tuple[int, int, int, str, object, float | None]
"""Seq, suspect, crashes, id, envelope, and when it has waited too long."""


def publish(
    connection: sqlite3.Connection, parcels: Sequence[Parcel], now: float, limits: DeadLimits
) -> list[Refusal]:
    """Store what is new, in order; returns what there was no room for."""
    names = {parcel.queue for parcel in parcels}
    bounds = bounds_of(connection, names)
    refusals: list[Refusal] = []
    if bounds:
        parcels, refusals = _within_bounds(connection, parcels, bounds, now)
    _store(connection, parcels, names, now)
    for each in bounds.values():
        drop_head(connection, each, now, limits)
    return refusals


def _within_bounds(
    connection: sqlite3.Connection,
    parcels: Sequence[Parcel],
    bounds: Mapping[str, Bounds],
    now: float,
) -> tuple[list[Parcel], list[Refusal]]:
    """What may be stored, as it may be, and what there is no room for."""
    refusals: list[Refusal] = []
    for each in bounds.values():
        ids = [
            parcel.id
            for parcel in parcels
            if parcel.queue == each.queue and not parcel.due > now
        ]  # fmt: skip
        if refused := without_room(connection, each, ids, now):
            refusals.append(Refusal(each.queue, each.max_length or 0, refused))
    refused_ids = {(refusal.queue, id) for refusal in refusals for id in refusal.ids}
    kept: list[Parcel] = []
    for parcel in parcels:
        each = bounds.get(parcel.queue)
        if (parcel.queue, parcel.id) not in refused_ids:
            late = each is not None and parcel.rank < each.lowest_rank
            kept.append(
                msgspec.structs.replace(parcel, rank=each.lowest_rank) if late and each else parcel
            )
    return kept, refusals


def _store(
    connection: sqlite3.Connection, parcels: Sequence[Parcel], names: Collection[str], now: float
) -> None:
    connection.executemany(
        "INSERT INTO queues (name) VALUES (?) ON CONFLICT DO NOTHING",
        [(name,) for name in names],
    )
    ready = [parcel for parcel in parcels if not parcel.due > now]
    first, after = _take_numbers(connection, len(parcels))
    _insert(connection, ready, first, now)
    connection.execute(
        "INSERT INTO ready (queue, rank, place, seq, until)"
        " SELECT m.queue, m.rank, m.seq, m.seq, ? + d.ttl FROM messages m"
        " LEFT JOIN declared d ON d.queue = m.queue WHERE m.seq >= ? AND m.seq < ?",
        (now, first, after),
    )
    if len(ready) < len(parcels):
        delayed = [parcel for parcel in parcels if parcel.due > now]
        first += len(ready)
        _insert(connection, delayed, first, now)
        connection.executemany(
            "INSERT INTO delayed (seq, queue, due, until)"
            " SELECT m.seq, m.queue, ?1, ?1 + d.ttl FROM messages m"
            " LEFT JOIN declared d ON d.queue = m.queue WHERE m.seq = ?2",
            [(parcel.due, seq) for seq, parcel in enumerate(delayed, first)],
        )


def _insert(
    connection: sqlite3.Connection, parcels: Sequence[Parcel], first: int, now: float
) -> None:
    connection.executemany(
        "INSERT INTO messages (seq, id, queue, rank, envelope) SELECT ?1, ?2, ?3, ?4, ?5"
        " WHERE NOT EXISTS (SELECT 1 FROM records WHERE id = ?2 AND expires > ?6)"
        " ON CONFLICT (id, queue) DO NOTHING",
        [
            (seq, parcel.id, parcel.queue, parcel.rank, parcel.packed, now)
            for seq, parcel in enumerate(parcels, first)
        ],
    )


def _take_numbers(connection: sqlite3.Connection, count: int) -> tuple[int, int]:
    """The first of ``count`` new numbers, and the one after the last."""
    [first] = connection.execute("SELECT next FROM counter").fetchone()
    connection.execute("UPDATE counter SET next = ?", (first + count,))
    return first, first + count


# Leases


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
    return _give_back(connection, [seq for (seq,) in rows])


def give_back_claim(connection: sqlite3.Connection, lease: int, claim: int) -> int:
    """Undo a claim whose deliveries reached nobody."""
    rows = connection.execute(
        "SELECT seq FROM held WHERE lease = ? AND claim = ? ORDER BY seq", (lease, claim)
    )
    return _give_back(connection, [seq for (seq,) in rows])


def is_there(connection: sqlite3.Connection, lease: int) -> bool:
    """Whether nobody has swept it. Until then it is its owner's, also when its time is over."""
    found = connection.execute("SELECT 1 FROM leases WHERE number = ?", (lease,)).fetchone()
    return found is not None


def renew_leases(
    connection: sqlite3.Connection,
    incarnation: str,
    queues: Sequence[str],
    now: float,
    seconds: float,
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
        (now + seconds, *wanted),
    )
    return there == len(set(queues))


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


def release_leases(
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
    ended = connection.execute(
        "SELECT number FROM leases WHERE incarnation = ? AND queue = ? AND expires <= ?",
        (incarnation, queue, now),
    )
    leases = (as_json([number for (number,) in ended]),)
    rows = connection.execute(
        "SELECT h.seq, m.suspect FROM held h JOIN messages m ON m.seq = h.seq"
        " WHERE h.lease IN (SELECT value FROM json_each(?)) ORDER BY h.seq",
        leases,
    ).fetchall()
    connection.execute("DELETE FROM held WHERE lease IN (SELECT value FROM json_each(?))", leases)
    connection.execute(
        "DELETE FROM leases WHERE number IN (SELECT value FROM json_each(?))", leases
    )
    seqs = [seq for seq, _ in rows]
    guilty = [seq for seq, suspect in rows if suspect] or seqs
    connection.execute(
        "UPDATE messages SET crashes = crashes + 1 WHERE seq IN (SELECT value FROM json_each(?))",
        (as_json(guilty),),
    )
    connection.execute(
        "UPDATE messages SET suspect = 1 WHERE seq IN (SELECT value FROM json_each(?))",
        (as_json(seqs),),
    )
    append(connection, seqs)
    return len(seqs)


# Claims


class Claim(msgspec.Struct, frozen=True, kw_only=True):
    """What a consumer asks for."""

    queue: str
    lease: int
    number: int
    """Its own among the claims of this lease."""
    limit: int
    admission: Admission


def claim(
    connection: sqlite3.Connection, wanted: Claim, now: float, limits: DeadLimits
) -> list[Row] | None:
    """Take what is due: suspects, as far as there is room for them, and the line in order.

    None when the lease was swept.
    """
    queue, limit = wanted.queue, min(wanted.limit, MAX_BATCH)
    if not is_there(connection, wanted.lease):
        return None
    _move_due(connection, queue, now)
    suspects = _suspects_for(connection, queue, limit, wanted.admission)
    rows = _take(connection, queue, (SUSPECTS, SUSPECTS), suspects) if suspects else []
    for _ in range(ROUNDS):
        if len(rows) >= limit:
            break
        taken = _take(connection, queue, (0, MAX_PRIORITY), limit - len(rows))
        late = bury_late(connection, queue, [(row[0], row[5]) for row in taken], now, limits)
        rows += [row for row in taken if row[0] not in late]
        if not late:
            break
    if rows:
        connection.execute(
            "INSERT INTO held (seq, lease, claim) SELECT value, ?, ? FROM json_each(?)",
            (wanted.lease, wanted.number, as_json([row[0] for row in rows])),
        )
    return rows


def is_something_ready(connection: sqlite3.Connection, queue: str, admission: Admission) -> bool:
    """Whether a claim would bring something, delayed messages aside."""
    row = connection.execute(
        "SELECT 1 FROM ready WHERE queue = ? AND rank < ? LIMIT 1", (queue, SUSPECTS)
    ).fetchone()
    return row is not None or _suspects_for(connection, queue, 1, admission) > 0


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
        "SELECT m.seq, m.suspect, m.crashes, m.id, m.envelope, r.until, r.rank, r.place"
        " FROM ready r CROSS JOIN messages m ON m.seq = r.seq"
        " WHERE r.queue = ? AND r.rank BETWEEN ? AND ? ORDER BY r.rank, r.place LIMIT ?",
        (queue, *ranks, limit),
    ).fetchall()
    # They are the first ones, so they are all up to the last of them, or simply all: what else is
    # there has lost its message to other hands, and would look like work for ever.
    last = rows[-1][6:] if len(rows) == limit else (ranks[1], LAST_PLACE)
    connection.execute(
        "DELETE FROM ready WHERE queue = ? AND rank >= ? AND (rank, place) <= (?, ?)",
        (queue, ranks[0], *last),
    )
    return [row[:6] for row in rows]


def _move_due(connection: sqlite3.Connection, queue: str, now: float) -> None:
    """Let what is due join at the end of its line, in the order it came due."""
    rows = connection.execute(
        "SELECT seq, until FROM delayed WHERE queue = ? AND due <= ? ORDER BY due, seq LIMIT ?",
        (queue, now, MAX_BATCH),
    ).fetchall()
    if rows:
        seqs = [seq for seq, _ in rows]
        connection.execute(
            "DELETE FROM delayed WHERE seq IN (SELECT value FROM json_each(?))", (as_json(seqs),)
        )
        append(connection, seqs, [until for _, until in rows])


def append(
    connection: sqlite3.Connection,
    seqs: Sequence[int],
    untils: Iterable[float | None] = repeat(None),
) -> None:
    """Put these at the end of their lines, in this order."""
    places = range(*_take_numbers(connection, len(seqs)))
    connection.executemany(
        "INSERT INTO ready (queue, rank, place, seq, until)"
        " SELECT queue, rank, ?, seq, ? FROM lines WHERE seq = ?",
        [(place, until, seq) for place, until, seq in zip(places, untils, seqs, strict=False)],
    )


def _give_back(connection: sqlite3.Connection, seqs: Sequence[int]) -> int:
    """Put these, which are held, at the head of their lines, in this order."""
    if seqs:
        connection.execute(
            "DELETE FROM held WHERE seq IN (SELECT value FROM json_each(?))", (as_json(seqs),)
        )
        first, _ = _take_numbers(connection, len(seqs))
        # What is newer comes before what is older, and all that before what was never claimed.
        places = range(1 - first - len(seqs), 1 - first)
        connection.executemany(
            "INSERT INTO ready (queue, rank, place, seq)"
            " SELECT queue, rank, ?, seq FROM lines WHERE seq = ?",
            list(zip(places, seqs, strict=True)),
        )
    return len(seqs)


# Settlements


def still_in_flight(
    connection: sqlite3.Connection, lease: int, tokens: Sequence[Held]
) -> set[tuple[int, int]]:
    """The rows, as (seq, claim), that are this lease's."""
    return set(
        connection.execute(
            "SELECT seq, claim FROM held"
            " WHERE seq IN (SELECT value FROM json_each(?)) AND lease = ?",
            (as_json([token.seq for token in tokens]), lease),
        )
    )


def settle(
    connection: sqlite3.Connection,
    queue: str,
    ours: Sequence[tuple[Held, Settlement, Parcel | None, Burial | None]],
    now: float,
    limits: DeadLimits,
) -> tuple[int, bool]:
    """End these deliveries, which are held.

    Returns how many were given back at once, and whether any was with a delay.
    """
    delayed = False
    acked: list[int] = []
    given_back: list[int] = []
    buried: list[Burial] = []
    for token, settlement, replacement, burial in ours:
        if replacement is not None:
            _replace(connection, token.seq, replacement)
        match settlement:
            case Ack():
                acked.append(token.seq)
            case Nack(delay=delay):
                due = now + delay
                if replacement is not None:
                    due = max(due, replacement.due)
                if due > now:
                    _delay(connection, token.seq, due)
                    delayed = True
                else:
                    given_back.append(token.seq)
            case Reject():
                assert burial is not None  # noqa: S101 - made where the settlement was packed
                buried.append(burial)
            case _:
                assert_never(settlement)
    if acked:
        chosen = (as_json(acked),)
        connection.execute("DELETE FROM held WHERE seq IN (SELECT value FROM json_each(?))", chosen)
        connection.execute(
            "DELETE FROM messages WHERE seq IN (SELECT value FROM json_each(?))", chosen
        )
    bury_in_flight(connection, queue, buried, now, limits)
    _give_back(connection, given_back)
    return len(given_back), delayed


def _replace(connection: sqlite3.Connection, seq: int, replacement: Parcel) -> None:
    connection.execute(
        "UPDATE messages SET envelope = ?1, rank = max(?2, coalesce("
        " (SELECT lowest_rank FROM declared d WHERE d.queue = messages.queue), 0)) WHERE seq = ?3",
        (replacement.packed, replacement.rank, seq),
    )


def _delay(connection: sqlite3.Connection, seq: int, due: float) -> None:
    connection.execute("DELETE FROM held WHERE seq = ?", (seq,))
    connection.execute(
        "INSERT INTO delayed (seq, queue, due) SELECT seq, queue, ? FROM messages WHERE seq = ?",
        (due, seq),
    )
