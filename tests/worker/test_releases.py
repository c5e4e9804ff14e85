"""What latches release is sent: once, by one worker, whatever is in the way."""

from contextlib import suppress

import anyio
import msgspec
import pytest
from anyio import fail_after, sleep

from asyncq.app import App
from asyncq.client.context import Context
from asyncq.config import Config
from asyncq.drivers import table as drivers
from asyncq.errors import BrokerUnavailable, QueueFull
from asyncq.language.effects import Hold, Send
from asyncq.language.message import (
    End,
    derived_id,
    new_id,
)
from asyncq.language.topology import Queue
from tests.chords import begin, chord
from tests.client.given import PATIENCE, WatchedBroker, until
from tests.worker.chord_tasks import Tasks, ledger_of
from tests.worker.combinations import any_app

__all__ = ["any_app"]  # a fixture


async def test_what_a_broker_has_taken_is_not_sent_again_for_what_another_does_not_take(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nor does anything else wait for the one that is away."""
    monkeypatch.setattr("asyncq.worker.followups.LATER", 0.05)
    monkeypatch.setattr("asyncq.worker.releases.AWAY", 0.1)
    monkeypatch.setitem(drivers.BROKERS, "watched", "tests.client.given:WatchedBroker")
    app = App(
        brokers={"default": f"memory://{new_id()}", "other": f"watched://{new_id()}"},
        queues=[Queue("there", broker="other")],
        config=Config(publish_timeout=0.3),
    )
    tasks = Tasks(app)
    ran: list[str] = []

    @app.task(keep_result=0)
    async def note(text: str) -> None:
        ran.append(text)

    @app.task
    async def start(context: Context) -> None:
        client, end = app.client, (End(context.id, "0"), End(f"{context.id}-2", "0"))
        [part] = client.follow_up(tasks.square.s(1), derived_id(context.id, "part"), end)
        there = client.follow_up(note.options(queue="there").s("there"), new_id())
        here = client.follow_up(note.s("here"), new_id())
        second = client.follow_up(note.options(queue="there").s("second"), new_id())
        held = [Hold(context.id, 1, (*there, *here)), Hold(f"{context.id}-2", 1, tuple(second))]
        begin(context, [*held, part])

    async with app:
        other = app.client.brokers["other"]
        assert isinstance(other, WatchedBroker)
        other.fail = lambda _: BrokerUnavailable("it is away")
        async with app.worker():
            await start.enqueue()
            await until(lambda: ran == ["here"])
            for _ in range(5):
                await (await tasks.square.options(keep_result=5.0).enqueue(3)).get(timeout=PATIENCE)
            await sleep(1.0)
            assert ran == ["here"]
            depth = await app.queues.depth("default")
            assert (depth.delayed, depth.in_flight) == (0, 0)  # the part does not wait for it
            other.fail = lambda _: None
            await until(lambda: len(ran) == 3)
    assert sorted(ran) == ["here", "second", "there"]


async def test_what_a_queue_has_no_room_for_stays_released(any_app: App) -> None:
    any_app = App(
        any_app.url.reveal(),
        backend=any_app.backend_url.reveal(),
        queues=[Queue("small", max_length=1)],
    )
    tasks = Tasks(any_app)

    @any_app.task
    async def start(context: Context) -> str:
        body = tasks.body.options(queue="small").s(context.id, 1)
        begin(context, chord(any_app, context.id, [tasks.square.s(3)], body))
        return context.id

    async with any_app:
        in_the_way = 0
        with suppress(QueueFull):
            while True:
                await tasks.failed.options(queue="small").enqueue("in the way")
                in_the_way += 1
        async with any_app.worker(queues=["default"]):
            root = await (await start.enqueue()).get(timeout=PATIENCE)
            await until(lambda: tasks.ran == ["square 3"])
            await sleep(0.5)
            [state] = await ledger_of(any_app).look([root])
            assert state is not None
            assert (state.is_released, state.unsent) == (True, 1)

            async with any_app.worker(queues=["small"]):
                assert await tasks.done(root) == [9]
    assert sorted(tasks.ran) == ["body", *["failed"] * in_the_way, "square 3"]


async def test_what_is_held_is_in_no_queue_and_goes_to_any_broker() -> None:
    app = App(
        brokers={"default": f"memory://{new_id()}", "other": f"memory://{new_id()}"},
        queues=[Queue("there", broker="other")],
    )
    tasks = Tasks(app)
    opened = anyio.Event()

    @app.task
    async def wait() -> int:
        await opened.wait()
        return 1

    @app.task
    async def start(context: Context) -> str:
        body = tasks.body.options(queue="there").s(context.id, 1)
        begin(context, chord(app, context.id, [wait.s()], body))
        return context.id

    async with app, app.worker():
        root = await (await start.enqueue()).get(timeout=PATIENCE)
        assert await app.queues.purge("there") == 0
        opened.set()
        assert await tasks.done(root) == [1]


async def test_a_delay_of_what_is_held_counts_from_its_release(any_app: App) -> None:
    tasks = Tasks(any_app)

    @any_app.task
    async def start(context: Context) -> str:
        [hold, *members] = tasks.chord(context.id, [tasks.square.s(2)])
        assert isinstance(hold, Hold)
        [body] = hold.sends
        envelope = msgspec.structs.replace(body.envelope, eta=0.5, expires=3600.0)
        begin(
            context, [msgspec.structs.replace(hold, sends=(Send(envelope, body.broker),)), *members]
        )
        return context.id

    async with any_app, any_app.worker():
        root = await (await start.enqueue()).get(timeout=PATIENCE)
        await until(lambda: tasks.ran == ["square 2"])
        await sleep(0.2)
        assert tasks.ran == ["square 2"]

        assert await tasks.done(root) == [4]


async def test_a_full_queue_of_what_is_sent_on_failure_holds_up_nothing_else(any_app: App) -> None:
    """Neither the parts nor, once the failed one is replayed, the body."""
    app = App(
        any_app.url.reveal(),
        backend=any_app.backend_url.reveal(),
        queues=[Queue("small", max_length=1)],
    )
    tasks = Tasks(app)
    count = 20

    @app.task
    async def start(context: Context) -> str:
        parts = [tasks.ill.s(), *(tasks.square.s(n) for n in range(1, count))]
        body, failed = tasks.body.s(context.id, count), tasks.failed.options(queue="small")
        begin(context, chord(app, context.id, parts, body, failed.s(context.id)))
        return context.id

    async with app:
        await fill(tasks)
        async with app.worker(queues=["default"]):
            root = await (await start.enqueue()).get(timeout=PATIENCE)
            with fail_after(PATIENCE):
                while not (letters := await app.dead.list("default")):  # noqa: ASYNC110 - there is no event
                    await sleep(0.01)
            await until(lambda: len(tasks.ran) == count - 1)
            await until_idle(app)
            [state] = await ledger_of(app).look([root])
            assert state is not None
            assert (state.has_failed, state.missing, state.unsent) == (True, 0, 1)

            tasks.are_well = True
            await app.dead.replay("default", [letters[0].envelope.id])
            assert len(await tasks.done(root)) == count
            assert "failed" not in tasks.ran

            async with app.worker(queues=["small"]):
                await until(lambda: tasks.ran.count("failed") > 1)
    assert tasks.ran.count("body") == 1


async def test_a_worker_that_leaves_settles_what_the_ledger_remembers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Though a broker does not answer, and so nobody knows whether what was released is sent."""
    monkeypatch.setattr("asyncq.worker.completer.FOLLOW_TIMEOUT", 0.2)
    monkeypatch.setitem(drivers.BROKERS, "watched", "tests.client.given:WatchedBroker")
    app = App(
        brokers={"default": f"memory://{new_id()}", "other": f"watched://{new_id()}"},
        queues=[Queue("there", broker="other")],
    )
    tasks = Tasks(app)

    async with app:
        other = app.client.brokers["other"]
        assert isinstance(other, WatchedBroker)
        other.before = anyio.sleep_forever
        body = tasks.body.options(queue="there").s("root", 1)
        [hold, part] = chord(app, "root", [tasks.square.s(3)], body)
        assert isinstance(hold, Hold)
        assert isinstance(part, Send)
        await ledger_of(app).apply([hold], "a client")
        await app.client.send([part])[0]
        async with app.worker(queues=["default"]):
            await until(lambda: other.calls > 0)
        await until_idle(app)
        [state] = await ledger_of(app).look(["root"])
        assert state is not None
        assert (state.is_released, state.unsent) == (True, 1)


async def fill(tasks: Tasks) -> None:
    with suppress(QueueFull):
        while True:
            await tasks.failed.options(queue="small").enqueue("in the way")


async def until_idle(app: App) -> None:
    """Return once nothing of the default queue is there any more."""
    with fail_after(PATIENCE):
        while True:
            depth = await app.queues.depth("default")
            if not (depth.ready or depth.delayed or depth.in_flight):
                return
            await sleep(0.01)
