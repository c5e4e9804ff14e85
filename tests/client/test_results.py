"""Results: what waiting for an outcome gives, raises, and leaves behind."""

import asyncio
import gc
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import anyio
import pytest
from anyio import fail_after

from asyncq.app import App
from asyncq.client import arrivals, doubts, waiters
from asyncq.client.arrivals import Batch
from asyncq.client.context import Context, current_context
from asyncq.client.result import Result, record_of
from asyncq.errors import (
    ConfigurationError,
    TaskCancelled,
    TaskExpired,
    TaskFailed,
    UnknownResult,
)
from asyncq.language.message import Cancelled, Status, new_id
from asyncq.language.record import Record
from tests.client.given import PATIENCE, Gate, new_app, until, until_status
from tests.worker.virtual import on_virtual_time, virtual_app


def batch_of(app: App) -> Callable[[Result[Any]], Batch]:
    """What a result was sent with, which must be known."""

    def find(result: Result[Any]) -> Batch:
        batch = app.client.waiters.batch_of(result.id)
        assert batch is not None
        return batch

    return find


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Read again soon what is waited for."""
    monkeypatch.setattr(waiters, "REREAD", 0.05)


async def test_a_result_is_awaited_as_often_as_one_likes(app: App) -> None:
    @app.task
    async def add(x: int, y: int) -> int:
        return x + y

    async with app.worker():
        result = await add.enqueue(1, 2)
        with fail_after(PATIENCE):
            assert [await result, await result, await result.get(timeout=PATIENCE)] == [3, 3, 3]


async def test_many_wait_for_one_result(app: App) -> None:
    gate = Gate()
    seen: list[int] = []

    @app.task
    async def answer() -> int:
        await gate.pass_through()
        return 42

    async def wait(result: Any) -> None:
        seen.append(await result)

    async with app.worker():
        result = await answer.enqueue()
        with fail_after(PATIENCE):
            async with anyio.create_task_group() as group:
                for _ in range(20):
                    group.start_soon(wait, result)
                await gate.until_reached()
                gate.open()

    assert seen == [42] * 20


async def test_a_timeout_ends_the_wait_and_not_the_task(app: App) -> None:
    gate = Gate()

    @app.task
    async def slow() -> str:
        await gate.pass_through()
        return "done"

    async with app.worker():
        result = await slow.enqueue()
        with pytest.raises(TimeoutError, match=f"task {result.id} has no outcome after 0.01 s"):
            await result.get(timeout=0.01)
        gate.open()

        assert await result.get(timeout=PATIENCE) == "done"


async def test_the_status_follows_a_message_through_its_life(app: App) -> None:
    gate = Gate()

    @app.task
    async def run(end: str) -> None:
        await gate.pass_through()
        if end == "fail":
            raise ValueError(end)

    async with app:
        result = await run.enqueue("succeed")
        assert await result.status() is Status.QUEUED
        late = await run.options(delay=100).enqueue("succeed")
        assert await late.status() is Status.SCHEDULED
        async with app.worker():
            await gate.until_reached()
            assert await result.status() is Status.RUNNING
            gate.open()
            await until_status(result, Status.SUCCEEDED)
            await until_status(await run.enqueue("fail"), Status.FAILED)
            await app.client.backend.store_records([Record("cancelled", Cancelled(), keep=60.0)])
            await until_status(app.result("cancelled"), Status.CANCELLED)
            await until_status(await run.options(expires=0).enqueue("expire"), Status.EXPIRED)

        assert await app.result("nobody-knows").status() is Status.UNKNOWN
        assert Status.SUCCEEDED == "succeeded"


async def test_what_did_not_succeed_raises(app: App) -> None:
    @app.task
    async def fail() -> None:
        raise LookupError("no such thing")

    async with app.worker():
        failed, cancelled = await fail.enqueue(), app.result("cancelled")
        await app.client.backend.store_records([Record("cancelled", Cancelled(), keep=60.0)])
        expired = await fail.options(expires=0).enqueue()
        with pytest.raises(TaskFailed, match="LookupError: no such thing") as caught:
            await failed.get(timeout=PATIENCE)
        with pytest.raises(TaskCancelled, match=cancelled.id):
            await cancelled.get(timeout=PATIENCE)
        with pytest.raises(TaskExpired, match=expired.id):
            await expired.get(timeout=PATIENCE)

    assert caught.value.task_id == failed.id
    assert caught.value.type == "LookupError"


@pytest.mark.usefixtures("soon")
async def test_an_id_that_nobody_has_seen_is_unknown(app: App) -> None:
    async with app:
        with pytest.raises(UnknownResult, match="nothing is known of task never-sent"):
            await app.result("never-sent").get(timeout=PATIENCE)


@pytest.mark.usefixtures("soon")
async def test_a_message_that_waits_is_not_unknown(app: App) -> None:
    @app.task
    async def task() -> None: ...

    async with app:
        result = await task.enqueue()
        with pytest.raises(TimeoutError):
            await app.result(result.id).get(timeout=0.3)


@pytest.mark.usefixtures("soon")
async def test_what_was_forgotten_is_unknown(app: App) -> None:
    @app.task
    async def task() -> int:
        return 1

    async with app.worker():
        result = await task.enqueue()
        assert await result.get(timeout=PATIENCE) == 1

        await result.forget()

        assert await result.status() is Status.UNKNOWN
        with pytest.raises(UnknownResult):
            await result.get(timeout=PATIENCE)


async def test_what_was_purged_is_unknown_also_while_others_wait_for_what_another_sent(
    app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiters, "REREAD", 0.5)
    monkeypatch.setattr(doubts, "SURE", 0.3)

    @app.task
    async def task() -> None: ...

    async with app:
        purged = await task.enqueue()
        await app.queues.purge("default")
        there = app.result("there")  # as if another client had sent it
        await task.options(id="there", delay=3600).enqueue()

        async with anyio.create_task_group() as group:
            group.start_soon(there.get)  # read more often than that
            with fail_after(PATIENCE), pytest.raises(UnknownResult):
                await purged
            group.cancel_scope.cancel()


async def test_who_asks_again_and_again_hears_that_nothing_is_known(
    app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doubts, "SURE", 0.3)

    @app.task
    async def task() -> None: ...

    async with app:
        purged, waits = await task.enqueue(), await task.options(queue="other").enqueue()
        await app.queues.purge("default")

        async def ask_again_and_again() -> None:
            while True:
                with suppress(TimeoutError):
                    await purged.get(timeout=0.2)

        with fail_after(PATIENCE / 2), pytest.raises(UnknownResult):
            await ask_again_and_again()
        for _ in range(5):
            with pytest.raises(TimeoutError):
                await waits.get(timeout=0.1)


async def test_another_app_on_the_same_store_awaits_by_id(app: App) -> None:
    gate = Gate()

    @app.task
    async def answer() -> dict[str, int]:
        await gate.pass_through()
        return {"answer": 42}

    other = App(app.url.reveal())
    async with app.worker(), other:
        sent = await answer.enqueue()
        await gate.until_reached()
        gate.open()

        assert await other.result(sent.id).get(timeout=PATIENCE) == {"answer": 42}
        assert await other.result(sent.id).status() is Status.SUCCEEDED


@on_virtual_time
async def test_an_outcome_that_came_before_anybody_asked_is_there() -> None:
    app = virtual_app()

    @app.task
    async def task(n: int) -> int:
        return n

    async with app.worker():
        await (await task.enqueue(0)).get(timeout=PATIENCE)  # from here on pushes are listened to
        results = [await task.enqueue(n) for n in range(10)]
        for result in results:
            await until_status(result, Status.SUCCEEDED)

        with fail_after(1.0):
            assert [await result for result in results] == list(range(10))


async def test_outcomes_nobody_asks_for_are_kept_in_bounds(
    app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(arrivals, "MOST_KEPT", 5)

    @app.task
    async def task(n: int) -> int:
        return n

    async with app.worker():
        await (await task.enqueue(0)).get(timeout=PATIENCE)
        results = await app.enqueue_many(task.s(n) for n in range(50))
        await until_status(results[-1], Status.SUCCEEDED)
        [batch] = {id(batch): batch for batch in map(batch_of(app), results)}.values()
        await until(lambda: len(batch.came) + len(batch.missed) == 50)
        assert len(batch.came) <= 5

        with fail_after(PATIENCE):
            assert [await result for result in results] == list(range(50))


@on_virtual_time
async def test_a_large_outcome_nobody_waited_for_is_fetched() -> None:
    app = virtual_app()

    @app.task
    async def task() -> bytes:
        return bytes(arrivals.LARGE * 2)

    async with app.worker():
        await (await task.enqueue()).get(timeout=PATIENCE)
        result = await task.enqueue()
        await until_status(result, Status.SUCCEEDED)

        batch = batch_of(app)(result)
        await until(lambda: result.id in batch.missed)

        assert len(await result.get(timeout=2.0)) == arrivals.LARGE * 2
        assert not batch.came


async def test_a_result_that_is_not_kept_reaches_who_waits_for_it(app: App) -> None:
    gate = Gate()

    @app.task(keep_result=0)
    async def task() -> int:
        await gate.pass_through()
        return 7

    async with app.worker():
        result = await task.enqueue()
        await gate.until_reached()
        seen: list[int] = []

        async def wait() -> None:
            seen.append(await result.get(timeout=PATIENCE))

        async with anyio.create_task_group() as group:
            group.start_soon(wait)
            await until(lambda: app.client.waiters._arrivals.epoch > 0)  # pyright: ignore[reportPrivateUsage]
            gate.open()

        assert seen == [7]
        assert await result.get(timeout=PATIENCE) == 7  # the handle has seen it
        assert await result.status() is Status.SUCCEEDED
        assert await app.result(result.id).status() is Status.UNKNOWN


async def test_who_stops_waiting_leaves_nothing_behind(app: App) -> None:
    @app.task
    async def task() -> None: ...

    async with app:
        waiting = app.client.waiters._waiting  # pyright: ignore[reportPrivateUsage]
        results = [await task.enqueue() for _ in range(10)]
        results += [app.result(new_id()) for _ in range(10)]
        async with anyio.create_task_group() as group:
            for result in results:
                group.start_soon(result.get)
            await until(lambda: len(waiting) == 20)
            group.cancel_scope.cancel()
        with pytest.raises(TimeoutError):
            await results[0].get(timeout=0.001)

        assert not waiting
        assert not app.client.waiters._foreign  # pyright: ignore[reportPrivateUsage]
        assert not app.client.waiters._unread  # pyright: ignore[reportPrivateUsage]


async def test_a_result_of_an_app_that_was_closed_says_so(app: App) -> None:
    @app.task
    async def task() -> None: ...

    async with app:
        result = await task.enqueue()

    with pytest.raises(ConfigurationError, match="not connected any more"):
        await result.get(timeout=PATIENCE)


async def test_who_waits_while_the_app_is_closed_hears_of_it(app: App) -> None:
    heard: list[Exception] = []

    @app.task
    async def task() -> None: ...

    async def wait(result: Any) -> None:
        try:
            await result
        except ConfigurationError as error:
            heard.append(error)

    with fail_after(PATIENCE):
        async with anyio.create_task_group() as group, app:
            group.start_soon(wait, await task.enqueue())
            waiting = app.client.waiters._waiting  # pyright: ignore[reportPrivateUsage]
            await until(lambda: len(waiting) == 1)

    assert len(heard) == 1


async def test_progress_is_read_while_the_task_runs_and_afterwards(app: App) -> None:
    gate = Gate()

    @app.task
    async def work(ctx: Context) -> None:
        await ctx.progress(1, total=2)
        await gate.pass_through()
        await current_context().progress(2, total=2)

    async with app.worker():
        result = await work.enqueue()
        await gate.until_reached()
        half = await result.progress()
        gate.open()
        await result.get(timeout=PATIENCE)
        whole = await result.progress()

        assert half is not None
        assert whole is not None
        assert (half.value, half.total) == (1, 2)
        assert (whole.value, whole.total) == (2, 2)
        assert await app.result("unknown").progress() is None


async def test_no_class_is_looked_up_for_a_stored_failure(app: App) -> None:
    """CVE-2021-23727: Celery imported and called whatever a stored failure named."""
    before = set(sys.modules)

    @app.task
    async def fail(type_name: str, module: str) -> None:
        raise type(type_name, (Exception,), {"__module__": module})("touch /tmp/owned")

    async with app.worker():
        for module, name in (("os", "system"), ("asyncq.errors", "Refused"), ("antigravity", "x")):
            result = await fail.enqueue(name, module)
            with pytest.raises(TaskFailed) as caught:
                await result.get(timeout=PATIENCE)
            assert type(caught.value) is TaskFailed
            assert caught.value.type == f"{module}.{name}".replace("asyncq.errors", "asyncq")

    assert "antigravity" not in set(sys.modules) - before


async def test_a_failure_that_nobody_looks_at_makes_no_noise(app: App) -> None:
    @app.task
    async def fail() -> None:
        raise ValueError

    async with app.worker():
        result = await fail.enqueue()
        waiting = asyncio.ensure_future(record_of(result))
        await until(waiting.done)
    del waiting
    gc.collect()  # an exception never retrieved would be a warning here, and so an error


async def test_entering_twice_connects_once() -> None:
    app = new_app()

    @app.task
    async def one() -> int:
        return 1

    async with app:
        client = app.client
        async with app, app.worker():
            assert app.client is client
            assert await (await one.enqueue()).get(timeout=PATIENCE) == 1
        assert app.client is client
        await one.enqueue()

    with pytest.raises(ConfigurationError):
        _ = app.client


async def test_who_waits_in_vain_hears_where_the_message_is(app: App) -> None:
    gate = Gate()

    @app.task
    async def work() -> None:
        await gate.pass_through()

    async with app:
        result = await work.enqueue()
        later = await work.options(delay=60).enqueue()

        with pytest.raises(TimeoutError, match=r"no outcome after 0.2 s: it waits for a worker$"):
            await result.get(timeout=0.2)
        with pytest.raises(
            TimeoutError, match=r"no outcome after 0.2 s: it waits until it is due$"
        ):
            await later.get(timeout=0.2)
        async with app.worker():
            await gate.until_reached()
            with pytest.raises(TimeoutError, match=r"no outcome after 0.2 s: a worker runs it$"):
                await result.get(timeout=0.2)
            gate.open()
            await result.get(timeout=PATIENCE)
