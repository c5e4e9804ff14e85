"""Latches in the file: statements, and nothing else.

Other hands may have put anything into a row. A latch whose row makes no sense is none, and neither
is a part.
"""

import sqlite3
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

import msgspec

from asyncq.drivers.latches import NEVER, Latch
from asyncq.drivers.sqlite.statements import as_json
from asyncq.language.effects import Arrive, Hold, Send
from asyncq.language.message import UNREADABLE
from asyncq.seams.ledger import PENDING, SENDER_AWAY, Due, LatchState, Missing, Part, Unsent

FRESH = 0.8 * SENDER_AWAY  # seconds: a sender's time that is not written anew
BITE = 200  # rows of forgotten latches that are removed at a time

T = TypeVar("T")
_encode = msgspec.msgpack.Encoder().encode
_latch = msgspec.msgpack.Decoder(Latch).decode
_part = msgspec.msgpack.Decoder(Part).decode
_send = msgspec.msgpack.Decoder(Send).decode


class Row(msgspec.Struct, gc=False):
    """A latch as it lies in the file, and its parts as `Latch` has them."""

    connection: sqlite3.Connection
    name: str
    number: int
    latch: Latch

    def get(self, name: str) -> Part | None:
        raw = self.connection.execute(
            "SELECT part FROM latch_parts WHERE latch = ? AND name = ?", (self.number, name)
        ).fetchone()
        return None if raw is None else _read(_part, raw[0])

    def __setitem__(self, name: str, part: Part) -> None:
        self.connection.execute(
            "INSERT OR REPLACE INTO latch_parts (latch, name, part) VALUES (?, ?, ?)",
            (self.number, name, _encode(part)),
        )

    def write(self) -> None:
        """It has changed."""
        latch = self.latch
        times = (_moment(latch.look_at), _moment(latch.forget_at))
        self.connection.execute(
            "UPDATE latches SET latch = ?, look_at = ?, forget_at = ? WHERE number = ?",
            (_encode(latch), *times, self.number),
        )


def apply(
    connection: sqlite3.Connection,
    effects: Sequence[Hold | Arrive],
    now: float,
    sender: str | None = None,
) -> list[str]:
    """Returns the latches whose sender this one is then; None: nobody becomes it."""
    expire(connection, now, 2 * len(effects))
    rows: dict[str, Row | None] = {}
    changed: dict[str, Row] = {}
    for effect in effects:
        name = effect.latch
        if name not in rows:
            rows[name] = find(connection, name, now)
        row = rows[name]
        if isinstance(effect, Arrive):
            if row is not None:
                row.latch.arrive(row, effect, now)
                changed[name] = row
        elif row is None:
            rows[name] = _hold(connection, effect, now)
    taken: dict[str, Row] = {}
    for name, row in rows.items():
        if row is None or sender is None:
            continue
        if row.latch.take(sender, now, SENDER_AWAY):
            taken[name] = row
    for row in (changed | taken).values():
        row.write()
    return list(taken)


def _hold(connection: sqlite3.Connection, hold: Hold, now: float) -> Row:
    _part_with(connection, [hold.latch])
    latch = Latch.of(hold, now)
    number = connection.execute(
        "INSERT INTO latches (name, latch, look_at, forget_at) VALUES (?, ?, ?, ?)",
        (hold.latch, _encode(latch), _moment(latch.look_at), _moment(latch.forget_at)),
    ).lastrowid
    assert number is not None  # noqa: S101 - it was inserted
    if not isinstance(hold.parts, int):
        new = _encode(Part())
        connection.executemany(
            "INSERT OR IGNORE INTO latch_parts (latch, name, part) VALUES (?, ?, ?)",
            [(number, name, new) for name in hold.parts],
        )
    for is_failure, sends in enumerate((hold.sends, hold.on_failure)):
        connection.executemany(
            "INSERT INTO latch_sends (latch, is_failure, place, send) VALUES (?, ?, ?, ?)",
            [(number, is_failure, place, _encode(send)) for place, send in enumerate(sends)],
        )
    return Row(connection, hold.latch, number, latch)


def find(connection: sqlite3.Connection, name: str, now: float) -> Row | None:
    found = connection.execute(
        "SELECT number, latch FROM latches WHERE name = ?", (name,)
    ).fetchone()
    if found is None or (latch := _read(_latch, found[1])) is None or latch.forget_at <= now:
        return None
    return Row(connection, name, found[0], latch)


def unsent(
    connection: sqlite3.Connection,
    name: str,
    sender: str,
    limit: int,
    now: float,
    *,
    is_failure: bool,
) -> tuple[Unsent | None, bool]:
    """What this one is to send next, and whether it first has to `take` the latch."""
    row = find(connection, name, now)
    if row is None or not row.latch.is_for(sender, now):
        return None, False
    if row.latch.sender != sender or row.latch.look_at < now + FRESH:
        return None, True
    page = row.latch.page(limit, is_failure=is_failure)
    if page is None:
        return None, False
    found = connection.execute(
        "SELECT send FROM latch_sends WHERE latch = ? AND is_failure = ? AND place >= ?"
        " AND place < ? ORDER BY place",
        (row.number, is_failure, page.start, page.stop),
    )
    sends = [send for (raw,) in found if (send := _read(_send, raw)) is not None]
    return Unsent(name, is_failure, page.start, sends, page.released_at, page.stop), False


def take(connection: sqlite3.Connection, name: str, sender: str, now: float) -> None:
    """Make this one its sender from now on, if it may be."""
    row = find(connection, name, now)
    if row is not None and row.latch.take(sender, now, SENDER_AWAY):
        row.write()


def confirm(connection: sqlite3.Connection, sent: Unsent, now: float) -> None:
    if (row := find(connection, sent.latch, now)) is None:
        return
    if not row.latch.confirm(sent, now):
        return
    connection.execute(
        "DELETE FROM latch_sends WHERE latch = ? AND is_failure = ? AND place < ?",
        (row.number, sent.is_failure, sent.stop),
    )
    row.write()


def is_due(connection: sqlite3.Connection, now: float) -> bool:
    """Whether any is due, or past its time."""
    return bool(
        connection.execute(
            "SELECT EXISTS (SELECT 1 FROM latches WHERE look_at <= ?1)"
            " OR EXISTS (SELECT 1 FROM latches WHERE forget_at <= ?1)",
            (now,),
        ).fetchone()[0]
    )


def due(
    connection: sqlite3.Connection, sender: str, limit: int, lease: float, now: float
) -> list[Due]:
    expire(connection, now)
    names = connection.execute(
        "SELECT name FROM latches WHERE look_at <= ? AND name IS NOT NULL ORDER BY look_at LIMIT ?",
        (now, limit),
    ).fetchall()
    found: list[Due] = []
    for (name,) in names:
        if (row := find(connection, name, now)) is None:
            _part_with(connection, [name])  # it makes no sense
            continue
        found.append(Due(name, row.latch.look(sender, now, lease)))
        row.write()
    return found


def missing(
    connection: sqlite3.Connection, name: str, cursor: str, limit: int, now: float
) -> Missing:
    """The cursor is the number of a part, or behind a colon its name."""
    if (row := find(connection, name, now)) is None:
        return Missing((), "")
    kind, _, after = cursor.partition(":")
    start = int(kind or "0")
    if start < row.latch.count:
        stop = min(start + limit, row.latch.count)
        numbers = [str(number) for number in range(start, stop)]
        arrived = _parts_of(row, numbers)
        names = [each for each in numbers if each not in arrived]
        following = f"{stop}:"
    else:
        rows = connection.execute(
            "SELECT name, part FROM latch_parts WHERE latch = ? AND name > ? ORDER BY name LIMIT ?",
            (row.number, after, limit),
        ).fetchall()
        names = [
            each
            for each, raw in rows
            if (part := _read(_part, raw)) and part.is_member and part.state == PENDING
        ]
        following = f"{start}:{rows[-1][0]}" if len(rows) == limit else ""
    ids = [(each, id) for each in names if (id := row.latch.id_of(each)) is not None]
    return Missing(ids, following)


def parts(
    connection: sqlite3.Connection, name: str, names: Sequence[str], now: float
) -> list[Part | None]:
    row = find(connection, name, now)
    found = {} if row is None else _parts_of(row, names)
    return [found.get(each) for each in names]


def _parts_of(row: Row, names: Sequence[str]) -> dict[str, Part]:
    found = row.connection.execute(
        "SELECT name, part FROM latch_parts"
        " WHERE latch = ? AND name IN (SELECT value FROM json_each(?))",
        (row.number, as_json(names)),
    )
    return {name: part for name, raw in found if (part := _read(_part, raw)) is not None}


def look(
    connection: sqlite3.Connection, names: Sequence[str], now: float
) -> list[LatchState | None]:
    rows = [find(connection, name, now) for name in names]
    return [None if row is None else row.latch.state_at(now) for row in rows]


def forget(connection: sqlite3.Connection, names: Sequence[str], now: float) -> None:
    _part_with(connection, names)
    expire(connection, now)


def expire(connection: sqlite3.Connection, now: float, more: int = 0) -> None:
    """Remove some of what is past its time, so that the file does not grow for ever.

    ``more``: how many latches are to come, at most; so many more go, with a few rows each.
    """
    found = connection.execute(
        "SELECT number FROM latches WHERE forget_at <= ? ORDER BY forget_at LIMIT ?",
        (now, 20 + more),
    ).fetchall()
    rest = BITE + 4 * more
    for (number,) in found:
        for table, key in (("latch_parts", "name"), ("latch_sends", "is_failure, place")):
            rest -= connection.execute(
                f"DELETE FROM {table} WHERE latch = ?1 AND ({key}) IN"  # noqa: S608 - our own words
                f" (SELECT {key} FROM {table} WHERE latch = ?1 LIMIT ?2)",
                (number, max(rest, 0)),
            ).rowcount
        if rest <= 0:
            return
        connection.execute("DELETE FROM latches WHERE number = ?", (number,))


def _part_with(connection: sqlite3.Connection, names: Iterable[str]) -> None:
    """Take its name from a latch, so that another may have it; its rows go bit by bit."""
    connection.executemany(
        "UPDATE latches SET name = NULL, look_at = NULL, forget_at = 0 WHERE name = ?",
        [(name,) for name in names],
    )


def _moment(at: float) -> float | None:
    return None if at == NEVER else at


def _read(decode: Callable[[bytes], T], raw: object) -> T | None:
    """None of what other hands wrote."""
    if not isinstance(raw, bytes):
        return None
    try:
        return decode(raw)
    except UNREADABLE:
        return None
