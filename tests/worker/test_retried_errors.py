"""Which errors a retry policy takes for those that it names."""

import asyncio
from collections.abc import Callable
from typing import Any

import anyio
import pytest

import asyncq
from asyncq import testing
from asyncq.app import App
from asyncq.errors import TaskFailed, TimeLimitExceeded
from asyncq.language.policies import Retry
from tests.client.given import PATIENCE
from tests.worker.virtual import on_virtual_time, virtual_app


class Own(BaseException):
    pass


async def test_only_the_errors_that_the_policy_names_are_tried_again(app: App) -> None:
    attempts: list[str] = []

    @app.task(retry=Retry(times=1, base=0.0, on=(OSError,)))
    async def fail(kind: str) -> None:
        attempts.append(kind)
        raise {"os": ConnectionError, "value": ValueError, "exit": SystemExit}[kind]

    async with app.worker():
        for kind in ("os", "value", "exit"):
            with pytest.raises(TaskFailed):
                await (await fail.enqueue(kind)).get(timeout=PATIENCE)

    assert attempts == ["os", "os", "value", "exit"]


@on_virtual_time
@pytest.mark.parametrize("on", [TimeoutError, TimeLimitExceeded, asyncq.AsyncqError, OSError])
async def test_a_time_limit_is_tried_again_by_who_retries_on_time_outs(
    on: type[BaseException],
) -> None:
    app = virtual_app()
    attempts: list[int] = []

    @app.task(time_limit=5.0, retry=Retry(times=2, base=1.0, on=on))
    async def slow(ctx: asyncq.Context) -> str:
        attempts.append(ctx.attempt)
        if ctx.attempt < 3:
            await anyio.sleep(60)
        return "done"

    async with app.worker():
        assert await (await slow.enqueue()) == "done"

    assert attempts == [1, 2, 3]


async def test_who_waits_tells_a_time_limit_from_the_end_of_his_patience(app: App) -> None:
    @app.task(time_limit=0.01)
    async def slow() -> None:
        await anyio.sleep_forever()

    async with app.worker():
        result = await slow.enqueue()

        with pytest.raises(TaskFailed) as caught:
            await result.get(timeout=PATIENCE)

    assert not isinstance(caught.value, TimeoutError)
    assert caught.value.is_a(TimeoutError)
    assert caught.value.type == "asyncq.TimeLimitExceeded"


def nested(*errors: BaseException) -> BaseException:
    return BaseExceptionGroup("outer", [BaseExceptionGroup("inner", errors)])


@pytest.mark.parametrize(
    ("make", "is_retried"),
    [
        (lambda: ExceptionGroup("one", [TimeoutError()]), True),
        (lambda: nested(TimeoutError(), ConnectionError()), True),
        (lambda: nested(TimeoutError(), ValueError()), False),
        (lambda: nested(TimeoutError(), Own()), False),
        (lambda: ExceptionGroup("other", [ValueError()]), False),
    ],
)
async def test_a_group_is_tried_again_if_all_that_is_in_it_is(
    app: App, make: Callable[[], BaseException], *, is_retried: bool
) -> None:
    attempts: list[Any] = []

    @app.task(retry=Retry(times=1, base=0.0, on=[TimeoutError, ConnectionError]))
    async def fail() -> None:
        attempts.append(make())
        raise attempts[-1]

    async with testing.run(app) as run:
        with pytest.raises(TaskFailed):
            await (await fail.enqueue()).get(timeout=PATIENCE)
        await run.until_idle()

    assert len(attempts) == 1 + is_retried


async def test_what_a_task_group_raises_is_tried_again(app: App) -> None:
    attempts: list[int] = []

    async def flaky(attempt: int) -> None:
        if attempt == 1:
            raise ConnectionError

    @app.task(retry=Retry(times=1, base=0.0, on=ConnectionError))
    async def both(ctx: asyncq.Context) -> str:
        attempts.append(ctx.attempt)
        async with asyncio.TaskGroup() as group:
            group.create_task(flaky(ctx.attempt))
            group.create_task(flaky(ctx.attempt))
        return "done"

    async with app.worker():
        assert await (await both.enqueue()).get(timeout=PATIENCE) == "done"

    assert attempts == [1, 2]


@pytest.mark.parametrize(
    ("policy", "runs"),
    [
        (Retry(times=2, base=1.0, on=ValueError), 1),
        (Retry(times=2, base=1.0, not_on=TimeLimitExceeded), 1),
        (Retry(times=2, base=1.0, not_on=TimeoutError), 1),
        (Retry(times=2, base=1.0, when=lambda error: not isinstance(error, TimeoutError)), 1),
        (Retry(times=2, base=1.0, not_on=ValueError), 3),
        (Retry(times=2, base=1.0), 3),
    ],
)
@on_virtual_time
async def test_a_time_limit_is_tried_again_as_any_error_and_told_in_the_log(
    policy: Retry, runs: int, caplog: pytest.LogCaptureFixture
) -> None:
    app = virtual_app()
    seen: list[str] = []

    @app.task(time_limit=5.0, retry=policy)
    async def slow() -> None:
        try:
            await anyio.sleep_forever()
        except BaseException as error:
            seen.append(type(error).__name__)
            raise

    async with app.worker():
        with pytest.raises(TaskFailed, match=r"the time limit of 5\.0 s is over") as caught:
            await (await slow.enqueue())

    assert caught.value.is_a(TimeLimitExceeded)
    assert seen == ["CancelledError"] * runs
    told = [line for line in caplog.messages if "the time limit of 5.0 s is over" in line]
    assert len(told) == runs
    assert all("asyncq.TimeLimitExceeded" in line for line in told)
    assert [f"in attempt {n}" in line for n, line in enumerate(told, start=1)] == [True] * runs
