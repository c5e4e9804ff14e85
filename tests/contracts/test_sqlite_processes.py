"""What is particular to SQLite: many processes on one file, without a server between them."""

import sqlite3
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, closing, suppress
from pathlib import Path

from anyio import IncompleteRead, create_task_group, fail_after, open_process
from anyio.abc import Process
from anyio.streams.buffered import BufferedByteReceiveStream

from asyncq.config import Url
from asyncq.drivers.sqlite.backend import SqliteBackend
from asyncq.drivers.sqlite.broker import SqliteBroker
from asyncq.seams.broker import MAX_BATCH, Ack, Consumer, Delivery
from asyncq.seams.feeds import feed_of_blobs, replies_to
from asyncq.testing.contracts.given import (
    MAIL,
    PATIENCE,
    envelopes,
    hear,
    ids_of,
    new_lease,
    now,
    publish_all,
    take,
)
from tests.contracts.sqlite_given import backend, broker, path, url

__all__ = ["backend", "broker", "path", "url"]  # fixtures

# What each of the other processes begins with.
PRELUDE = """
import anyio, sys
from asyncq.drivers.sqlite.backend import SqliteBackend
from asyncq.seams.broker import *
from asyncq.drivers.sqlite.broker import SqliteBroker
from asyncq.clock import SystemClock
from asyncq.config import Url
from asyncq.seams.feeds import *
from asyncq.testing.contracts.given import *
url, arguments = Url(sys.argv[1]), sys.argv[2:]
def say(*words): print(*words, flush=True)
def hear(): return sys.stdin.readline()
"""


async def test_two_processes_never_claim_one_message(broker: SqliteBroker, url: Url) -> None:
    claims = """
async def main():
    async with SqliteBroker(url, SystemClock()) as broker:
        async with broker.consume(MAIL, new_lease()) as consumer:
            say("ready"), hear()
            while taken := await consumer.receive(7):
                say(*ids_of(taken))
                await consumer.settle([Ack(each) for each in taken])
    say("done")
anyio.run(main)
"""
    sent = envelopes(1000)
    await publish_all(broker, sent)

    taken: list[list[str]] = [[], []]
    with fail_after(PATIENCE):
        async with running(claims, url) as one, running(claims, url) as two:
            for other in (one, two):
                assert await other.line() == "ready"
            await one.tell()
            await two.tell()

            async def collect(other: "Other", own: list[str]) -> None:
                while (line := await other.line()) != "done":
                    own += line.split()

            async with create_task_group() as group:
                group.start_soon(collect, one, taken[0])
                group.start_soon(collect, two, taken[1])

    assert sorted(taken[0] + taken[1]) == sorted(ids_of(sent))
    assert taken[0]
    assert taken[1]


async def test_what_was_accepted_outlives_a_killed_publisher(
    broker: SqliteBroker, url: Url
) -> None:
    publishes = """
async def main():
    async with SqliteBroker(url, SystemClock()) as broker:
        while True:
            batch = envelopes(20)
            await broker.publish(batch)
            say(*ids_of(batch))
anyio.run(main)
"""
    accepted: set[str] = set()
    with fail_after(PATIENCE):
        async with running(publishes, url) as other:
            for _ in range(50):
                accepted |= set((await other.line()).split())
            other.process.kill()
            with suppress(IncompleteRead):
                while True:  # what it said before it died
                    accepted |= set((await other.line()).split())

        async with broker.consume(MAIL, new_lease()) as consumer:
            kept = set(ids_of(await _receive_all(consumer)))

    assert len(accepted) >= 1000
    assert accepted <= kept
    assert len(kept) % 20 == 0  # a batch is stored wholly or not at all


async def test_a_message_from_another_process_wakes_who_waits(
    broker: SqliteBroker, url: Url
) -> None:
    publishes = """
async def main():
    async with SqliteBroker(url, SystemClock()) as broker:
        say("ready")
        while await anyio.to_thread.run_sync(hear):
            await broker.publish([envelope()])
anyio.run(main)
"""
    late: list[float] = []
    with fail_after(PATIENCE):
        async with running(publishes, url) as other, broker.consume(MAIL, new_lease()) as consumer:
            assert await other.line() == "ready"
            for _ in range(10):
                async with create_task_group() as group:
                    group.start_soon(other.tell)
                    await consumer.wait()
                [delivery] = await take(consumer, 1)
                late.append(now() - delivery.envelope.sent_at)
                await consumer.settle([Ack(delivery)])

    assert sorted(late)[5] < 0.5


async def test_a_record_from_another_process_is_heard(
    backend: SqliteBackend, url: Url, path: Path
) -> None:
    stores = """
async def main():
    async with SqliteBackend(url, SystemClock()) as backend:
        await backend.store_records([record("1", reply_to="me"), record("2", reply_to="them")])
        await backend.store_records([record("3", reply_to="me", keep=0.0)])
        await backend.store_records([record("1", "again", reply_to="me"), record("4")])
        await backend.store_records([record("5", reply_to="me")])
anyio.run(main)
"""
    with fail_after(PATIENCE):
        async with backend.subscribe(replies_to("me")) as replies, running(stores, url):
            heard: list[str] = []
            while "5" not in heard:
                heard += [each.id for each in await replies.receive()]

    assert heard == ["1", "3", "5"]
    assert list(await backend.fetch(["3"])) == [None]
    with closing(sqlite3.connect(path)) as file:
        assert file.execute("SELECT * FROM pushes").fetchall() == []
        assert file.execute("SELECT * FROM watchers").fetchall() == []


async def test_a_feed_is_heard_in_every_process(
    backend: SqliteBackend, url: Url, path: Path
) -> None:
    joins = """
async def main():
    feed = feed_of_blobs("news", "today")
    async with SqliteBackend(url, SystemClock()) as backend, backend.subscribe(feed) as heard:
        say("subscribed"), hear()
        await backend.push(feed, [b"theirs"])
        items = []
        while b"last" not in items:
            items += await heard.receive()
        say(*[item.decode() for item in items])
    say("left")
anyio.run(main)
"""
    feed, other = feed_of_blobs("news", "today"), feed_of_blobs("news", "today and tomorrow")
    with fail_after(PATIENCE):
        async with (
            backend.subscribe(feed) as one,
            backend.subscribe(feed) as two,
            running(joins, url) as third,
            running(joins, url) as fourth,
        ):
            for process in (third, fourth):
                assert await process.line() == "subscribed"
            await backend.push(other, [b"of another feed"])
            await backend.push(feed, [b"ours"])
            for process in (third, fourth):
                await process.tell()
            for each in (one, two):
                assert sorted(await hear(each, 3)) == [b"ours", b"theirs", b"theirs"]
            await backend.push(feed, [b"last"])
            for process in (third, fourth):
                assert sorted((await process.line()).split()) == [
                    "last",
                    "ours",
                    "theirs",
                    "theirs",
                ]
                assert await process.line() == "left"

    with closing(sqlite3.connect(path)) as file:
        assert file.execute("SELECT * FROM pushes").fetchall() == []
        assert file.execute("SELECT * FROM watchers").fetchall() == []


async def test_a_forked_child_opens_the_file_anew(url: Url) -> None:
    forks = """
import os, warnings
warnings.simplefilter("ignore")
async def in_child():
    async with SqliteBroker(url, SystemClock()) as broker:
        await broker.publish([envelope(b"child")])
def fork():
    child = os.fork()
    if child == 0:
        anyio.run(in_child)
        os._exit(0)
    return child
async def main():
    async with SqliteBroker(url, SystemClock()) as broker:
        await broker.publish([envelope(b"parent")])
        child = await anyio.to_thread.run_sync(fork)
        assert os.waitpid(child, 0)[1] == 0
        await broker.publish([envelope(b"parent")])
        say((await broker.depth("mail")).ready)
anyio.run(main)
"""
    with fail_after(PATIENCE):
        async with running(forks, url) as other:
            assert await other.line() == "3"


async def test_processes_may_make_the_file_at_the_same_moment(url: Url) -> None:
    opens = """
async def main():
    async with SqliteBroker(url, SystemClock()) as broker:
        await broker.publish([envelope()])
say("ready"), hear()
anyio.run(main)
say("done")
"""
    with fail_after(PATIENCE):
        async with running(opens, url) as one, running(opens, url) as two:
            for other in (one, two):
                assert await other.line() == "ready"
            for other in (one, two):
                await other.tell()
            for other in (one, two):
                assert await other.line() == "done"


class Other:
    """Another process, spoken with line by line."""

    def __init__(self, process: Process) -> None:
        assert process.stdout is not None
        self.process = process
        self._heard = BufferedByteReceiveStream(process.stdout)

    async def line(self) -> str:
        """What it says next."""
        return (await self._heard.receive_until(b"\n", 2**20)).decode()

    async def tell(self) -> None:
        assert self.process.stdin is not None
        await self.process.stdin.send(b"go\n")


@asynccontextmanager
async def running(program: str, url: Url) -> AsyncGenerator[Other]:
    command = [sys.executable, "-c", PRELUDE + program, url.reveal()]
    async with await open_process(command, stderr=None) as process:
        try:
            yield Other(process)
        finally:
            if process.returncode is None:
                process.kill()


async def _receive_all(consumer: Consumer) -> list[Delivery]:
    taken: list[Delivery] = []
    while more := await consumer.receive(MAX_BATCH):
        taken += more
    return taken
