"""An attempt whose worker is gone begins anew as the same attempt; what waits long waits once."""

import asyncio
from contextlib import AsyncExitStack

import anyio
import pytest

from asyncq import testing
from asyncq.app import App
from asyncq.client.context import Context
from asyncq.config import Config
from asyncq.errors import Snooze, TaskExpired
from asyncq.language.message import Status, new_id
from asyncq.language.policies import Retry
from tests.client.given import PATIENCE, Gate, until
from tests.worker.combinations import any_app

__all__ = ["any_app"]  # a fixture

LEASE = 0.2  # seconds
LONG = 10 * LEASE
WORKERS = 4
DEPLOYS = 2 * Config().max_crashes


@testing.on_virtual_time
async def test_a_lost_worker_costs_no_attempt_and_the_limit_counts_anew() -> None:
    app = App(f"memory://{new_id()}")
    attempts: list[int] = []

    @app.task(retry=Retry(1, base=0), time_limit=10)
    async def work(context: Context) -> int:
        attempts.append(context.attempt)
        if context.attempt == 1:
            raise ValueError
        await asyncio.sleep(6)
        if len(attempts) == 2:
            run.lose_lease()
            await anyio.sleep_forever()
        return context.attempt

    async with testing.run(app) as run:
        began = asyncio.get_running_loop().time()
        assert await (await work.enqueue()) == 2
        assert asyncio.get_running_loop().time() - began >= 12
    assert attempts == [1, 2, 2]


async def test_workers_that_are_told_to_leave_count_as_no_deaths(any_app: App) -> None:
    begun = 0
    attempts: list[int] = []
    gate = Gate()

    @any_app.task(name=f"work-{new_id()}")
    async def work(context: Context) -> str:
        nonlocal begun
        begun += 1
        attempts.append(context.attempt)
        await gate.pass_through()
        return "done"

    async with any_app:
        result = await work.enqueue()
        for count in range(1, DEPLOYS + 1):
            async with any_app.worker() as worker:
                await until(lambda: begun == count)  # noqa: B023 - called at once
                worker.hurry()
        gate.open()
        async with any_app.worker():
            assert await result.get(timeout=PATIENCE) == "done"
    assert attempts == [1] * (DEPLOYS + 1)


@pytest.mark.parametrize("any_app", ["memory", "sqlite", "redis", "rabbitmq+redis"], indirect=True)
async def test_what_waits_for_many_leases_is_one_message_that_runs_once(any_app: App) -> None:
    app = App(
        any_app.url.reveal(),
        backend=any_app.backend_url.reveal(),
        config=Config(lease=LEASE, grace=1.0),
    )
    runs: list[str] = []

    @app.task(name=f"later-{new_id()}")
    async def later() -> None:
        runs.append("later")

    @app.task(name=f"again-{new_id()}", retry=Retry(1, base=LONG, jitter=False))
    async def again(context: Context) -> None:
        runs.append("again")
        if context.attempt == 1:
            raise ValueError

    @app.task(name=f"snoozed-{new_id()}")
    async def snoozed() -> None:
        runs.append("snoozed")
        if runs.count("snoozed") == 1:
            raise Snooze(LONG)

    async with app, AsyncExitStack() as stack:
        for _ in range(WORKERS):
            await stack.enter_async_context(app.worker())
        calls = [later.options(delay=LONG), again.options(), snoozed.options()]
        results = [await call.enqueue() for call in calls]
        if app.client.broker.offers.finder is not None:
            with anyio.fail_after(PATIENCE):
                while True:
                    places = [await result.status() for result in results]
                    if places == [Status.SCHEDULED] * 3:
                        break
            depth = await app.queues.depth("default")
            assert (depth.ready, depth.in_flight, depth.delayed) == (0, 0, 3)
        for result in results:
            await result.get(timeout=PATIENCE)
        depth = await app.queues.depth("default")
        assert (depth.ready, depth.in_flight or 0, depth.delayed or 0) == (0, 0, 0)
    assert sorted(runs) == ["again", "again", "later", "snoozed", "snoozed"]


async def test_the_age_of_a_call_bounds_how_often_it_snoozes(app: App) -> None:
    runs: list[int] = []

    @app.task
    async def wait(context: Context) -> None:
        runs.append(context.attempt)
        raise Snooze(60)

    async with testing.run(app) as run:
        result = await wait.options(expires=600).enqueue()
        await run.advance(1200)
        with pytest.raises(TaskExpired):
            await result.get(timeout=PATIENCE)
    assert runs == [1] * 10
