"""A worker beside a block: entered and left by other tasks, and what ends it meanwhile."""

import asyncio
from collections.abc import Coroutine
from typing import Any

import anyio
import pytest
from anyio import fail_after

from asyncq.app import App
from asyncq.errors import BrokerUnavailable
from asyncq.language.message import Status
from tests.client.given import PATIENCE, Gate, until, until_status


async def in_a_task_of_its_own(what: Coroutine[Any, Any, Any]) -> Any:
    return await asyncio.get_running_loop().create_task(what)


async def test_a_worker_may_be_left_by_another_task_than_entered_it(app: App) -> None:
    @app.task
    async def add(x: int, y: int) -> int:
        return x + y

    with fail_after(PATIENCE):
        worker = app.worker()
        await in_a_task_of_its_own(worker.__aenter__())
        assert await (await add.enqueue(1, 2)).get() == 3
        await in_a_task_of_its_own(worker.__aexit__(None, None, None))

    assert not app.is_connected


async def test_what_runs_ends_before_another_task_has_left_the_worker(app: App) -> None:
    gate = Gate()

    @app.task
    async def work() -> None:
        await gate.pass_through()

    with fail_after(PATIENCE):
        async with app:
            block = app.worker(grace=30.0)
            worker = await in_a_task_of_its_own(block.__aenter__())
            result = await work.enqueue()
            await gate.until_reached()
            async with anyio.create_task_group() as group:
                group.start_soon(block.__aexit__, None, None, None)
                await until(lambda: not worker.is_consuming)
                gate.open()
            assert await result.status() is Status.SUCCEEDED


async def test_who_is_cancelled_while_the_worker_drains_has_it_give_back_at_once(app: App) -> None:
    gate = Gate()

    @app.task
    async def work() -> None:
        await gate.pass_through()

    async with app:
        with fail_after(PATIENCE):
            block = app.worker(grace=3600.0)
            worker = await block.__aenter__()
            result = await work.enqueue()
            await gate.until_reached()
            leaving = asyncio.get_running_loop().create_task(block.__aexit__(None, None, None))
            await until(lambda: not worker.is_consuming)
            leaving.cancel()
            await asyncio.wait({leaving})

        assert leaving.cancelled()
        await until_status(result, Status.QUEUED)


async def test_what_ends_the_client_cancels_the_block_and_comes_out_of_it(
    app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = asyncio.Event()

    async def fail(self: object) -> None:
        await gate.wait()
        raise BrokerUnavailable("gone for good")

    async def body() -> None:
        async with app.worker():
            gate.set()
            await anyio.sleep_forever()

    monkeypatch.setattr("asyncq.client.client.Client.until_failed", fail)
    with fail_after(PATIENCE), pytest.raises(BrokerUnavailable, match="gone for good"):
        await body()

    current = asyncio.current_task()
    assert current is not None
    assert current.cancelling() == 0  # it can be waited in again


async def test_what_has_ended_the_worker_meanwhile_comes_out_where_another_task_leaves(
    app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = asyncio.Event()

    async def fail(self: object) -> None:
        await gate.wait()
        raise BrokerUnavailable("gone for good")

    monkeypatch.setattr("asyncq.client.client.Client.until_failed", fail)
    with fail_after(PATIENCE):
        block = app.worker()
        await in_a_task_of_its_own(block.__aenter__())
        gate.set()
        with pytest.raises(BrokerUnavailable, match="gone for good"):
            await in_a_task_of_its_own(block.__aexit__(None, None, None))
