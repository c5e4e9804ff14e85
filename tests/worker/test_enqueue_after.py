"""What a task sends at its end: exactly if its outcome stands, whatever store and broker it has."""

import asyncio
import logging
from collections.abc import Sequence
from pathlib import Path

import anyio
import msgspec
import pytest
from anyio import fail_after

from asyncq import testing
from asyncq.app import App
from asyncq.client.context import Context
from asyncq.client.values.encoding import NOTHING
from asyncq.config import Config
from asyncq.drivers import table as drivers
from asyncq.errors import (
    BrokerUnavailable,
    ConfigurationError,
    MessageTooLarge,
    RetryLater,
    TaskFailed,
)
from asyncq.language.effects import MOST_EFFECTS, Send
from asyncq.language.envelope import Envelope
from asyncq.language.message import Status, Succeeded, derived_id, new_id
from asyncq.language.policies import Retry
from asyncq.language.record import Record
from asyncq.language.topology import Queue
from asyncq.seams.broker import Lease, QueueSpec
from asyncq.testing.contracts.given import end_lease, sweep, take
from tests.client.given import PATIENCE, WatchedBroker, new_app, until, until_status, watched
from tests.worker.combinations import any_app

__all__ = ["any_app"]  # a fixture


async def test_what_a_task_sends_at_its_end_runs_once_it_has_succeeded(any_app: App) -> None:
    ran: list[tuple[int, str | None]] = []

    @any_app.task
    async def receipt(context: Context, order: int) -> int:
        ran.append((order, context.parent_id))
        return -order

    @any_app.task
    async def pay(context: Context, order: int) -> list[str]:
        ids = [await context.enqueue_after(receipt.s(order + n)) for n in range(3)]
        await anyio.sleep(0.01)
        assert not ran  # not before it has ended
        return ids

    @any_app.task
    def pay_in_a_thread(context: Context, order: int) -> str:
        return anyio.run(context.enqueue_after, receipt.s(order))

    async with any_app, any_app.worker():
        paid = await pay.enqueue(10)
        ids = await paid.get(timeout=PATIENCE)
        assert len({paid.id, *ids}) == 4
        values = [await any_app.result(id).get(timeout=PATIENCE) for id in ids]
        assert values == [-10, -11, -12]
        assert sorted(ran) == [(10 + n, paid.id) for n in range(3)]

        other = await (await pay_in_a_thread.enqueue(7)).get(timeout=PATIENCE)
        assert await any_app.result(other).get(timeout=PATIENCE) == -7


async def test_what_did_not_succeed_sends_nothing_and_a_retry_what_the_last_attempt_wanted(
    any_app: App,
) -> None:
    ran: list[str] = []

    @any_app.task
    async def note(text: str) -> None:
        ran.append(text)

    @any_app.task
    async def fail(context: Context) -> None:
        await context.enqueue_after(note.s("failed"))
        raise ValueError("no")

    @any_app.task(retry=Retry(times=1, base=0.001, jitter=False))
    async def flaky(context: Context) -> None:
        await context.enqueue_after(note.s(f"attempt {context.attempt}"))
        if context.attempt == 1:
            raise ValueError("not yet")

    @any_app.task
    async def later(context: Context) -> None:
        await context.enqueue_after(note.s(f"later {context.attempt}"))
        if context.attempt == 1:
            raise RetryLater(0.001)

    @any_app.task
    async def odd(context: Context) -> object:
        await context.enqueue_after(note.s("odd"))
        return object()

    async with any_app, any_app.worker():
        results = [await task.enqueue() for task in (fail, flaky, later, odd)]
        for result in (results[0], results[3]):
            with pytest.raises(TaskFailed):
                await result.get(timeout=PATIENCE)
        for result in results[1:3]:
            await result.get(timeout=PATIENCE)
        await until(lambda: len(ran) >= 2)
        await (await note.enqueue("last")).get(timeout=PATIENCE)

    assert sorted(ran) == ["attempt 2", "last", "later 2"]


async def test_an_outcome_that_stands_is_followed_by_what_it_says_whoever_has_the_message(
    any_app: App,
) -> None:
    """A zombie has stored its outcome, or a worker died before it could send."""
    ran: list[str] = []

    @any_app.task
    async def note(text: str) -> None:
        ran.append(text)

    @any_app.task
    async def work(context: Context) -> str:
        await context.enqueue_after(note.s("of the second run"))
        return "second"

    async with any_app:
        client = any_app.client
        result = await work.enqueue()
        sends = client.follow_up(note.s("of the first run"), derived_id(result.id, "first"))
        outcome = Succeeded(msgspec.Raw(msgspec.msgpack.encode("first")))
        first = Record(result.id, outcome, "work", keep=60.0, effects=tuple(sends))
        await client.backend.store_records([first])
        async with any_app.worker():
            assert await result.get(timeout=PATIENCE) == "first"
            await any_app.result(sends[0].envelope.id).get(timeout=PATIENCE)
            await (await note.enqueue("last")).get(timeout=PATIENCE)

    assert ran == ["of the first run", "last"]


@pytest.mark.parametrize("has_ended", [True, False])
async def test_what_a_lost_worker_may_have_sent_is_sent_as_suspect(
    monkeypatch: pytest.MonkeyPatch, has_ended: bool
) -> None:
    """Where the broker keeps both, the copy is not to kill a worker as if it were the first."""
    monkeypatch.setitem(drivers.BROKERS, "watched", "tests.client.given:WatchedBroker")
    app = App(f"watched://{new_id()}", backend=f"memory://{new_id()}")
    seen: dict[str, bool] = {}

    @app.task
    async def note() -> None:
        pass

    @app.task
    async def work(context: Context) -> None:
        await context.enqueue_after(note.s())

    def look(envelopes: Sequence[Envelope]) -> None:
        seen.update({envelope.id: envelope.suspect for envelope in envelopes})

    async with app:
        result = await work.enqueue()
        broker = watched(app)
        broker.fail = look
        [send] = app.client.follow_up(note.s(), derived_id(result.id, "1"))
        if has_ended:
            first = Record(result.id, Succeeded(NOTHING), "work", keep=60.0, effects=(send,))
            await app.client.backend.store_records([first])
        held = Lease(new_id(), 15.0)
        async with broker.consume(QueueSpec("default"), held) as consumer:
            await take(consumer, 1)
            await end_lease(broker, held, "default")
            await sweep(broker, 1, "default")
        async with app.worker():
            await until(lambda: len(seen) == 1)

    assert list(seen.values()) == [has_ended]


async def test_a_follow_up_whose_queue_is_full_is_sent_later_and_its_task_runs_once(
    tmp_path: Path,
) -> None:
    app = App(f"sqlite:///{tmp_path}/q.db", queues=[Queue("narrow", max_length=1)])
    ran: list[str] = []

    @app.task(queue="narrow")
    async def note(text: str) -> None:
        ran.append(text)

    @app.task
    async def work(context: Context) -> None:
        ran.append("work")
        await context.enqueue_after(note.s("after"))

    async with app:
        await note.enqueue("before")
        async with app.worker(queues=["default"]):
            result = await work.enqueue()
            await result.get(timeout=PATIENCE)  # it has ended, whatever becomes of what follows
            await until_status(app.result(result.id), Status.SUCCEEDED)
            async with app.worker(queues=["narrow"]):
                await until(lambda: "after" in ran)

    assert sorted(ran) == ["after", "before", "work"]


async def test_tasks_whose_follow_ups_cannot_be_sent_hold_up_no_others(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("asyncq.worker.followups.AWAY", 0.2)
    monkeypatch.setitem(drivers.BROKERS, "watched", "tests.client.given:WatchedBroker")
    caplog.set_level(logging.INFO)
    name = new_id()
    app = App(
        brokers={"default": f"memory://{name}", "away": f"watched://{new_id()}"},
        queues=[Queue("there", broker="away")],
        config=Config(publish_timeout=0.3, grace=1.0),
    )
    ran: list[int] = []

    @app.task(queue="there")
    async def there(n: int) -> None:
        ran.append(n)

    @app.task
    async def work(context: Context, n: int) -> None:
        await context.enqueue_after(there.s(n))

    @app.task
    async def plain() -> None: ...

    async with app:
        away = app.client.brokers["away"]
        assert isinstance(away, WatchedBroker)
        away.fail = lambda _: BrokerUnavailable("it is away")
        async with app.worker():
            results = [await work.enqueue(n) for n in range(5)]
            for result in results:
                await result.get(timeout=PATIENCE)
            with fail_after(PATIENCE):
                for _ in range(20):
                    await (await plain.enqueue()).get()
            await until(lambda: "what follows from tasks is not sent" in caplog.text)
            await (await plain.enqueue()).get(timeout=PATIENCE)
            assert not ran
            away.fail = lambda _: None
            await until(lambda: len(ran) == 5)
    assert sorted(ran) == [*range(5)]
    [said] = [r for r in caplog.records if "what follows from tasks is not sent" in r.message]
    assert "not sent to broker away, trying again: it is away" in said.message
    assert said.levelno == logging.WARNING
    assert "what follows from tasks is sent to broker away again" in caplog.text


async def test_a_worker_that_ends_leaves_what_is_not_sent_to_the_next(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("asyncq.worker.completer.FOLLOW_TIMEOUT", 0.1)
    monkeypatch.setitem(drivers.BROKERS, "watched", "tests.client.given:WatchedBroker")
    app = App(
        brokers={"default": f"memory://{new_id()}", "slow": f"watched://{new_id()}"},
        queues=[Queue("there", broker="slow")],
        config=Config(grace=1.0),
    )
    runs: list[str] = []

    @app.task(queue="there")
    async def there() -> None:
        runs.append("there")

    @app.task
    async def work(context: Context) -> None:
        runs.append("work")
        await context.enqueue_after(there.s())

    async with app:
        slow = app.client.brokers["slow"]
        assert isinstance(slow, WatchedBroker)
        opened = anyio.Event()
        slow.before = opened.wait
        async with app.worker(queues=["default"]):
            result = await work.enqueue()
            await result.get(timeout=PATIENCE)
        assert "there" not in runs
        opened.set()
        async with app.worker():
            await until(lambda: "there" in runs)
            await until_idle(app)
    assert sorted(runs) == ["there", "work"]


async def until_idle(app: App) -> None:
    """Return once nothing waits and nothing runs in its default queue."""
    with fail_after(PATIENCE):
        while True:
            depth = await app.queues.depth("default")
            if not (depth.ready or depth.delayed or depth.in_flight):
                return
            await anyio.sleep(0.01)


@pytest.mark.parametrize("backend", ["null://", "rpc"])
async def test_a_backend_that_keeps_nothing_is_said_to_be_in_the_way(
    backend: str, rabbitmq_url: str
) -> None:
    app = App(rabbitmq_url) if backend == "rpc" else new_app()
    if backend == "null://":
        app = App(f"memory://{new_id()}", backend="null://")
    heard: list[ConfigurationError] = []

    @app.task
    async def work(context: Context) -> None:
        try:
            await context.enqueue_after(work.s())
        except ConfigurationError as error:
            heard.append(error)

    async with app, app.worker():
        await work.enqueue()
        await until(lambda: bool(heard))
    assert "backend='redis://localhost'" in str(heard[0])
    assert "enqueue()" in str(heard[0])


async def test_what_cannot_be_sent_is_refused_where_it_is_asked_for() -> None:
    app = new_app(max_message_size=1000)

    @app.task
    async def note(text: str) -> None: ...

    @app.task
    async def work(context: Context) -> list[str]:
        said: list[str] = []
        try:
            await context.enqueue_after(note.s("x" * 2000))
        except MessageTooLarge as error:
            said.append(str(error))
        try:
            await context.enqueue_after(note)  # type: ignore[arg-type] # no call
        except TypeError as error:
            said.append(str(error))
        try:
            await context.enqueue_after(note.options(id=context.id).s(""))
        except ValueError as error:
            said.append(str(error))
        for _ in range(MOST_EFFECTS):
            await context.enqueue_after(note.s(""))
        try:
            await context.enqueue_after(note.s(""))
        except ValueError as error:
            said.append(str(error))
        return said

    async with app, app.worker():
        large, no_call, own, many = await (await work.enqueue()).get(timeout=PATIENCE)
    assert "2" in large
    assert "note.s(...)" in no_call
    assert "this task's own" in own
    assert "at most 500 calls" in many
    assert "enqueue_many" in many


async def test_a_test_sees_what_a_task_would_send() -> None:
    app = new_app()

    @app.task
    async def note(text: str) -> None: ...

    @app.task
    async def work(context: Context) -> str:
        return await context.enqueue_after(note.s("hello"))

    with testing.context() as context:
        id = await work(context)
    assert [signature.args for signature in context.to_follow] == [("hello",)]
    assert context.effects is not None
    [send] = context.effects
    assert isinstance(send, Send)
    assert id == send.envelope.id


@pytest.mark.parametrize("eager", [False, True])
async def test_a_run_of_a_test_sees_what_followed(eager: bool) -> None:
    app = new_app()

    @app.task
    async def note(text: str) -> str:
        return text

    @app.task
    async def work(context: Context) -> str:
        return await context.enqueue_after(note.s("hello"))

    async with testing.run(app, eager=eager) as run:
        id = await (await work.enqueue()).get(timeout=PATIENCE)
        assert await app.result(id).get(timeout=PATIENCE) == "hello"
        assert run.enqueued == [work.s(), note.s("hello")]


async def test_a_follow_up_that_failed_can_be_replayed_from_the_dead_letters(any_app: App) -> None:
    runs: list[str] = []

    @any_app.task
    async def note(text: str) -> None:
        runs.append(text)
        if len(runs) == 1:
            raise ValueError("once")

    @any_app.task
    async def work(context: Context) -> str:
        return await context.enqueue_after(note.s("hello"))

    async with any_app, any_app.worker():
        id = await (await work.enqueue()).get(timeout=PATIENCE)
        with pytest.raises(TaskFailed):
            await any_app.result(id).get(timeout=PATIENCE)
        with fail_after(PATIENCE):
            while not await any_app.dead.list("default"):  # noqa: ASYNC110 - there is no event
                await anyio.sleep(0.01)
        assert await any_app.dead.replay("default", [id]) == [id]
        await until(lambda: len(runs) == 2)


async def test_more_than_a_queue_has_room_for_follows_by_and_by_each_once(any_app: App) -> None:
    runs: list[int] = []
    bounded = App(
        any_app.url.reveal(),
        backend=any_app.backend_url.reveal(),
        queues=[Queue("narrow", max_length=2)],
    )

    @bounded.task(queue="narrow", keep_result=0)
    async def note(n: int) -> None:
        runs.append(n)

    @bounded.task
    async def beside() -> None:
        runs.append(-2)

    @bounded.task
    async def work(context: Context) -> None:
        runs.append(-1)
        await context.enqueue_after(beside.s())
        for n in range(6):
            await context.enqueue_after(note.s(n))

    async with bounded, bounded.worker(concurrency=2):
        result = await work.enqueue()
        await result.get(timeout=PATIENCE)
        await result.forget()  # it has run all the same
        await until(lambda: len(runs) >= 8)
        await until_idle(bounded)
    assert sorted(runs) == [-2, -1, *range(6)]


async def test_an_id_that_is_used_again_has_follow_ups_of_its_own() -> None:
    app, runs = new_app(), list[int]()

    @app.task
    async def note(n: int) -> None:
        runs.append(n)

    @app.task
    async def sync(context: Context, n: int) -> str:
        return await context.enqueue_after(note.s(n))

    async with app, app.worker():
        ids: list[str] = []
        for n in range(2):
            result = await sync.options(id="customer-7").enqueue(n)
            ids.append(await result.get(timeout=PATIENCE))
            await app.result(ids[-1]).get(timeout=PATIENCE)
            await until_idle(app)
            await result.forget()
    assert runs == [0, 1]
    assert ids[0] != ids[1]


async def test_who_asks_for_a_follow_up_when_the_task_has_ended_is_told() -> None:
    app, heard = new_app(), list[str]()
    ended = anyio.Event()

    @app.task
    async def work(context: Context) -> None:
        async def late() -> None:
            await ended.wait()
            try:
                await context.enqueue_after(work.s())
            except RuntimeError as error:
                heard.append(str(error))

        tasks.append(asyncio.get_running_loop().create_task(late()))

    tasks: list[asyncio.Task[None]] = []
    async with app, app.worker():
        await (await work.enqueue()).get(timeout=PATIENCE)
        ended.set()
        await until(lambda: bool(heard))
    assert "has ended" in heard[0]
    assert "enqueue()" in heard[0]
