"""What statements have in common: many values bound as one, and rows removed by their numbers."""

import sqlite3
from collections.abc import Collection

import msgspec


def as_json(values: Collection[str] | Collection[int]) -> str:
    """A list as SQLite's ``json_each`` takes it: one value to bind, however many there are."""
    return msgspec.json.encode(values).decode()


def remove(connection: sqlite3.Connection, seqs: Collection[int], *tables: str) -> None:
    """Take the rows of these messages out of these tables."""
    chosen = (as_json(seqs),)
    for table in tables:
        connection.execute(
            f"DELETE FROM {table} WHERE seq IN (SELECT value FROM json_each(?))",  # noqa: S608 - our own words
            chosen,
        )
