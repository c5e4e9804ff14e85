"""Attempts that go on after their time limit, although they were cancelled then."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress

import anyio
import pytest

from asyncq.app import App
from asyncq.errors import TaskFailed, TimeLimitExceeded
from asyncq.worker.time_limit import INSIST
from tests.client.given import PATIENCE
from tests.worker.virtual import on_virtual_time, virtual_app

LIMIT = 5.0  # seconds
SAID = f"goes on {INSIST:g} s after its time limit of {LIMIT:g} s"


async def swallow(times: int) -> None:
    """Go on after so many cancellations."""
    for _ in range(times):
        with suppress(asyncio.CancelledError):
            await anyio.sleep_forever()
    await anyio.sleep_forever()


async def swallow_by_time_outs(times: int) -> None:
    """As that, in the midst of time-outs of its own."""
    for _ in range(times):
        try:
            async with asyncio.timeout(3600):
                await anyio.sleep_forever()
        except asyncio.CancelledError:
            pass
    async with asyncio.timeout(3600):
        await anyio.sleep_forever()


@pytest.mark.parametrize("body", [swallow, swallow_by_time_outs])
@pytest.mark.parametrize("times", [1, 3])
@on_virtual_time
async def test_who_swallows_the_cancellation_is_cancelled_again_until_it_ends(
    body: Callable[[int], Awaitable[None]], times: int, caplog: pytest.LogCaptureFixture
) -> None:
    app = virtual_app()

    @app.task(time_limit=LIMIT)
    async def stubborn() -> None:
        await body(times)

    async with app.worker(concurrency=1):
        begun = asyncio.get_running_loop().time()
        result = await stubborn.enqueue()
        with pytest.raises(TaskFailed) as caught:
            await result
        took = asyncio.get_running_loop().time() - begun

    assert caught.value.is_a(TimeLimitExceeded)
    assert round(took) == LIMIT + times * INSIST
    assert caplog.text.count(SAID) == 1
    assert f"stubborn[{result.id}] {SAID}" in caplog.text


@on_virtual_time
async def test_who_cleans_up_in_time_is_left_alone(caplog: pytest.LogCaptureFixture) -> None:
    app = virtual_app()
    cleaned: list[bool] = []

    @app.task(time_limit=LIMIT)
    async def tidy() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            await asyncio.sleep(INSIST - 1)
            cleaned.append(True)

    async with app.worker():
        with pytest.raises(TaskFailed, match=r"the time limit of 5\.0 s is over"):
            await (await tidy.enqueue())

    assert cleaned == [True]
    assert SAID not in caplog.text


@on_virtual_time
async def test_what_it_returns_after_all_stands() -> None:
    app = virtual_app()

    @app.task(time_limit=LIMIT)
    async def late() -> str:
        for _ in range(2):
            with suppress(asyncio.CancelledError):
                await anyio.sleep_forever()
        await asyncio.sleep(1)
        return "late"

    async with app.worker():
        assert await (await late.enqueue()) == "late"


@pytest.mark.parametrize("is_caught", [True, False])
@on_virtual_time
async def test_both_limits_at_one_turn_of_the_loop_are_one_failure(*, is_caught: bool) -> None:
    app = virtual_app()
    seen: list[str] = []

    @app.task(soft_time_limit=LIMIT - 1e-10, time_limit=LIMIT)
    async def work() -> None:
        try:
            await anyio.sleep_forever()
        except asyncio.CancelledError as error:  # `SoftTimeLimitExceeded` is one as well
            seen.append(type(error).__name__)
            if not is_caught:
                raise
        await anyio.sleep_forever()

    async with app.worker(concurrency=1) as worker:
        begun = asyncio.get_running_loop().time()
        with pytest.raises(TaskFailed) as caught:
            await (await work.enqueue())
        took = asyncio.get_running_loop().time() - begun
        assert worker.slots.free == 1

    assert caught.value.is_a(TimeLimitExceeded)
    assert seen == ["CancelledError"]
    assert took <= LIMIT + INSIST * is_caught


@pytest.mark.parametrize("is_over", [True, False])
async def test_what_blocks_the_loop_hears_of_its_limit_when_it_waits_again(
    app: App, *, is_over: bool
) -> None:
    @app.task(time_limit=0.05)
    async def block() -> str:
        time.sleep(0.2)  # noqa: ASYNC251 - that is the fault
        if not is_over:
            await asyncio.sleep(0.01)
        return "late"

    async with app.worker():
        result = await block.enqueue()
        if is_over:
            assert await result.get(timeout=PATIENCE) == "late"
        else:
            with pytest.raises(TaskFailed, match=r"the time limit of 0\.05 s is over"):
                await result.get(timeout=PATIENCE)
