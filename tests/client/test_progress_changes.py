"""Following the progress of a task, from wherever and whenever one begins."""

import asyncio
from collections.abc import Sequence
from contextlib import aclosing

import anyio
import pytest
from anyio import fail_after, to_thread

from asyncq.app import App
from asyncq.client.context import Context
from asyncq.client.result import Result
from asyncq.drivers.memory.topics import MemoryTopics
from asyncq.errors import BackendError, BackendUnavailable, TaskFailed, UnknownResult
from asyncq.language.effects import Append
from asyncq.language.message import Progress
from asyncq.language.policies import Retry
from asyncq.seams.topics import MOST_PROGRESS
from tests.client.given import PATIENCE, Gate, new_app, until

STEPS = [Progress(n, 3) for n in range(3)]


async def test_each_step_is_heard_as_it_is_said(app: App) -> None:
    gates = [Gate() for _ in range(3)]

    @app.task
    async def work(ctx: Context) -> None:
        for n, gate in enumerate(gates):
            await ctx.progress(n, 3)
            await gate.pass_through()

    async with app.worker():
        result = await work.enqueue()
        heard: list[Progress] = []
        with fail_after(PATIENCE):
            async for progress in result.progress_changes():
                heard.append(progress)
                gates[len(heard) - 1].open()

    assert heard == STEPS


async def test_who_comes_late_and_who_comes_again_hear_the_same(app: App) -> None:
    @app.task
    async def work(ctx: Context) -> None:
        for n in range(3):
            await ctx.progress(n, 3)

    async with app.worker():
        result = await work.enqueue()
        await result
        with fail_after(PATIENCE):
            for _ in range(2):
                assert [each async for each in result.progress_changes()] == STEPS
            again = app.result(result.id)
            assert [each async for each in again.progress_changes()] == STEPS


async def test_a_task_that_says_a_lot_is_followed_from_its_last_hundred(app: App) -> None:
    @app.task
    async def work(ctx: Context) -> None:
        for n in range(MOST_PROGRESS + 50):
            await ctx.progress(n)

    async with app.worker():
        result = await work.enqueue()
        await result
        with fail_after(PATIENCE):
            heard = [each.value async for each in result.progress_changes()]

    assert heard == [float(n) for n in range(50, MOST_PROGRESS + 50)]


async def test_it_ends_with_a_task_that_fails_and_one_that_says_nothing(app: App) -> None:
    @app.task(dead_letter=False)
    async def fail(ctx: Context) -> None:
        await ctx.progress(1)
        raise ValueError

    @app.task
    async def silent() -> None:
        pass

    async with app.worker():
        failed, quiet = await fail.enqueue(), await silent.enqueue()
        with fail_after(PATIENCE):
            assert [each async for each in failed.progress_changes()] == [Progress(1)]
            assert [each async for each in quiet.progress_changes()] == []
            with pytest.raises(TaskFailed):
                await failed


async def test_a_task_that_runs_again_begins_anew(app: App) -> None:
    @app.task(retry=Retry(times=1, base=0.01, jitter=False))
    async def flaky(ctx: Context) -> None:
        await ctx.progress(ctx.attempt, 10)
        if ctx.attempt == 1:
            raise ValueError

    async with app.worker():
        result = await flaky.enqueue()
        await result
        with fail_after(PATIENCE):
            assert [each async for each in result.progress_changes()] == [Progress(2, 10)]


async def test_who_stops_to_listen_leaves_nothing_running(app: App) -> None:
    gate = Gate()

    @app.task
    async def work(ctx: Context) -> None:
        await ctx.progress(1)
        await gate.pass_through()

    async with app.worker():
        result = await work.enqueue()
        before = asyncio.all_tasks()
        with fail_after(PATIENCE):
            async with aclosing(result.progress_changes()) as changes:
                assert await anext(changes) == Progress(1)
                waiting = asyncio.ensure_future(anext(changes))
                await until(lambda: len(asyncio.all_tasks()) > len(before) + 1)
                waiting.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await waiting
            gate.open()
            await result
        assert not [task for task in asyncio.all_tasks() - before if not task.done()]


async def test_a_reader_that_is_cancelled_as_the_task_ends_hears_of_that(app: App) -> None:
    gates: dict[int, anyio.Event] = {}

    @app.task
    async def work(context: Context, number: int) -> None:
        await context.progress(1)
        await gates[number].wait()

    @app.task
    async def endless(context: Context) -> None:
        await context.progress(1)
        await anyio.sleep_forever()

    async with app, app.worker(grace=0.1):
        other = await endless.enqueue()
        for turns in range(12):
            gates[turns], heard = anyio.Event(), anyio.Event()
            result = await work.enqueue(turns)

            async def read(of: Result[None], heard: anyio.Event) -> None:
                async for _ in of.progress_changes():
                    heard.set()
                async for _ in other.progress_changes():
                    pass

            reader = asyncio.ensure_future(read(result, heard))
            await heard.wait()
            gates[turns].set()
            await result
            for _ in range(turns):
                await asyncio.sleep(0)
            reader.cancel()
            assert await asyncio.wait({reader}, timeout=PATIENCE) == ({reader}, set())
            assert reader.cancelled()


async def test_a_store_that_is_away_fails_no_task_that_says_how_far_it_is(
    app: App, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    real, away = MemoryTopics.append, True

    async def append(self: MemoryTopics, appends: Sequence[Append]) -> None:
        if away:
            raise BackendUnavailable("it is away")
        await real(self, appends)

    monkeypatch.setattr(MemoryTopics, "append", append)

    @app.task
    async def work(context: Context) -> str:
        nonlocal away
        await context.progress(1, 3)
        await context.progress(2, 3)
        away = False
        await context.progress(3, 3)
        return "done"

    @app.task
    def work_in_a_thread(context: Context) -> str:
        anyio.run(context.progress, 1, 3)
        return "done"

    async with app, app.worker():
        result = await work.enqueue()
        assert await result.get(timeout=PATIENCE) == "done"
        assert await result.progress() == Progress(3, 3)
        away = True
        assert await (await work_in_a_thread.enqueue()).get(timeout=PATIENCE) == "done"
    told = [text for text in caplog.messages if "the progress of tasks" in text]
    assert len(told) == 3
    assert "is not kept, trying again: it is away" in told[0]
    assert "is kept again" in told[1]


async def test_of_an_unknown_id_and_without_a_keeper_it_is_said(app: App) -> None:
    @app.task
    async def work(ctx: Context) -> None:
        await ctx.progress(1)

    async with app:
        with fail_after(PATIENCE), pytest.raises(UnknownResult):
            async for _ in app.result("nobody").progress_changes():
                pass
    async with App("memory://", backend="null://") as mute:
        with pytest.raises(BackendError, match="keeps no progress"):
            async for _ in mute.result("1").progress_changes():
                pass


async def test_a_thread_follows_it_too() -> None:
    app = new_app()

    @app.task
    async def work(ctx: Context) -> None:
        for n in range(3):
            await ctx.progress(n, 3)

    def follow() -> list[Progress]:
        with app.sync() as client:
            return list(client.enqueue(work.s()).progress_changes())

    async with app.worker():
        with fail_after(PATIENCE):
            heard = await to_thread.run_sync(follow)

    assert heard == STEPS
