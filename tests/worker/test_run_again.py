"""A task that asks to run again is heard out of task groups, too."""

import asyncio

import anyio
import pytest

from asyncq.app import App
from asyncq.context import Context
from asyncq.errors import RetryLater, TaskFailed
from tests.client.given import PATIENCE
from tests.worker.virtual import on_virtual_time, virtual_app


@on_virtual_time
async def test_a_task_may_ask_to_run_again_out_of_a_task_group() -> None:
    app = virtual_app()
    moments: list[float] = []

    async def ask() -> None:
        raise RetryLater(600)

    @app.task
    async def not_yet(ctx: Context) -> int:
        moments.append(asyncio.get_running_loop().time())
        if ctx.attempt < 3:
            async with asyncio.TaskGroup() as group:
                group.create_task(ask())
                group.create_task(anyio.sleep_forever())
        return ctx.attempt

    async with app.worker():
        assert await (await not_yet.enqueue()) == 3

    assert round(moments[-1] - moments[0]) == 2 * 600


@on_virtual_time
async def test_of_several_pauses_the_longest_counts() -> None:
    app = virtual_app()
    moments: list[float] = []

    @app.task
    async def not_yet(ctx: Context) -> None:
        moments.append(asyncio.get_running_loop().time())
        if ctx.attempt == 1:
            inner = ExceptionGroup("inner", [RetryLater(600)])
            raise ExceptionGroup("outer", [RetryLater(5), inner])

    async with app.worker():
        await (await not_yet.enqueue())

    assert round(moments[1] - moments[0]) == 600


async def test_what_fails_beside_who_asks_to_run_again_is_a_failure(app: App) -> None:
    runs: list[int] = []

    @app.task
    async def fail() -> None:
        runs.append(1)
        raise ExceptionGroup("both", [RetryLater(0.0), ValueError("no")])

    async with app.worker():
        with pytest.raises(TaskFailed, match="ExceptionGroup: both"):
            await (await fail.enqueue()).get(timeout=PATIENCE)

    assert runs == [1]
