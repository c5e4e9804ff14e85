"""The soft limit of time tells a task once that its time is over; the hard one ends it."""

import asyncio
import logging
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import anyio
import pytest

from asyncq.app import App
from asyncq.client.context import Context
from asyncq.errors import (
    InvalidValue,
    SoftTimeLimitExceeded,
    TaskCancelled,
    TaskFailed,
    TimeLimitExceeded,
)
from asyncq.language.policies import Retry
from asyncq.worker.time_limit import SoftTimeLimit
from tests.client.given import PATIENCE, until
from tests.worker.combinations import any_app
from tests.worker.virtual import on_virtual_time, virtual_app

__all__ = ["any_app"]  # a fixture


async def test_a_task_hears_of_its_soft_limit_once_and_may_end_well(any_app: App) -> None:
    heard: list[str] = []

    @any_app.task(soft_time_limit=0.05, time_limit=PATIENCE)
    async def export() -> str:
        try:
            await asyncio.sleep(PATIENCE)
        except SoftTimeLimitExceeded as error:
            heard.append(str(error))
        await asyncio.sleep(0.2)
        task = asyncio.current_task()
        return f"half of it, cancelled {task and task.cancelling()} times"

    async with any_app, any_app.worker():
        told = await (await export.enqueue()).get(timeout=PATIENCE)
    assert told == "half of it, cancelled 0 times"
    assert heard == ["the soft time limit of 0.05 s is over"]


async def test_not_caught_it_is_a_failure_that_may_be_tried_again(any_app: App) -> None:
    runs: list[int] = []

    @any_app.task(soft_time_limit=0.05, retry=Retry(1, base=0, on=SoftTimeLimitExceeded))
    async def export(context: Context) -> None:
        runs.append(context.attempt)
        await asyncio.sleep(PATIENCE)

    async with any_app, any_app.worker():
        with pytest.raises(TaskFailed) as caught:
            await (await export.enqueue()).get(timeout=PATIENCE)
    assert caught.value.is_a(SoftTimeLimitExceeded)
    assert not caught.value.is_a(TimeLimitExceeded)
    assert runs == [1, 2]


async def test_a_call_may_have_limits_of_its_own(any_app: App) -> None:
    @any_app.task(time_limit=0.05)
    async def export(seconds: float) -> str:
        try:
            await asyncio.sleep(seconds)
        except asyncio.CancelledError as error:
            raise ValueError("the body sees its cancellation") from error
        return "all of it"

    @any_app.task
    async def free(seconds: float) -> str:
        await asyncio.sleep(seconds)
        return "all of it"

    async with any_app, any_app.worker():
        longer = await export.options(time_limit=PATIENCE).enqueue(0.2)
        assert await longer.get(timeout=PATIENCE) == "all of it"
        none = await export.options(time_limit=float("inf")).enqueue(0.2)
        assert await none.get(timeout=PATIENCE) == "all of it"
        for call in (free.options(time_limit=0.05), free.options(soft_time_limit=0.05)):
            with pytest.raises(TaskFailed, match=r"time limit of 0\.05 s is over"):
                await (await call.enqueue(PATIENCE)).get(timeout=PATIENCE)


async def test_the_limits_of_a_call_go_with_its_retries(app: App) -> None:
    runs: list[int] = []

    @app.task(retry=Retry(2, base=0))
    async def export(context: Context) -> None:
        runs.append(context.attempt)
        await asyncio.sleep(PATIENCE)

    async with app, app.worker():
        with pytest.raises(TaskFailed, match="time limit"):
            await (await export.options(time_limit=0.05).enqueue()).get(timeout=PATIENCE)
    assert runs == [1, 2, 3]


def test_a_soft_limit_that_would_never_be_reached_is_refused(app: App) -> None:
    with pytest.raises(InvalidValue, match="soft_time_limit is less than the time_limit"):

        @app.task(time_limit=5, soft_time_limit=5)
        async def one() -> None: ...

    @app.task(time_limit=5)
    async def two() -> None: ...

    with pytest.raises(InvalidValue, match="which is 5 s"):
        two.options(soft_time_limit=6)
    with pytest.raises(InvalidValue, match="soft_time_limit is"):
        two.options(soft_time_limit=0)
    two.options(soft_time_limit=6, time_limit=7)


@pytest.mark.parametrize("how", ["child", "group", "timeout", "shielded", "wait_for", "anyio"])
@on_virtual_time
async def test_it_is_heard_wherever_the_task_waits(how: str) -> None:
    app = virtual_app()
    ended: list[str] = []

    async def child() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            ended.append("child")

    @app.task(soft_time_limit=5)
    async def wait() -> float:
        loop = asyncio.get_running_loop()
        began = loop.time()
        with suppress(SoftTimeLimitExceeded, ExceptionGroup):
            match how:
                case "child":
                    await asyncio.ensure_future(child())
                case "group":
                    async with asyncio.TaskGroup() as group:
                        group.create_task(child())
                        await anyio.sleep_forever()
                case "timeout":
                    async with asyncio.timeout(60):
                        await child()
                case "shielded":
                    await asyncio.shield(asyncio.sleep(60))  # noqa: TID251 - users do
                case "wait_for":
                    await asyncio.wait_for(child(), 60)  # noqa: TID251 - users do
                case _:
                    async with anyio.create_task_group() as group:
                        group.start_soon(child)
                        await anyio.sleep_forever()
        return loop.time() - began

    async with app.worker():
        assert round(await (await wait.enqueue())) == 5
    assert ended == ([] if how == "shielded" else ["child"])


@on_virtual_time
async def test_it_is_heard_although_what_the_task_awaits_swallows_it() -> None:
    app = virtual_app()

    async def swallow() -> str:
        with suppress(asyncio.CancelledError):
            await anyio.sleep_forever()
        return "went on"

    @app.task(soft_time_limit=5)
    async def wait() -> str:
        try:
            return await asyncio.ensure_future(swallow())
        except SoftTimeLimitExceeded:
            return "heard"

    async with app.worker():
        assert await (await wait.enqueue()) == "heard"


@on_virtual_time
async def test_a_cancellation_at_the_same_moment_goes_before() -> None:
    """In either order, and whoever sent it: nothing of it is left over."""
    seen: list[str] = []
    counts: list[int] = []

    async def body() -> None:
        try:
            await anyio.sleep_forever()
        except BaseException as error:
            seen.append(type(error).__name__)
            raise

    async def run() -> None:
        task = asyncio.current_task()
        assert task is not None
        before = task.cancelling()
        try:
            await SoftTimeLimit(body(), 5, None)
        finally:
            counts.append(task.cancelling() - before)

    for moment in (4.999, 5.0, 5.001):
        task = asyncio.ensure_future(run())
        await asyncio.sleep(0)
        asyncio.get_running_loop().call_later(moment, task.cancel)
        with suppress(asyncio.CancelledError, SoftTimeLimitExceeded):
            await task

    assert seen[0] == "CancelledError"
    assert seen[1] in {"CancelledError", "SoftTimeLimitExceeded"}
    assert seen[2] == "SoftTimeLimitExceeded"
    assert counts[0] == 1
    assert counts[2] == 0


async def test_a_generator_that_is_closed_in_the_midst_leaves_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    closed: list[int] = []

    async def body() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            closed.append(1)

    async def run() -> None:
        await SoftTimeLimit(body(), 60, None)

    coroutine = run()
    coroutine.send(None)
    coroutine.close()
    assert closed == [1]
    assert not caplog.records


def spin(seconds: float) -> None:
    """Work in Python, where a thread can be interrupted."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        sum(range(100))


async def test_a_thread_hears_of_its_soft_limit_at_its_next_line(any_app: App) -> None:
    @any_app.task(soft_time_limit=0.1)
    def work() -> str:
        try:
            spin(PATIENCE)
        except SoftTimeLimitExceeded:
            return "half of it"
        return "all of it"

    async with any_app, any_app.worker():
        assert await (await work.enqueue()).get(timeout=PATIENCE) == "half of it"


@pytest.mark.parametrize("limit", ["soft_time_limit", "time_limit"])
async def test_an_interruption_that_python_drops_is_raised_once_more(app: App, limit: str) -> None:
    """In a ``__del__``, or a callback of the garbage collector."""
    ended: list[str] = []

    class Dies:
        def __del__(self) -> None:
            spin(0.3)

    limits: dict[str, Any] = {limit: 0.1}

    @app.task(**limits)
    def work() -> None:
        Dies()
        try:
            spin(PATIENCE)
        except BaseException as error:
            ended.append(type(error).__name__)
            raise
        ended.append("never")

    async with app, app.worker():
        with pytest.raises(TaskFailed):
            await (await work.enqueue()).get(timeout=PATIENCE)
        await until(lambda: bool(ended))
    assert ended == ["SoftTimeLimitExceeded" if limit == "soft_time_limit" else "TimeLimitExceeded"]


async def test_a_thread_past_its_hard_limit_ends_at_its_next_line(app: App) -> None:
    ended: list[str] = []

    @app.task(time_limit=0.1)
    def work() -> None:
        try:
            spin(PATIENCE)
        except BaseException as error:
            ended.append(type(error).__name__)
            raise

    async with app, app.worker():
        with pytest.raises(TaskFailed, match=r"time limit of 0\.1 s is over"):
            await (await work.enqueue()).get(timeout=PATIENCE)
        await until(lambda: bool(ended))
    assert ended == ["TimeLimitExceeded"]


async def test_an_interruption_hits_nothing_but_the_function_it_is_meant_for(
    app: App, caplog: pytest.LogCaptureFixture
) -> None:
    """Functions that end at the moment of their limit, a thousand times: none hits what is next."""
    caplog.set_level(logging.ERROR)

    @app.task(soft_time_limit=0.002, keep_result=60)
    def short(number: int) -> int:
        spin(number % 20 * 0.0003)
        return number

    @app.task
    def innocent(number: int) -> int:
        spin(0.0005)
        return number

    calls: list[Any] = []
    for number in range(500):
        calls += [short.s(number), innocent.s(number)]
    failed: list[TaskFailed] = []
    async with app, app.worker(concurrency=2):
        for at, result in enumerate(await app.enqueue_many(calls)):
            if at % 2:
                assert await result.get(timeout=PATIENCE) == at // 2
                continue
            try:
                assert await result.get(timeout=PATIENCE) == at // 2
            except TaskFailed as error:
                failed.append(error)
    assert 0 < len(failed) < 500
    assert all(each.is_a(SoftTimeLimitExceeded) for each in failed)
    assert "please report" not in caplog.text


async def test_an_interruption_leaves_no_lock_of_anybody_s_behind(app: App, tmp_path: Path) -> None:
    """Threads that log all the time, and are interrupted at it."""
    handler = logging.FileHandler(tmp_path / "log")
    logger = logging.getLogger("interrupted")
    logger.addHandler(handler)
    logger.propagate = False

    @app.task(soft_time_limit=0.02)
    def work() -> None:
        for _ in range(10_000):
            logger.warning("a line")
            spin(0.0002)

    try:
        async with app, app.worker(concurrency=4):
            for result in await app.enqueue_many(work.s() for _ in range(60)):
                with pytest.raises(TaskFailed) as caught:
                    await result.get(timeout=PATIENCE)
                assert caught.value.is_a(SoftTimeLimitExceeded)
                assert caught.value.message.startswith("the soft time limit")
        assert handler.lock is not None
        assert handler.lock.acquire(timeout=1)
        handler.lock.release()
    finally:
        logger.removeHandler(handler)
        handler.close()


@on_virtual_time
async def test_what_has_become_another_error_is_told_next() -> None:
    app = virtual_app()

    async def convert() -> None:
        try:
            await anyio.sleep_forever()
        except asyncio.CancelledError:
            raise ConnectionError from None

    @app.task(soft_time_limit=5)
    async def work() -> str:
        try:
            with suppress(ConnectionError):
                await asyncio.ensure_future(convert())
            await anyio.sleep_forever()
        except SoftTimeLimitExceeded:
            return "heard"
        return "not heard"

    async with app.worker():
        assert await (await work.enqueue()) == "heard"


@on_virtual_time
async def test_who_cleans_up_after_a_cancellation_is_not_disturbed() -> None:
    app = virtual_app()
    seen: list[str] = []

    @app.task(soft_time_limit=5)
    async def work() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            await asyncio.sleep(4)
            seen.append("cleaned up")

    async with app.worker():
        result = await work.enqueue()
        await asyncio.sleep(3)
        await result.cancel()
        with pytest.raises(TaskCancelled):
            await result
    assert seen == ["cleaned up"]
