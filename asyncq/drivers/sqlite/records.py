"""Records in the file: statements, and nothing else."""

import sqlite3
from collections.abc import Callable, Sequence
from typing import Any

from asyncq.drivers.sqlite.statements import as_json
from asyncq.language.record import Record
from asyncq.seams.records import encode_record, read_record

BITE = 200  # expired rows removed at a time: more than a batch adds, and soon done

Packed = tuple[Record, bytes]  # a record, and its bytes


def pack(record: Record) -> Packed:
    return record, encode_record(record)


def keep(
    connection: sqlite3.Connection,
    batch: Sequence[Packed],
    now: float,
    is_here: Callable[[str], bool],
) -> tuple[list[Record], list[Record]]:
    """Store the first record of each id; returns those that are new, and those that stood before.

    What is for an address that ``is_here`` does not know, and another process listens to, is laid
    out for that process.
    """
    expire(connection, now)
    standing = _kept(connection, "record", [record.id for record, _ in batch], now)
    new: dict[str, Packed] = {}
    for record, packed in batch:
        if record.id not in standing:
            new.setdefault(record.id, (record, packed))
    connection.executemany(
        "INSERT INTO records (id, expires, record) VALUES (?, ?, ?)"
        " ON CONFLICT (id) DO UPDATE SET expires = excluded.expires, record = excluded.record",
        [
            (record.id, now + record.keep, packed)
            for record, packed in new.values()
            if record.keep > 0
        ],
    )
    abroad = [
        (record.reply_to, packed)
        for record, packed in new.values()
        if record.reply_to is not None and not is_here(record.reply_to)
    ]
    if abroad:
        connection.executemany(
            "INSERT INTO pushes (address, record) SELECT ?1, ?2"
            " WHERE EXISTS (SELECT 1 FROM watchers WHERE address = ?1)",
            abroad,
        )
    stood = [read_record(id, raw) for id, raw in standing.items()]
    return [record for record, _ in new.values()], stood


def _kept(
    connection: sqlite3.Connection, column: str, ids: Sequence[str], now: float
) -> dict[str, Any]:
    """By id, this column of the rows that have not expired."""
    rows = connection.execute(
        f"SELECT id, {column} FROM records"  # noqa: S608 - our own words
        " WHERE id IN (SELECT value FROM json_each(?)) AND expires > ?",
        (as_json(ids), now),
    )
    return dict(rows)


def fetch(connection: sqlite3.Connection, ids: Sequence[str], now: float) -> dict[str, object]:
    return _kept(connection, "record", ids, now)


def forget(connection: sqlite3.Connection, ids: Sequence[str]) -> None:
    chosen = (as_json(ids),)
    connection.execute("DELETE FROM records WHERE id IN (SELECT value FROM json_each(?))", chosen)


def expire(connection: sqlite3.Connection, now: float) -> None:
    """Remove some of what is past its time, so that the file does not grow for ever."""
    connection.execute(
        "DELETE FROM records WHERE number IN"
        " (SELECT number FROM records WHERE expires <= ? ORDER BY expires LIMIT ?)",
        (now, BITE),
    )


def expire_watchers(connection: sqlite3.Connection, now: float) -> None:
    """Forget processes that listened and died, and what was laid out for them."""
    connection.execute("DELETE FROM watchers WHERE expires <= ?", (now,))
    connection.execute(
        "DELETE FROM pushes WHERE number IN (SELECT number FROM pushes"
        " WHERE address NOT IN (SELECT address FROM watchers) LIMIT ?)",
        (BITE,),
    )
