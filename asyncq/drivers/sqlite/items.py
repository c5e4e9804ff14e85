"""Topics and their items in the file: statements, and nothing else.

Other hands may have put anything into a row. A topic whose row makes no sense is begun anew, and an
item that holds no bytes is left out.
"""

import math
import sqlite3
from collections.abc import Mapping, Sequence

import msgspec

from asyncq.drivers.sqlite.statements import as_json
from asyncq.language.effects import Append
from asyncq.seams.topics import Item, Place

BITE = 200  # items of topics that are gone removed at a time, and one more for each that comes
LEEWAY = 1 / 16  # of its time by which a topic may stay longer: its end need not move each time

Mark = tuple[object, object, object]
"""Where a topic is: its row, the epoch and the number of its last item. Another one is news."""


class _Topic(msgspec.Struct, frozen=True, gc=False):
    row: int
    epoch: int
    last: int
    count: int
    expires: float


def append(
    connection: sqlite3.Connection, appends: Sequence[Append], now: float
) -> Mapping[str, Mark]:
    """Append what is later than all in its topic; returns where the topics are that have news."""
    expire(connection, now, BITE + len(appends))
    by_topic: dict[str, list[Append]] = {}
    for each in appends:
        by_topic.setdefault(each.topic, []).append(each)
    news: dict[str, Mark] = {}
    for name, own in by_topic.items():
        if (mark := _append(connection, name, own, now)) is not None:
            news[name] = mark
    return news


def _append(
    connection: sqlite3.Connection, name: str, appends: Sequence[Append], now: float
) -> Mark | None:
    topic = _find(connection, name, now)
    new, count = _later(topic, appends)
    if not new:
        return None
    last = new[-1]
    if topic is None or topic.epoch < last.epoch:
        _part(connection, name)  # one that is overtaken, is past its time, or makes no sense
        topic = None
    kept = new[max(0, len(new) - count) :]
    if topic is None:
        number = connection.execute(
            "INSERT INTO topics (name, epoch, last, count, expires) VALUES (?, ?, ?, ?, ?)",
            (name, last.epoch, last.number, count, _end(now, last.keep)),
        ).lastrowid
    else:
        number = topic.row
        connection.execute(
            "UPDATE topics SET last = ?, count = ? WHERE number = ?", (last.number, count, number)
        )
        _lengthen(connection, topic, now, last.keep)
        if (excess := topic.count + len(kept) - count) > 0:
            connection.execute(
                "DELETE FROM topic_items WHERE topic = ?1 AND number IN"
                " (SELECT number FROM topic_items WHERE topic = ?1 ORDER BY number LIMIT ?2)",
                (number, excess),
            )
    connection.executemany(
        "INSERT OR REPLACE INTO topic_items (topic, number, item) VALUES (?, ?, ?)",
        [(number, each.number, each.item) for each in kept],
    )
    return number, last.epoch, last.number


def _later(topic: _Topic | None, appends: Sequence[Append]) -> tuple[list[Append], int]:
    """What is to be appended, and how many items the topic has then."""
    place = None if topic is None else Place(topic.epoch, topic.last)
    count = 0 if topic is None else topic.count
    new: list[Append] = []
    for each in appends:
        here = Place(each.epoch, each.number)
        if place is not None and here <= place:
            continue
        if place is not None and here.epoch > place.epoch:
            new.clear()
            count = 0
        new.append(each)
        count = min(count + 1, each.most)
        place = here
    return new, count


def _lengthen(connection: sqlite3.Connection, topic: _Topic, now: float, keep: float) -> None:
    if not now + keep <= topic.expires <= _end(now, keep):
        connection.execute(
            "UPDATE topics SET expires = ? WHERE number = ?", (_end(now, keep), topic.row)
        )


def _end(now: float, keep: float) -> float:
    return now + keep * (1 + LEEWAY)


def read(
    connection: sqlite3.Connection, name: str, after: Place | None, limit: int, now: float
) -> list[Item]:
    topic = _find(connection, name, now)
    if topic is None or (after is not None and after.epoch > topic.epoch):
        return []
    begin = after.number if after is not None and after.epoch == topic.epoch else -math.inf
    rows = connection.execute(
        "SELECT number, item FROM topic_items WHERE topic = ? AND number > ?"
        " AND typeof(number) = 'integer' AND typeof(item) = 'blob' ORDER BY number LIMIT ?",
        (topic.row, begin, limit),
    )
    return [Item(Place(topic.epoch, number), item) for number, item in rows]


def read_last(
    connection: sqlite3.Connection, names: Sequence[str], now: float
) -> list[Item | None]:
    return [_last(connection, name, now) for name in names]


def _last(connection: sqlite3.Connection, name: str, now: float) -> Item | None:
    topic = _find(connection, name, now)
    if topic is None:
        return None
    row = connection.execute(
        "SELECT number, item FROM topic_items WHERE topic = ?"
        " AND typeof(number) = 'integer' AND typeof(item) = 'blob' ORDER BY number DESC LIMIT 1",
        (topic.row,),
    ).fetchone()
    return None if row is None else Item(Place(topic.epoch, row[0]), row[1])


def forget(connection: sqlite3.Connection, names: Sequence[str], now: float) -> None:
    for name in names:
        _part(connection, name)
    expire(connection, now)


def expire(connection: sqlite3.Connection, now: float, bite: int = BITE) -> None:
    """Remove some of what is past its time, so that the file does not grow for ever."""
    gone: list[int] = []
    rest = bite
    for row, count in connection.execute(
        "SELECT number, CAST(count AS INTEGER) FROM topics WHERE expires <= ? ORDER BY expires",
        (now,),
    ):
        gone.append(row)
        rest -= max(1, count)
        if rest <= 0:
            break
    if not gone:
        return
    chosen = as_json(gone)
    connection.execute(
        "DELETE FROM topic_items WHERE (topic, number) IN (SELECT i.topic, i.number"
        " FROM json_each(?) AS gone CROSS JOIN topic_items AS i ON i.topic = gone.value LIMIT ?)",
        (chosen, bite),
    )
    connection.execute(
        "DELETE FROM topics WHERE number IN (SELECT value FROM json_each(?))"
        " AND NOT EXISTS (SELECT 1 FROM topic_items WHERE topic = topics.number)",
        (chosen,),
    )


def marks(connection: sqlite3.Connection, names: Sequence[str]) -> Mapping[str, Mark]:
    """Where those of these topics are that there are."""
    rows = connection.execute(
        "SELECT name, number, epoch, last FROM json_each(?) AS asked"
        " CROSS JOIN topics ON name = asked.value",
        (as_json(names),),
    )
    return {name: (number, epoch, last) for name, number, epoch, last in rows}


def _find(connection: sqlite3.Connection, name: str, now: float) -> _Topic | None:
    row = connection.execute(
        "SELECT number, epoch, last, count, expires FROM topics WHERE name = ?", (name,)
    ).fetchone()
    match row:
        case (int(number), int(epoch), int(last), int(count), float(expires)) if expires > now:
            return _Topic(number, epoch, last, count, expires)
        case _:
            return None


def _part(connection: sqlite3.Connection, name: str) -> None:
    """Take its name from a topic, so that another may have it; its items go bit by bit."""
    connection.execute("UPDATE topics SET name = NULL, expires = 0 WHERE name = ?", (name,))
