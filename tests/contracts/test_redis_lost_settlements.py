"""A Redis that forgets settlements, like a replica that became the master before it heard of them.

The server is killed, and begins again with what it had saved before they were sent. Its clients
find their connections cut, and deliveries in flight that they have settled.
"""

from collections import Counter
from collections.abc import AsyncIterator, Coroutine, Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio import fail_after

from asyncq.app import App
from asyncq.clock import SystemClock
from asyncq.config import Url
from asyncq.drivers.redis.broker import RedisBroker
from asyncq.drivers.redis.connection import Link, RedisStore, Script
from asyncq.drivers.redis.wire import Wire
from asyncq.errors import BrokerUnavailable
from asyncq.language.envelope import Envelope
from asyncq.seams.broker import Ack, Consumer, Delivery, Lease, Nack, QueueSpec
from tests.servers import RedisServer, start_redis

MAIL = QueueSpec("mail")
PATIENCE = 15.0  # seconds
SETTLE = Script("settle").sha.encode()


def envelope(id: str) -> Envelope:
    return Envelope(id=id, queue="mail", body=id.encode())


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    with start_redis(tmp_path) as server:
        yield server


@pytest.fixture
async def broker(server: RedisServer) -> AsyncIterator[RedisBroker]:
    async with RedisBroker(Url(server.url), SystemClock()) as broker:
        yield broker


async def save(server: RedisServer) -> None:
    """What is sent from now on is forgotten when the server is killed."""
    link = Link(RedisStore(Url(server.url)), BrokerUnavailable)
    await link("SAVE")
    link.close()


async def restart(server: RedisServer) -> None:
    await anyio.to_thread.run_sync(server.kill)
    await anyio.to_thread.run_sync(server.start)


async def cut_connections(server: RedisServer) -> None:
    link = Link(RedisStore(Url(server.url)), BrokerUnavailable)
    await link("CLIENT", "KILL", "TYPE", "normal")
    link.close()


async def receive(consumer: Consumer) -> list[Delivery]:
    """What comes at once, however often the connection turns out to be cut before."""
    with fail_after(PATIENCE):
        while True:
            try:
                return list(await consumer.receive(10))
            except BrokerUnavailable:
                await anyio.sleep(0.01)


def ids(deliveries: list[Delivery]) -> list[str]:
    return [delivery.envelope.id for delivery in deliveries]


async def test_what_was_settled_and_is_in_flight_again_is_given_back_and_nothing_else(
    server: RedisServer, broker: RedisBroker
) -> None:
    await broker.publish([envelope("acked"), envelope("running"), envelope("nacked")])
    async with broker.consume(MAIL, Lease("worker", 60.0)) as consumer:
        acked, running, nacked = await consumer.receive(3)
        await save(server)
        await consumer.settle([Ack(acked), Nack(nacked, delay=60.0)])
        await restart(server)

        again = await receive(consumer)

        assert sorted(ids(again)) == ["acked", "nacked"]
        assert await receive(consumer) == []
        assert not await consumer.settle([Ack(each) for each in [running, *again]])
    assert await broker.find(["acked", "running", "nacked"]) == [None, None, None]


async def test_what_is_given_back_so_is_looked_up_and_has_no_crash_to_its_name(
    server: RedisServer, broker: RedisBroker
) -> None:
    await broker.publish([envelope("one")])
    async with broker.consume(MAIL, Lease("worker", 60.0)) as consumer:
        [delivery] = await consumer.receive(1)
        await save(server)
        await consumer.settle([Ack(delivery)])
        await restart(server)

        [again] = await receive(consumer)

        assert (again.suspect, again.crashes) == (True, 0)
        assert not await consumer.settle([Nack(again)])
        [once_more] = await receive(consumer)
        assert not await consumer.settle([Ack(once_more)])
        assert await receive(consumer) == []


@pytest.mark.parametrize("carried_out", [False, True])
async def test_what_is_being_settled_while_the_connection_is_cut_is_not_given_back(
    server: RedisServer, broker: RedisBroker, monkeypatch: pytest.MonkeyPatch, *, carried_out: bool
) -> None:
    real = Wire.ask
    asked, answered = anyio.Event(), anyio.Event()

    def ask(
        self: Wire, questions: bytes, count: int, patience: float
    ) -> Coroutine[Any, Any, list[Any] | None]:
        async def late() -> list[Any] | None:
            replies = await real(self, questions, count, patience) if carried_out else None
            asked.set()
            await answered.wait()
            return replies if carried_out else await real(self, questions, count, patience)

        return late() if SETTLE in questions else real(self, questions, count, patience)

    fenced: list[Delivery] = []
    await broker.publish([envelope("one"), envelope("two")])
    async with (
        broker.consume(MAIL, Lease("worker", 60.0)) as consumer,
        anyio.create_task_group() as group,
    ):
        one, _ = await consumer.receive(2)
        monkeypatch.setattr(Wire, "ask", ask)

        async def settle() -> None:
            while True:
                try:
                    fenced.extend(await consumer.settle([Ack(one)]))
                except BrokerUnavailable:  # it was sent on what has been cut: once more
                    continue
                return

        group.start_soon(settle)
        await asked.wait()
        with fail_after(PATIENCE):
            await cut_connections(server)
            came = await receive(consumer)
        answered.set()

        assert came == []
    assert fenced == []
    assert [each is not None for each in await broker.find(["one", "two"])] == [False, True]


async def test_a_task_whose_outcome_was_lost_so_runs_again_beside_one_that_still_runs(
    server: RedisServer,
) -> None:
    app = App(server.url)
    runs: Counter[str] = Counter()
    begun = anyio.Event()
    gates = {"short": anyio.Event(), "long": anyio.Event()}

    @app.task(name="run")
    async def run(name: str) -> str:
        nonlocal begun
        runs[name] += 1
        begun.set()
        begun = anyio.Event()
        await gates[name].wait()
        return name

    async def until_run(name: str, times: int) -> None:
        with fail_after(PATIENCE):
            while runs[name] < times:
                await begun.wait()

    async with app, app.worker():
        short, long = await run.enqueue("short"), await run.enqueue("long")
        await until_run("short", 1)
        await until_run("long", 1)
        await save(server)
        gates["short"].set()
        assert await short.get(timeout=PATIENCE) == "short"
        await restart(server)

        await until_run("short", 2)
        gates["long"].set()

        assert await long.get(timeout=PATIENCE) == "long"
        assert await app.result(short.id).get(timeout=PATIENCE) == "short"
    assert runs == {"short": 2, "long": 1}
