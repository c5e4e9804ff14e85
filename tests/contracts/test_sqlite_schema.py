"""The tables of the SQLite file: a file of an older asyncq is brought up to date."""

import sqlite3
from contextlib import closing
from importlib.resources import files
from pathlib import Path

import msgspec
import pytest

from asyncq.clock import SystemClock
from asyncq.config import Url
from asyncq.drivers.sqlite.broker import SqliteBroker
from asyncq.drivers.sqlite.connection import APPLICATION_ID, SCHEMA_VERSION, connect
from asyncq.errors import QueueFull
from asyncq.language.envelope import Envelope
from asyncq.language.topology import Queue
from asyncq.seams.broker import QueueSpec
from asyncq.testing.contracts.given import new_lease, take

OLD = """
INSERT INTO messages (seq, queue, id, rank, envelope) VALUES (1, 'mail', 'ready', 9, :ready);
INSERT INTO ready (queue, rank, place, seq) VALUES ('mail', 9, 1, 1);
INSERT INTO messages (seq, queue, id, rank, envelope) VALUES (2, 'mail', 'due', 9, :due);
INSERT INTO delayed (seq, queue, due) VALUES (2, 'mail', 1.0);
UPDATE counter SET next = 3;
INSERT INTO progress (id, expires, progress) VALUES ('ready', 1e12, x'00');
"""


def make_first_version(path: Path) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as file:
        file.executescript((files("asyncq.drivers.sqlite") / "schema-1.sql").read_text())
        file.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        file.execute("PRAGMA user_version = 1")
        packed = {
            id: msgspec.msgpack.encode(Envelope(id=id, queue="mail", body=b"old"))
            for id in ("ready", "due")
        }
        for statement in OLD.split(";"):
            used = {id: blob for id, blob in packed.items() if f":{id}" in statement}
            file.execute(statement, used)


async def test_what_an_older_version_stored_is_delivered_and_can_be_bounded(
    tmp_path: Path,
) -> None:
    path = tmp_path / "asyncq.db"
    make_first_version(path)

    async with SqliteBroker(Url(f"sqlite:///{path}"), SystemClock()) as broker:
        await broker.declare([Queue("mail", max_length=1, ttl=1.0, single_active=True)])
        with pytest.raises(QueueFull):
            await broker.publish([Envelope(id="new", queue="mail", body=b"")])
        async with broker.consume(QueueSpec("mail"), new_lease()) as consumer:
            taken = await take(consumer, 2)

    assert {delivery.envelope.id for delivery in taken} == {"ready", "due"}
    assert all(delivery.envelope.body == b"old" for delivery in taken)


def test_every_way_to_the_present_version_ends_in_the_same_tables(tmp_path: Path) -> None:
    old, new = tmp_path / "old.db", tmp_path / "new.db"
    make_first_version(old)

    schemas: list[set[tuple[str, ...]]] = []
    for path in (old, new):
        with closing(connect(str(path))) as file:
            columns = file.execute(
                "SELECT m.type, m.name, c.name, c.type"
                " FROM sqlite_master m LEFT JOIN pragma_table_info(m.name) c"
            )
            schemas.append(set(columns))
            assert file.execute("PRAGMA user_version").fetchone() == (SCHEMA_VERSION,)

    assert schemas[0] == schemas[1]
