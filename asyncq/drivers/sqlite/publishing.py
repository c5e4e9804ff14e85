"""Publishing in the file: how messages come into it, as far as there is room. Statements."""

import sqlite3
from collections.abc import Collection, Mapping, Sequence

import msgspec

from asyncq.drivers.sqlite.declared import Bounds, bounds_of, drop_head, without_room
from asyncq.drivers.sqlite.envelopes import Packed
from asyncq.drivers.sqlite.lines import take_numbers
from asyncq.errors import QueueFull
from asyncq.seams.dead import DeadLimits


def publish(
    connection: sqlite3.Connection, batch: Sequence[Packed], now: float, limits: DeadLimits
) -> list[QueueFull]:
    """Store what is new, in order; returns what there was no room for."""
    names = {each.queue for each in batch}
    bounds = bounds_of(connection, names)
    full: list[QueueFull] = []
    if bounds:
        batch, full = _within_bounds(connection, batch, bounds, now)
    _store(connection, batch, names, now)
    for each in bounds.values():
        drop_head(connection, each, now, limits)
    return full


def _within_bounds(
    connection: sqlite3.Connection,
    batch: Sequence[Packed],
    bounds: Mapping[str, Bounds],
    now: float,
) -> tuple[list[Packed], list[QueueFull]]:
    """What may be stored, as it may be, and what there is no room for."""
    full: list[QueueFull] = []
    for queue, bound in bounds.items():
        ids = [each.id for each in batch if each.queue == queue and not each.due > now]
        if refused := without_room(connection, bound, ids, now):
            full.append(QueueFull(refused, queue, bound.max_length or 0))
    refusals = {(error.queue, id) for error in full for id in error.envelope_ids}
    kept = [
        msgspec.structs.replace(each, rank=max(each.rank, bounds[each.queue].lowest_rank))
        if each.queue in bounds
        else each
        for each in batch
        if (each.queue, each.id) not in refusals
    ]
    return kept, full


def _store(
    connection: sqlite3.Connection, batch: Sequence[Packed], names: Collection[str], now: float
) -> None:
    connection.executemany(
        "INSERT INTO queues (name) VALUES (?) ON CONFLICT DO NOTHING",
        [(name,) for name in names],
    )
    ready = [each for each in batch if not each.due > now]
    delayed = [each for each in batch if each.due > now]
    first = take_numbers(connection, len(batch))
    after = first + len(ready)
    connection.executemany(
        "INSERT INTO messages (seq, id, queue, rank, envelope) SELECT ?1, ?2, ?3, ?4, ?5"
        " WHERE NOT EXISTS (SELECT 1 FROM records WHERE id = ?2 AND expires > ?6)"
        " ON CONFLICT (id, queue) DO NOTHING",
        [
            (seq, each.id, each.queue, each.rank, each.packed, now)
            for seq, each in enumerate([*ready, *delayed], first)
        ],
    )
    connection.execute(
        "INSERT INTO ready (queue, rank, place, seq, until)"
        " SELECT m.queue, m.rank, m.seq, m.seq, ? + d.ttl FROM messages m"
        " LEFT JOIN declared d ON d.queue = m.queue WHERE m.seq >= ? AND m.seq < ?",
        (now, first, after),
    )
    if delayed:
        connection.executemany(
            "INSERT INTO delayed (seq, queue, due, until)"
            " SELECT m.seq, m.queue, ?1, ?1 + d.ttl FROM messages m"
            " LEFT JOIN declared d ON d.queue = m.queue WHERE m.seq = ?2",
            [(each.due, seq) for seq, each in enumerate(delayed, after)],
        )
