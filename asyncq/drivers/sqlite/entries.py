"""Entries of the registry in the file: statements, and nothing else.

Other hands may have put anything into a row. An entry whose row makes no sense is none, and a kind
whose count makes none is counted on from what there is.
"""

import sqlite3
from collections.abc import Mapping, Sequence

from asyncq.drivers.sqlite import items, latches
from asyncq.drivers.sqlite.items import Mark
from asyncq.drivers.sqlite.statements import as_json
from asyncq.language.effects import Append, Hold
from asyncq.seams.registry import EPOCH, Entry, Page, change, changes_of

BITE = 20  # entries that have ended removed at a time
MOST = 2**53  # changes of a kind; a greater number is not ours


def put(
    connection: sqlite3.Connection,
    kind: str,
    name: str,
    data: bytes,
    now: float,
    *,
    version: int,
    keep: float | None,
    holds: Sequence[Hold] = (),
) -> tuple[Entry | None, Mapping[str, Mark]]:
    """Returns the entry, if it was written, and where its topic is."""
    if version != _standing(connection, kind, name, now):
        return None, {}
    expire(connection, now)
    if holds:
        latches.apply(connection, holds, now)
    number = _count(connection, kind)
    ends = None if keep is None else now + keep
    connection.execute(
        "INSERT OR REPLACE INTO entries (kind, name, version, ends, data) VALUES (?, ?, ?, ?, ?)",
        (kind, name, number, ends, data),
    )
    news = _tell(connection, change(kind, name, number), now)
    return Entry(kind, name, number, data, ends), news


def remove(
    connection: sqlite3.Connection, kind: str, name: str, version: int | None, now: float
) -> tuple[bool, Mapping[str, Mark]]:
    """Returns whether it was there, and where its topic is."""
    standing = _standing(connection, kind, name, now)
    if not standing or version not in (None, standing):
        return False, {}
    connection.execute("DELETE FROM entries WHERE kind = ? AND name = ?", (kind, name))
    number = _count(connection, kind)
    return True, _tell(connection, change(kind, name, number, is_removed=True), now)


def get(
    connection: sqlite3.Connection, kind: str, names: Sequence[str], now: float
) -> list[Entry | None]:
    rows = connection.execute(
        "SELECT CAST(name AS BLOB), version, ends, data FROM json_each(?) AS asked"
        " CROSS JOIN entries ON kind = ? AND name = asked.value",
        (as_json(names), kind),
    )
    read = (_read(kind, row) for row in rows)
    found = {each.name: each for each in read if each is not None and not each.has_ended(now)}
    return [found.get(name) for name in names]


def page(connection: sqlite3.Connection, kind: str, after: str, limit: int, now: float) -> Page:
    rows = connection.execute(
        "SELECT CAST(name AS BLOB), version, ends, data FROM entries"
        " WHERE kind = ? AND name > ? AND typeof(name) = 'text' ORDER BY name",
        (kind, after),
    )
    found: list[Entry] = []
    further = ""
    for row in rows:
        if (entry := _read(kind, row)) is None:
            continue
        if len(found) == limit:
            further = found[-1].name
            break
        found.append(entry)
    rows.close()
    entries = [each for each in found if not each.has_ended(now)]
    return Page(entries, further, _counted(connection, kind) or 0)


def expire(connection: sqlite3.Connection, now: float) -> None:
    """Remove some of what has ended, so that the file does not grow for ever."""
    connection.execute(
        "DELETE FROM entries WHERE (kind, name) IN"
        " (SELECT kind, name FROM entries WHERE ends <= ? ORDER BY ends LIMIT ?)",
        (now, BITE),
    )


def _standing(connection: sqlite3.Connection, kind: str, name: str, now: float) -> int:
    """The version that stands; 0: there is none."""
    row = connection.execute(
        "SELECT CAST(name AS BLOB), version, ends, data FROM entries WHERE kind = ? AND name = ?",
        (kind, name),
    ).fetchone()
    entry = None if row is None else _read(kind, row)
    return 0 if entry is None or entry.has_ended(now) else entry.version


def _count(connection: sqlite3.Connection, kind: str) -> int:
    """The number of a change that happens now."""
    number = _counted(connection, kind)
    if number is None:
        greatest = connection.execute(
            "SELECT max(version) FROM entries"
            " WHERE kind = ? AND typeof(version) = 'integer' AND version BETWEEN 0 AND ?",
            (kind, MOST),
        ).fetchone()[0]
        place = connection.execute(
            "SELECT max(last) FROM topics"
            " WHERE name = ? AND epoch = ? AND typeof(last) = 'integer' AND last BETWEEN 0 AND ?",
            (changes_of(kind), EPOCH, MOST),
        ).fetchone()[0]
        number = max(greatest or 0, place or 0)
    connection.execute(
        "INSERT OR REPLACE INTO entry_kinds (kind, changes) VALUES (?, ?)", (kind, number + 1)
    )
    return number + 1


def _counted(connection: sqlite3.Connection, kind: str) -> int | None:
    row = connection.execute(
        "SELECT changes FROM entry_kinds"
        " WHERE kind = ? AND typeof(changes) = 'integer' AND changes BETWEEN 0 AND ?",
        (kind, MOST),
    ).fetchone()
    return None if row is None else row[0]


def _tell(connection: sqlite3.Connection, append: Append, now: float) -> Mapping[str, Mark]:
    news = items.append(connection, [append], now)
    if not news:  # others wrote there
        items.forget(connection, [append.topic], now)
        news = items.append(connection, [append], now)
    return news


def _read(kind: str, row: tuple[object, object, object, object]) -> Entry | None:
    """None of what other hands wrote."""
    match row:
        case (bytes(name), int(version), (None | float()) as ends, bytes(data)):
            try:
                return Entry(kind, name.decode(), version, data, ends) if version > 0 else None
            except UnicodeDecodeError:
                return None
        case _:
            return None
