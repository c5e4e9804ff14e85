"""A worker inside of a program: how it begins, how it ends, and whose errors come out."""

import logging
from collections.abc import Sequence
from typing import Any

import anyio
import pytest
from anyio import fail_after
from anyio.lowlevel import checkpoint

from asyncq.app import App
from asyncq.client.context import Context
from asyncq.drivers import table as drivers
from asyncq.drivers.memory.broker import MemoryBroker, MemoryConsumer
from asyncq.drivers.memory.store import open_store
from asyncq.errors import BrokerUnavailable
from asyncq.language.message import Status, new_id
from asyncq.language.policies import Retry
from asyncq.seams.broker import Delivery, Lease, QueueSpec
from tests.client.given import PATIENCE, Gate, until, until_status


class Broken(Exception):
    """The body's own."""


async def test_an_error_of_the_body_comes_out_as_itself_and_after_a_drain(app: App) -> None:
    gate = Gate()
    ended: list[str] = []

    @app.task
    async def work() -> None:
        await gate.pass_through()
        ended.append("task")

    async def body() -> None:
        async with app, app.worker():
            await work.enqueue()
            await gate.until_reached()
            gate.open()
            raise Broken("mine")

    with pytest.raises(Broken, match="mine") as caught:
        await body()

    assert ended == ["task"]
    assert type(caught.value) is Broken


async def test_a_body_that_is_cancelled_ends_the_worker_and_gives_back(app: App) -> None:
    gate = Gate()

    @app.task
    async def work() -> None:
        await gate.pass_through()

    async with app:
        result = await work.enqueue()
        with fail_after(PATIENCE), anyio.CancelScope() as scope:
            async with app.worker(grace=30.0):
                await gate.until_reached()
                scope.cancel()
                await anyio.sleep_forever()

        assert await result.status() is Status.QUEUED


async def test_hooks_run_around_the_tasks_and_share_the_workers_state(app: App) -> None:
    told: list[str] = []

    @app.on_startup
    async def connect(state: dict[str, Any]) -> None:
        await anyio.lowlevel.checkpoint()
        state["database"] = "open"
        told.append("started")

    @app.on_startup
    def count(state: dict[str, Any]) -> None:
        state["count"] = 0

    @app.on_shutdown
    async def disconnect(state: dict[str, Any]) -> None:
        await anyio.lowlevel.checkpoint()
        told.append(f"stopped after {state['count']}")

    @app.task
    async def use(ctx: Context) -> str:
        ctx.state["count"] += 1
        return ctx.state["database"]

    async with app.worker():
        assert told == ["started"]
        for _ in range(2):
            assert await (await use.enqueue()).get(timeout=PATIENCE) == "open"

    assert told == ["started", "stopped after 2"]


async def test_what_was_opened_is_closed_also_when_a_later_hook_fails(app: App) -> None:
    told: list[str] = []

    @app.on_startup
    async def first(state: dict[str, Any]) -> None:
        told.append("opened")

    @app.on_startup
    async def second(state: dict[str, Any]) -> None:
        raise Broken

    @app.on_shutdown
    async def close(state: dict[str, Any]) -> None:
        told.append("closed")

    with pytest.raises(Broken):
        async with app.worker():
            told.append("never")

    assert told == ["opened", "closed"]


async def test_a_shutdown_hook_that_fails_keeps_no_other_from_running(app: App) -> None:
    told: list[str] = []

    @app.on_shutdown
    async def first(state: dict[str, Any]) -> None:
        told.append("first")
        raise Broken

    @app.on_shutdown
    def second(state: dict[str, Any]) -> None:
        told.append("second")

    with pytest.raises(Broken):
        async with app.worker():
            pass

    assert told == ["first", "second"]


async def test_shutdown_hooks_run_when_the_worker_is_cancelled(app: App) -> None:
    told: list[str] = []

    @app.on_shutdown
    async def close(state: dict[str, Any]) -> None:
        await anyio.lowlevel.checkpoint()
        told.append("closed")

    async with app, anyio.create_task_group() as group:
        await group.start(app.make_worker().run)
        group.cancel_scope.cancel()

    assert told == ["closed"]


async def test_a_worker_consumes_the_queues_of_the_apps_tasks(app: App) -> None:
    @app.task(queue="mail")
    async def mail() -> str:
        return "mail"

    @app.task
    async def other() -> str:
        return "other"

    assert app.queues.declared == ["default", "mail"]
    async with app.worker():
        assert await (await mail.enqueue()).get(timeout=PATIENCE) == "mail"
        assert await (await other.enqueue()).get(timeout=PATIENCE) == "other"


async def test_a_burst_ends_when_all_queues_are_empty(app: App) -> None:
    @app.task(queue="first")
    async def root(depth: int) -> None:
        if depth:
            await leaf.enqueue(depth - 1)

    @app.task(queue="second")
    async def leaf(depth: int) -> None:
        if depth:
            await root.enqueue(depth - 1)

    async with app:
        result = await root.enqueue(0)
        with fail_after(PATIENCE):
            await app.make_worker(burst=True).run()
        assert await result.status() is Status.SUCCEEDED

        broker = app.client.broker
        assert isinstance(broker, MemoryBroker)
        await app.enqueue_many(root.s(0) for _ in range(50))
        with fail_after(PATIENCE):
            await app.make_worker(burst=True, concurrency=3).run()
        assert (await broker.depth("first")).ready == 0


async def test_a_burst_goes_on_while_one_queue_finds_something_for_another(
    app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    @app.task(queue="first")
    async def root() -> None:
        await leaf.enqueue()

    @app.task(queue="second")
    async def leaf() -> str:
        return "ran"

    looks: dict[str, int] = {"first": 0, "second": 0}
    receive = MemoryConsumer.receive

    async def send_at_the_last_look(consumer: MemoryConsumer, limit: int) -> Sequence[Delivery]:
        name = (
            "first" if vars(consumer)["_queue"] is open_store(app.url).queue("first") else "second"
        )
        looks[name] += 1
        if name == "first" and looks["first"] == 2:
            await until(lambda: looks["second"] == 2)
            for _ in range(10):  # it has looked for the last time, and could be gone
                await checkpoint()
            await root.enqueue()
        return await receive(consumer, limit)

    monkeypatch.setattr(MemoryConsumer, "receive", send_at_the_last_look)
    async with app:
        with fail_after(PATIENCE):
            await app.make_worker(burst=True).run()
        broker = app.client.broker
        assert isinstance(broker, MemoryBroker)
        assert (await broker.depth("second")).ready == 0
    assert looks["second"] > 2


async def test_two_workers_share_a_queue(app: App) -> None:
    @app.task
    async def where(ctx: Context) -> int:
        await anyio.lowlevel.checkpoint()
        return id(ctx.state)

    with fail_after(PATIENCE):
        async with app.worker(concurrency=1) as one, app.worker(concurrency=1) as other:
            results = await app.enqueue_many(where.s() for _ in range(100))
            places = {await result for result in results}

    assert one.name != other.name
    assert len(places) == 2


async def test_a_worker_waits_for_a_broker_that_is_not_there_yet(
    app: App, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Late(MemoryBroker):
        away = 3

        def consume(self, queue: QueueSpec, lease: Lease) -> Any:
            if Late.away:
                Late.away -= 1
                raise BrokerUnavailable("not yet")
            return super().consume(queue, lease)

    monkeypatch.setattr("tests.worker.faulty.FaultyBroker", Late)
    monkeypatch.setitem(drivers.BROKERS, "faulty", "tests.worker.faulty:FaultyBroker")
    monkeypatch.setattr("asyncq.outages.AWAY", Retry(times=0, base=0.001))
    name = new_id()
    app = App(f"faulty://{name}", backend=f"memory://{name}")

    @app.task
    async def one() -> int:
        return 1

    with caplog.at_level(logging.WARNING):
        async with app.worker():
            assert await (await one.enqueue()).get(timeout=PATIENCE) == 1

    assert caplog.text.count("cannot consume, trying again: not yet") == 1  # not every time round


async def test_an_unknown_task_goes_back_and_waits_for_a_newer_worker(
    app: App, caplog: pytest.LogCaptureFixture
) -> None:
    newer = App(app.url.reveal())

    @newer.task(name="new")
    async def new() -> str:
        return "done"

    app.config = type(app.config)(unknown_delay=0.01)
    async with newer, app:
        result = await new.enqueue()
        async with app.worker(queues=["default"]):
            await until_status(result, Status.SCHEDULED)
        async with newer.worker():
            assert await result.get(timeout=PATIENCE) == "done"

    assert "requeued with a delay of 0.01 s: UnknownTask: no task named 'new' here" in caplog.text


async def test_an_unknown_task_is_told_with_the_one_that_may_be_meant(
    app: App, caplog: pytest.LogCaptureFixture
) -> None:
    sender = App(app.url.reveal())

    @sender.task(name="app.add")
    async def add() -> None: ...

    for known in ("shop.app.add", "app.odd"):
        app.task(name=known)(add.function)
    async with sender, app:
        result = await add.enqueue()
        async with app.worker(queues=["default"]):
            await until_status(result, Status.SCHEDULED)

    assert "no task named 'app.add' here (do you mean shop.app.add?)" in caplog.text


async def test_an_unknown_task_is_a_dead_letter_in_the_end(app: App) -> None:
    sender = App(app.url.reveal())

    @sender.task(name="gone")
    async def gone() -> None: ...

    app.config = type(app.config)(unknown_delay=0.001, unknown_ttl=0.02)
    async with sender, app:
        result = await gone.enqueue()
        async with app.worker(queues=["default"]):
            await until_status(result, Status.FAILED)
        broker = app.client.broker
        assert isinstance(broker, MemoryBroker)
        [dead] = await broker.dead_letters("default")

    assert dead.envelope.id == result.id
    assert dead.reason.startswith("UnknownTask")
