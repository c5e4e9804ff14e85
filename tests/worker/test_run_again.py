"""A task that asks to run again is heard out of task groups, too."""

import asyncio

import anyio

from asyncq import testing
from asyncq.app import App
from asyncq.client.context import Context
from asyncq.errors import RetryLater
from tests.client.given import PATIENCE


async def test_a_task_may_ask_to_run_again_out_of_a_task_group(app: App) -> None:
    moments: list[float] = []

    async def ask() -> None:
        raise RetryLater(600)

    @app.task
    async def not_yet(ctx: Context) -> int:
        moments.append(run.clock.now())
        if ctx.attempt < 3:
            async with asyncio.TaskGroup() as group:
                group.create_task(ask())
                group.create_task(anyio.sleep_forever())
        return ctx.attempt

    async with testing.run(app) as run:
        result = await not_yet.enqueue()
        await run.advance(2 * 600)

        assert await result.get(timeout=PATIENCE) == 3

    assert round(moments[-1] - moments[0]) == 2 * 600


async def test_of_several_pauses_the_longest_counts(app: App) -> None:
    moments: list[float] = []

    @app.task
    async def not_yet(ctx: Context) -> None:
        moments.append(run.clock.now())
        if ctx.attempt == 1:
            inner = ExceptionGroup("inner", [RetryLater(600)])
            raise ExceptionGroup("outer", [RetryLater(5), inner])

    async with testing.run(app) as run:
        await not_yet.enqueue()
        await run.advance(600)

    assert round(moments[1] - moments[0]) == 600


async def test_what_fails_beside_who_asks_to_run_again_is_a_failure(app: App) -> None:
    runs: list[int] = []

    @app.task
    async def fail() -> None:
        runs.append(1)
        raise ExceptionGroup("both", [RetryLater(0.0), ValueError("no")])

    async with testing.run(app) as run:
        await fail.enqueue()
        await run.until_idle()
        [failure] = run.failures

    assert (failure.type, failure.message.partition(" (")[0]) == ("ExceptionGroup", "both")
    assert runs == [1]
