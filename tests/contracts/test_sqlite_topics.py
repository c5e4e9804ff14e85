"""What is particular to topics in SQLite: what they cost, what they leave, who hears of them."""

import sqlite3
from collections.abc import Generator
from contextlib import AsyncExitStack, closing
from itertools import pairwise
from pathlib import Path

import anyio
import pytest
from anyio import create_task_group, fail_after, to_thread

from asyncq.clock import SystemClock
from asyncq.config import Url
from asyncq.drivers.sqlite import connection as files
from asyncq.drivers.sqlite import items, writer
from asyncq.drivers.sqlite.backend import SqliteBackend
from asyncq.drivers.sqlite.broker import SqliteBroker
from asyncq.drivers.sqlite.ears import SqliteEars
from asyncq.drivers.sqlite.reader import Poll, Reader
from asyncq.seams.topics import Place
from asyncq.testing.contracts.given import PATIENCE, now
from asyncq.testing.contracts.topics import item
from tests.contracts.sqlite_given import backend, broker, path, url
from tests.contracts.test_sqlite_processes import running

__all__ = ["backend", "broker", "path", "url"]  # fixtures


@pytest.fixture
def file(path: Path) -> Generator[sqlite3.Connection]:
    """The file, as other hands have it."""
    with closing(files.connect(str(path))) as file:
        yield file


# What they cost, and leave


def steps_of_an_append(file: sqlite3.Connection, number: int) -> int:
    """What SQLite has to do for one item, in tens of the steps of its machine."""
    steps = 0

    def step() -> int:
        nonlocal steps
        steps += 1
        return 0

    file.set_progress_handler(step, 10)
    items.append(file, [item("t", number)], now())
    file.set_progress_handler(None, 0)
    return steps


def append_many(file: sqlite3.Connection, begin: int, end: int) -> None:
    file.execute("BEGIN")
    for start in range(begin, end, 500):
        items.append(file, [item("t", number) for number in range(start, start + 500)], now())
    file.execute("COMMIT")


def test_a_topic_costs_the_same_however_much_was_appended(file: sqlite3.Connection) -> None:
    append_many(file, 0, 2000)
    [pages] = file.execute("PRAGMA page_count").fetchone()
    steps = steps_of_an_append(file, 2000)

    append_many(file, 2001, 40_001)

    assert file.execute("SELECT count(*) FROM topic_items").fetchone() == (1000,)
    assert file.execute("PRAGMA page_count").fetchone()[0] <= pages + 5
    assert steps_of_an_append(file, 50_000) <= steps + 2


async def test_what_expired_leaves_the_file_bit_by_bit(
    backend: SqliteBackend, file: sqlite3.Connection
) -> None:
    for start in range(0, 1000, 500):
        await backend.append([item("t", n, keep=1e-6) for n in range(start, start + 500)])
        await backend.append([item(f"t{n}", n, keep=1e-6) for n in range(start, start + 500)])

    left: list[int] = []
    for number in range(20):
        await backend.append([item("stays", number)])
        left.append(file.execute("SELECT count(*) FROM topic_items").fetchone()[0])

    assert all(before - after <= items.BITE for before, after in pairwise(left))
    assert left[-1] == 20
    assert file.execute("SELECT count(*) FROM topics").fetchone() == (1,)


async def test_what_was_overtaken_or_forgotten_leaves_the_file_when_queues_are_swept(
    broker: SqliteBroker, backend: SqliteBackend, file: sqlite3.Connection
) -> None:
    for topic in ("overtaken", "forgotten"):
        for start in range(0, 1000, 500):
            await backend.append([item(topic, n) for n in range(start, start + 500)])
    await backend.append([item("overtaken", 1, epoch=2)])
    await backend.forget_topics(["forgotten"])

    for _ in range(20):
        await broker.sweep("mail")

    assert file.execute("SELECT count(*) FROM topic_items").fetchone() == (1,)
    assert file.execute("SELECT name FROM topics").fetchall() == [("overtaken",)]


async def test_an_append_does_not_wait_for_the_disk(
    backend: SqliteBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    durably: list[bool] = []

    def begin(connection: sqlite3.Connection, *, durable: bool) -> None:
        durably.append(durable)
        files.begin(connection, durable=durable)

    monkeypatch.setattr(writer, "begin", begin)
    await backend.append([item("t", 1), item("u", 1)])

    assert durably == [False]


# What other hands put in


@pytest.mark.parametrize("raw", ["text", "", 17, 1.5])
async def test_an_item_that_is_no_bytes_is_left_out(
    backend: SqliteBackend, file: sqlite3.Connection, raw: object
) -> None:
    await backend.append([item("t", number) for number in range(4)])
    file.execute("UPDATE topic_items SET item = ? WHERE number IN (1, 3)", (raw,))
    file.execute("INSERT INTO topic_items SELECT number, 'odd', x'00' FROM topics")
    file.execute("INSERT INTO topic_items SELECT number, 5, x'05' FROM topics")

    assert [each.data for each in await backend.read("t", limit=2)] == [b"1-0", b"1-2"]
    assert [each and each.place for each in await backend.last(["t"])] == [Place(1, 5)]
    await backend.append([item("t", 5)])
    assert [each and each.data for each in await backend.last(["t"])] == [b"1-5"]


@pytest.mark.parametrize("column", ["epoch", "last", "count", "expires"])
@pytest.mark.parametrize("raw", ["text", 1.5, b"\xff"])
async def test_a_topic_that_makes_no_sense_is_begun_anew(
    backend: SqliteBackend, file: sqlite3.Connection, column: str, raw: object
) -> None:
    await backend.append([item("t", 1), item("t", 2)])
    async with backend.listen("t") as ear:
        file.execute(f"UPDATE topics SET {column} = ?", (raw,))
        with fail_after(PATIENCE):
            await ear.wait()

        assert list(await backend.read("t")) == []
        assert list(await backend.last(["t"])) == [None]
        await backend.append([item("t", 1)])

        assert [each.data for each in await backend.read("t")] == [b"1-1"]


# Who hears of them


async def test_event_loops_of_one_process_hear_each_other(backend: SqliteBackend, url: Url) -> None:
    async def append() -> None:
        async with SqliteBackend(url, SystemClock()) as own:
            await own.append([item("t", 1)])

    async def append_in_another_loop() -> None:
        await to_thread.run_sync(anyio.run, append)

    with fail_after(PATIENCE):
        async with backend.listen("t") as ear, create_task_group() as group:
            group.start_soon(append_in_another_loop)
            while not await backend.read("t"):
                await ear.wait()


async def test_many_who_listen_share_one_look_and_hear_another_process_at_once(
    backend: SqliteBackend, url: Url, monkeypatch: pytest.MonkeyPatch
) -> None:
    appends = """
from asyncq.testing.contracts.topics import item
async def main():
    async with SqliteBackend(url, SystemClock()) as backend:
        say("ready")
        while number := await anyio.to_thread.run_sync(hear):
            await backend.append([item(f"t{n}", 1, str(now()).encode()) for n in range(50)])
anyio.run(main)
"""
    polls: list[Poll] = []
    watch = Reader.watch

    def noted(reader: Reader, poll: Poll) -> None:
        polls.append(poll)
        watch(reader, poll)

    monkeypatch.setattr(Reader, "watch", noted)
    late: list[float] = []

    async with AsyncExitStack() as stack:
        ears = [
            (f"t{n % 50}", await stack.enter_async_context(backend.listen(f"t{n % 50}")))
            for n in range(200)
        ]
        with fail_after(PATIENCE):
            async with running(appends, url) as other:
                assert await other.line() == "ready"
                await other.tell()
                for topic, ear in ears:
                    while not (read := await backend.read(topic)):
                        await ear.wait()
                    late.append(now() - float(read[0].data))

    assert [type(poll) for poll in polls] == [SqliteEars]
    assert sorted(late)[len(late) // 2] < 0.5


async def test_who_listens_is_told_when_the_file_cannot_be_read(
    backend: SqliteBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise sqlite3.OperationalError("disk I/O error")

    async with backend.listen("t") as ear:
        monkeypatch.setattr("asyncq.drivers.sqlite.ears.LONGEST_WAIT", PATIENCE * 2)
        monkeypatch.setattr("asyncq.drivers.sqlite.ears.marks", fail)
        with fail_after(PATIENCE):
            await backend.append([item("u", 1)])
            await ear.wait()

        monkeypatch.undo()
        await backend.append([item("t", 1)])
        with fail_after(PATIENCE):
            while not await backend.read("t"):
                await ear.wait()
