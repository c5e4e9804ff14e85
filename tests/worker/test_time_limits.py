"""Attempts that go on after their time limit, although they were cancelled then."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress

import anyio
import pytest

from asyncq.errors import TaskFailed, TimeLimitExceeded
from asyncq.worker.time_limit import INSIST
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
