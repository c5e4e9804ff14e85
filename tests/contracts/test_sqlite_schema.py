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
from asyncq.language.message import End
from asyncq.language.topology import Queue
from asyncq.seams.broker import QueueSpec
from asyncq.seams.packing import pack
from asyncq.testing.contracts.given import new_lease, take

OLD = """
INSERT INTO messages (seq, queue, id, rank, envelope) VALUES (1, 'mail', 'ready', 9, :ready);
INSERT INTO ready (queue, rank, place, seq) VALUES ('mail', 9, 1, 1);
INSERT INTO messages (seq, queue, id, rank, envelope) VALUES (2, 'mail', 'due', 9, :due);
INSERT INTO delayed (seq, queue, due) VALUES (2, 'mail', 1.0);
UPDATE counter SET next = 3;
INSERT INTO progress (id, expires, progress) VALUES ('ready', 1e12, x'00');
"""


SIXTH = """
INSERT INTO messages (seq, queue, id, rank, envelope) VALUES (1, 'mail', 'low', 9, :envelope);
INSERT INTO messages (seq, queue, id, rank, envelope) VALUES (2, 'mail', 'high', 0, :envelope);
INSERT INTO messages (seq, queue, id, rank, envelope, suspect, crashes)
VALUES (3, 'mail', 'suspect', 9, :envelope, 1, 2);
INSERT INTO messages (seq, queue, id, rank, envelope) VALUES (4, 'mail', 'later', 9, :envelope);
INSERT INTO messages (seq, queue, id, rank, envelope) VALUES (5, 'mail', 'held', 9, :envelope);
INSERT INTO messages (seq, queue, id, rank, envelope) VALUES (6, 'mail', 'dead', 9, :envelope);
INSERT INTO ready (queue, rank, place, seq)
VALUES ('mail', 9, 1, 1), ('mail', 0, 2, 2), ('mail', 10, 7, 3);
INSERT INTO delayed (seq, queue, due) VALUES (4, 'mail', 1e12);
INSERT INTO leases (number, incarnation, queue, expires) VALUES (1, 'lost', 'mail', 1.0);
INSERT INTO held (seq, lease, claim) VALUES (5, 1, 1);
INSERT INTO dead (seq, queue, died_at, reason) VALUES (6, 'mail', 1.0, 'bad');
UPDATE counter SET next = 8;
"""


def make_version(path: Path, version: int, content: str, **envelopes: bytes) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as file:
        for step in range(1, version + 1):
            file.executescript((files("asyncq.drivers.sqlite") / f"schema-{step}.sql").read_text())
        file.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        file.execute(f"PRAGMA user_version = {version}")
        for statement in content.split(";"):
            used = {name: blob for name, blob in envelopes.items() if f":{name}" in statement}
            file.execute(statement, used)


def make_first_version(path: Path) -> None:
    ready, due = (
        msgspec.msgpack.encode(Envelope(id=id, queue="mail", body=b"old"))
        for id in ("ready", "due")
    )
    make_version(path, 1, OLD, ready=ready, due=due)


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


async def test_what_version_6_stored_is_where_it_was_and_can_be_doomed(tmp_path: Path) -> None:
    path = tmp_path / "asyncq.db"
    sent = Envelope(id="any", queue="mail", body=b"old", ends=(End("latch", "part"),))
    make_version(path, 6, SIXTH, envelope=pack(sent))
    ids = ["low", "high", "suspect", "later", "held", "dead"]
    waiting = ["suspect", "high", "low", "later"]

    async with SqliteBroker(Url(f"sqlite:///{path}"), SystemClock()) as broker:
        before = await broker.peek("mail")
        places = await broker.find(ids)
        [letter] = await broker.dead_letters("mail")
        assert await broker.purge("mail") == 4
        assert await broker.sweep("mail") == 1
        async with broker.consume(QueueSpec("mail"), new_lease(alone_from=5)) as consumer:
            taken = await take(consumer, 5)

    assert [each.envelope.id for each in before] == waiting
    assert {each.envelope.body for each in before} == {letter.envelope.body} == {b"old"}
    assert [str(place) for place in places] == [*["queued"] * 3, "scheduled", "running", "failed"]
    assert letter.reason == "bad"
    assert {delivery.envelope.id: bool(delivery.verdict) for delivery in taken} == {
        "held": False,
        **dict.fromkeys(waiting, True),
    }
    assert [delivery.crashes for delivery in taken if delivery.suspect] == [2, 1]


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
