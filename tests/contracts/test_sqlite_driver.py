"""What is particular to SQLite: the file, its locks, and what other hands put in.

What every driver promises is in `test_sqlite`, what many processes do in `test_sqlite_processes`.
"""

import sqlite3
import stat
from collections.abc import Generator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio import create_task_group, fail_after, move_on_after, to_thread
from anyio.lowlevel import checkpoint

from asyncq.clock import SystemClock
from asyncq.config import Url
from asyncq.drivers.sqlite import connection as files
from asyncq.drivers.sqlite import forks, subscriptions, writer
from asyncq.drivers.sqlite.backend import SqliteBackend
from asyncq.drivers.sqlite.broker import SqliteBroker
from asyncq.drivers.table import make_broker
from asyncq.errors import BackendUnavailable, BrokerUnavailable, ConfigurationError, Refused
from asyncq.language.envelope import Envelope
from asyncq.seams.broker import MAX_BATCH, Ack, Nack
from asyncq.seams.feeds import replies_to
from asyncq.testing.contracts.given import (
    MAIL,
    PATIENCE,
    bodies_of,
    envelope,
    envelopes,
    ids_of,
    make_suspects,
    new_lease,
    now,
    record,
    take,
)
from tests.contracts.sqlite_given import backend, broker, path, url

__all__ = ["backend", "broker", "path", "url"]  # fixtures


# One process, many event loops


async def test_event_loops_of_one_process_wake_each_other(broker: SqliteBroker, url: Url) -> None:
    async def publish() -> None:
        async with SqliteBroker(url, SystemClock()) as own:
            await own.publish([envelope(b"from another loop")])

    async def publish_in_another_loop() -> None:
        await to_thread.run_sync(anyio.run, publish)

    with fail_after(PATIENCE):
        async with broker.consume(MAIL, new_lease()) as consumer:
            async with create_task_group() as group:
                group.start_soon(publish_in_another_loop)
                await consumer.wait()
            [delivery] = await take(consumer, 1)
            assert delivery.envelope.body == b"from another loop"


async def test_who_leaves_last_closes_the_file(url: Url, path: Path) -> None:
    log = path.with_name("asyncq.db-wal")

    async with SqliteBroker(url, SystemClock()) as broker:
        async with SqliteBackend(url, SystemClock()) as backend:
            assert broker.store == backend.store
            await broker.publish(envelopes(3))
        assert log.exists()
        await broker.publish(envelopes(3))

    assert not log.exists()
    with pytest.raises(BrokerUnavailable, match="not open"):
        await broker.publish(envelopes(3))


# The file


async def test_nothing_is_left_beside_a_file_that_was_closed(url: Url, path: Path) -> None:
    # Its reader and its writer close it, each with a connection of its own.
    for _ in range(100):
        async with SqliteBroker(url, SystemClock()) as broker:
            await broker.publish(envelopes(1))
            await broker.queues()

        assert list(path.parent.iterdir()) == [path]


async def test_the_file_is_for_our_eyes_only(broker: SqliteBroker, path: Path) -> None:
    await broker.publish(envelopes(1))

    for each in path.parent.iterdir():
        assert stat.S_IMODE(each.stat().st_mode) == 0o600


@pytest.mark.parametrize("name", ["asyncq.db", "asyncq.db-wal"])
async def test_a_symbolic_link_is_refused(url: Url, path: Path, name: str) -> None:
    target = path.with_name("target")
    target.touch()
    path.with_name(name).symlink_to(target)

    await refused(url, "symbolic link")

    assert target.read_bytes() == b""


async def test_a_file_that_is_no_database_is_refused_and_left_alone(url: Url, path: Path) -> None:
    text = "dear diary, " * 1000
    await anyio.Path(path).write_text(text)

    await refused(url, "no SQLite database")

    assert await anyio.Path(path).read_text() == text


async def test_the_database_of_another_program_is_refused(url: Url, path: Path) -> None:
    with closing(sqlite3.connect(path)) as file:
        file.execute("CREATE TABLE songs (title)")

    await refused(url, "another program")


async def test_a_newer_schema_is_refused(url: Url, path: Path) -> None:
    async with SqliteBroker(url, SystemClock()):
        pass
    with closing(sqlite3.connect(path)) as file:
        file.execute("PRAGMA user_version = 99")

    await refused(url, "upgrade asyncq")


async def test_a_missing_folder_is_said_to_be_missing(tmp_path: Path) -> None:
    await refused(Url(f"sqlite:///{tmp_path}/nowhere/asyncq.db"), "make it first")


async def test_a_folder_is_no_file(tmp_path: Path) -> None:
    await refused(Url(f"sqlite:///{tmp_path}"), "is not a file")


async def test_a_folder_that_all_may_write_to_is_refused(tmp_path: Path) -> None:
    await anyio.Path(tmp_path).chmod(0o777)

    await refused(Url(f"sqlite:///{tmp_path}/asyncq.db"), "chmod o-w")


async def test_an_old_sqlite_is_refused(url: Url, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite3, "sqlite_version_info", (3, 33, 0))

    await refused(url, "needs 3.34.0 or newer")


def test_an_unknown_option_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="full or normal"):
        make_broker(Url("sqlite:///asyncq.db?synchronous=off"), SystemClock())


# Commits


async def test_what_comes_during_a_commit_shares_the_next_one(
    broker: SqliteBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[bool] = []

    def begin(connection: sqlite3.Connection, *, durable: bool) -> None:
        begun.append(durable)
        files.begin(connection, durable=durable)

    monkeypatch.setattr(writer, "begin", begin)

    async with create_task_group() as group:
        for _ in range(300):
            group.start_soon(broker.publish, envelopes(1))

    assert len(begun) <= 30
    assert (await broker.depth("mail")).ready == 300


async def test_one_failure_does_not_spread_to_what_shared_its_commit(
    broker: SqliteBroker, path: Path
) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as file:
        file.execute(
            "CREATE TRIGGER fault BEFORE INSERT ON messages WHEN new.id = 'bad'"
            " BEGIN SELECT RAISE (ABORT, 'no'); END"
        )
    failed: list[str] = []

    async def publish(each: Envelope) -> None:
        try:
            await broker.publish([each])
        except BrokerUnavailable:
            failed.append(each.id)

    async with create_task_group() as group:
        for number in range(50):
            group.start_soon(publish, envelope(id="bad" if number == 20 else str(number)))

    assert failed == ["bad"]
    assert (await broker.depth("mail")).ready == 49


@pytest.mark.parametrize(("option", "level"), [("", 2), ("?synchronous=normal", 1)])
async def test_what_is_accepted_is_on_the_disk_unless_told_otherwise(
    path: Path, monkeypatch: pytest.MonkeyPatch, option: str, level: int
) -> None:
    levels: list[int] = []

    def begin(connection: sqlite3.Connection, *, durable: bool) -> None:
        files.begin(connection, durable=durable)
        levels.append(connection.execute("PRAGMA synchronous").fetchone()[0])

    async with (
        SqliteBroker(Url(f"sqlite:///{path}{option}"), SystemClock()) as broker,
        broker.consume(MAIL, new_lease()) as consumer,
    ):
        monkeypatch.setattr(writer, "begin", begin)
        await broker.publish(envelopes(1))
        [delivery] = await consumer.receive(1)
        await consumer.settle([Ack(delivery)])

    # A claim need not outlive a power cut: no worker does.
    assert levels[:3] == [level, 1, level]


# Errors


async def test_a_locked_file_is_unavailable_and_comes_back(
    broker: SqliteBroker, backend: SqliteBackend, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "PATIENCE", 0.05)
    renewer = broker.renewer()
    async with broker.consume(MAIL, new_lease()) as consumer:
        with locked(path):
            with pytest.raises(BrokerUnavailable, match="locked"):
                await broker.publish(envelopes(1))
            with pytest.raises(BrokerUnavailable, match="locked"):
                await consumer.receive(1)
            with pytest.raises(BackendUnavailable, match="locked"):
                await backend.store_records([record("1")])
            with pytest.raises(BrokerUnavailable, match="locked"):
                await to_thread.run_sync(renewer.renew, "somebody", ["mail"], 1.0)
            assert list(await backend.fetch(["1"])) == [None]  # reading goes on

        await broker.publish([envelope(b"after")])
        assert bodies_of(await consumer.receive(1)) == [b"after"]
    renewer.close()


async def test_a_full_disk_is_unavailable_and_nothing_is_half_stored(
    url: Url, monkeypatch: pytest.MonkeyPatch
) -> None:
    def connect(path: str) -> sqlite3.Connection:
        connection = files.connect(path)
        connection.execute("PRAGMA max_page_count = 200")
        return connection

    monkeypatch.setattr(forks, "connect", connect)
    stored: list[Envelope] = []

    async def publish_without_end(broker: SqliteBroker) -> None:
        while True:
            batch = envelopes(10, headers={"filler": "x" * 1000})
            await broker.publish(batch)
            stored.extend(batch)

    async with SqliteBroker(url, SystemClock()) as broker:
        with pytest.raises(BrokerUnavailable, match="full") as caught:
            await publish_without_end(broker)

        assert isinstance(caught.value.__cause__, sqlite3.Error)
        assert (await broker.depth("mail")).ready == len(stored)
        async with broker.consume(MAIL, new_lease()) as consumer:
            await consumer.settle([Ack(each) for each in await take(consumer, len(stored))])
        await broker.publish(envelopes(10))  # there is room again


async def test_an_envelope_that_cannot_be_kept_is_refused(broker: SqliteBroker) -> None:
    for bad in (envelope(priority=10), envelope(headers={"what": object()})):
        with pytest.raises(Refused, match=bad.id):
            await broker.publish([envelope(), bad])

    assert (await broker.depth("mail")).ready == 0


# Other hands


@pytest.mark.parametrize("garbage", [b"", b"\xc1\x00garbage", b"\x81\xa2id\x01", "text", 17])
async def test_what_is_no_envelope_is_delivered_as_it_is(
    broker: SqliteBroker, path: Path, garbage: Any
) -> None:
    await broker.publish([envelope(b"first"), envelope(id="bad"), envelope(b"last")])
    with closing(sqlite3.connect(path, isolation_level=None)) as file:
        file.execute("UPDATE messages SET envelope = ? WHERE id = 'bad'", (garbage,))

    async with broker.consume(MAIL, new_lease()) as consumer:
        taken = await take(consumer, 3)
        fenced = await consumer.settle([Ack(each) for each in taken])

    raw = garbage if isinstance(garbage, bytes) else str(garbage).encode()
    assert bodies_of(taken) == [b"first", raw, b"last"]
    assert (taken[1].envelope.id, taken[1].envelope.queue) == ("bad", "mail")
    assert list(fenced) == []


async def test_rows_that_make_no_sense_wedge_nothing(broker: SqliteBroker, path: Path) -> None:
    await broker.publish([envelope(id="gone"), envelope(id="odd"), envelope(b"good")])
    with closing(sqlite3.connect(path, isolation_level=None)) as file:
        file.execute("DELETE FROM messages WHERE id = 'gone'")
        file.execute("UPDATE messages SET id = CAST(x'ff00fe' AS TEXT) WHERE id = 'odd'")

    async with broker.consume(MAIL, new_lease()) as consumer:
        taken = await take(consumer, 2)
        await consumer.settle([Ack(each) for each in taken])
        assert list(await consumer.receive(1)) == []

    assert taken[1].envelope.body == b"good"
    assert (await broker.depth("mail")).ready == 0


# Cancellation


async def test_a_receive_that_is_cancelled_in_a_locked_file_strands_nothing(
    broker: SqliteBroker, path: Path
) -> None:
    await make_suspects(broker, [envelope(id="suspect")])
    await broker.publish(envelopes(3))
    lease = new_lease()

    async with broker.consume(MAIL, lease) as consumer:
        with locked(path), move_on_after(0.05):
            await consumer.receive(10)
        taken = await take(consumer, 4)  # the claim has been made, and undone

        assert sorted(each.suspect for each in taken) == [False, False, False, True]
        assert not lease.quarantine.is_empty


async def test_a_settle_that_is_cancelled_and_repeated_is_not_fenced(
    broker: SqliteBroker, path: Path
) -> None:
    await broker.publish(envelopes(2))
    async with broker.consume(MAIL, new_lease()) as consumer:
        done, back = await take(consumer, 2)
        batch = [Ack(done), Nack(back)]
        with locked(path), move_on_after(0.05):
            await consumer.settle(batch)

        assert list(await consumer.settle(batch)) == []
        assert ids_of(await consumer.settle(batch)) == [done.envelope.id, back.envelope.id]
        assert ids_of(await consumer.receive(10)) == [back.envelope.id]


async def test_leaving_while_the_file_is_locked_gives_back_later(
    broker: SqliteBroker, path: Path
) -> None:
    await broker.publish(envelopes(3))
    with closing(sqlite3.connect(path, isolation_level=None)) as file, fail_after(PATIENCE):
        async with create_task_group() as group, broker.consume(MAIL, new_lease()) as consumer:
            await take(consumer, 3)
            file.execute("BEGIN IMMEDIATE")
            group.start_soon(commit_soon, file)

    assert (await broker.depth("mail")).ready == 3


# Housekeeping


async def test_a_log_that_grew_while_somebody_read_is_cut_again(
    url: Url, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "LOG_LIMIT", 100_000)
    monkeypatch.setattr(files, "CUT_PATIENCE", 0.0)
    monkeypatch.setattr(writer, "CUT_EVERY", 0.0)
    log = path.with_name("asyncq.db-wal")

    async with SqliteBroker(url, SystemClock()) as broker:
        with closing(sqlite3.connect(path, isolation_level=None)) as reader:
            reader.execute("BEGIN")
            reader.execute("SELECT * FROM messages").fetchall()
            for _ in range(20):
                await broker.publish([envelope(b"x" * 100_000)])
            grown = log.stat().st_size
            reader.execute("COMMIT")
        await broker.publish([envelope()])
        await broker.publish([envelope()])  # when this is done, so is the cut after the other one

        assert grown > 2_000_000
        assert log.stat().st_size < 200_000


async def test_expired_records_leave_the_file(backend: SqliteBackend, path: Path) -> None:
    for start in range(0, 1000, MAX_BATCH):
        await backend.store_records(
            [record(str(number), keep=1e-6) for number in range(start, start + MAX_BATCH)]
        )

    for number in range(10):
        await backend.store_records([record(f"new {number}")])

    with closing(sqlite3.connect(path)) as file:
        assert file.execute("SELECT count(*) FROM records").fetchone() == (10,)


async def test_who_listened_and_died_is_forgotten(
    broker: SqliteBroker, backend: SqliteBackend, path: Path
) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as file:
        file.execute("INSERT INTO watchers VALUES ('dead', ?)", (now() + 0.05,))
        await backend.store_records([record(str(n), reply_to="dead") for n in range(300)])
        assert file.execute("SELECT count(*) FROM pushes").fetchone() == (300,)

        with fail_after(PATIENCE):
            while file.execute("SELECT count(*) FROM pushes").fetchone() != (0,):
                await broker.sweep("mail")

        assert file.execute("SELECT count(*) FROM watchers").fetchone() == (0,)


async def test_a_listener_that_was_forgotten_hears_that_it_missed_something(
    backend: SqliteBackend, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subscriptions, "RENEW_EVERY", 0.01)
    with closing(sqlite3.connect(path, isolation_level=None)) as file, fail_after(PATIENCE):
        async with backend.subscribe(replies_to("me")) as replies:
            file.execute("DELETE FROM watchers")

            assert list(await replies.receive()) == []

            assert file.execute("SELECT address FROM watchers").fetchall() == [("me",)]


async def test_an_unread_subscription_is_bounded(
    backend: SqliteBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("asyncq.drivers.subscriptions.SUBSCRIPTION_SIZE", 10)
    async with backend.subscribe(replies_to("me")) as replies:
        await backend.store_records([record(str(n), reply_to="me") for n in range(11)])
        assert list(await replies.receive()) == []

        await backend.store_records([record("next", reply_to="me")])
        assert [each.id for each in await replies.receive()] == ["next"]


@contextmanager
def locked(path: Path) -> Generator[None]:
    """Hold the write lock as another process would."""
    with closing(sqlite3.connect(path, isolation_level=None)) as file:
        file.execute("BEGIN IMMEDIATE")
        yield
        file.execute("COMMIT")


async def commit_soon(file: sqlite3.Connection) -> None:
    for _ in range(100):  # the other side gets as far as it can
        await checkpoint()
    file.execute("COMMIT")


async def refused(url: Url, why: str) -> None:
    """Broker and backend say why this file will not do, and so does a renewer."""
    for driver in (SqliteBroker(url, SystemClock()), SqliteBackend(url, SystemClock())):
        with pytest.raises(ConfigurationError, match=why):
            async with driver:
                pytest.fail("it was opened")
    renewer = SqliteBroker(url, SystemClock()).renewer()
    with pytest.raises(ConfigurationError, match=why):
        await to_thread.run_sync(renewer.renew, "somebody", ["mail"], 1.0)
    renewer.close()
