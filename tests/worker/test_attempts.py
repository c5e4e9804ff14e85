"""What becomes of an attempt: failures, retries, limits, expiry; and what a task can know."""

import asyncio
import contextvars
import logging
import threading
from datetime import timedelta
from itertools import pairwise
from typing import Any

import anyio
import pytest
from anyio import fail_after

from asyncq import testing
from asyncq.app import App
from asyncq.client.context import Context, current_context
from asyncq.errors import RetryLater, TaskExpired, TaskFailed, TimeLimitExceeded
from asyncq.language.message import Status, new_id
from asyncq.language.policies import Retry
from asyncq.worker.failures import MESSAGE_LIMIT, TRACEBACK_LIMIT
from tests.client.given import PATIENCE, Gate, until_status
from tests.worker.virtual import on_virtual_time, virtual_app

AT_ONCE = Retry(times=3, base=0.0)


class Unprintable(Exception):
    def __str__(self) -> str:
        raise SystemExit("even here")


class Odd(Exception):
    """Not of the builtins, so its name says where it is from."""


async def test_a_failure_is_text_type_message_and_traceback(app: App) -> None:
    @app.task
    async def fail() -> None:
        secret = f"canary{'-in-a-'}local"
        assert secret
        try:
            missing: dict[str, int] = {}
            _ = missing["inner"]
        except KeyError as error:
            raise Odd("outer") from error

    async with app.worker():
        with pytest.raises(TaskFailed) as caught:
            await (await fail.enqueue()).get(timeout=PATIENCE)

    assert caught.value.type == "tests.worker.test_attempts.Odd"
    assert caught.value.message == "outer"
    assert "KeyError: 'inner'" in caught.value.traceback
    assert 'raise Odd("outer") from error' in caught.value.traceback
    assert "canary-in-a-local" not in caught.value.traceback
    assert "executor.py" not in caught.value.traceback.rsplit("direct cause", 1)[0]


async def test_a_failure_is_cut_to_size(app: App) -> None:
    @app.task
    async def fail() -> None:
        raise ValueError("x" * 1_000_000)

    async with app.worker():
        with pytest.raises(TaskFailed) as caught:
            await (await fail.enqueue()).get(timeout=PATIENCE)

    assert len(caught.value.message) == MESSAGE_LIMIT
    assert MESSAGE_LIMIT < len(caught.value.traceback) < TRACEBACK_LIMIT


@pytest.mark.parametrize(
    ("error", "type_name", "text"),
    [
        (Unprintable(), "tests.worker.test_attempts.Unprintable", "cannot be had"),
        (SystemExit(3), "SystemExit", "3"),
        (ValueError("no utf-8: \udcff"), "ValueError", "no utf-8: \\udcff"),
        (TimeoutError("its own"), "TimeoutError", "its own"),
        (ExceptionGroup("two", [ValueError("a"), KeyError("b")]), "ExceptionGroup", "two"),
        (AssertionError(), "AssertionError", ""),
    ],
    ids=repr,
)
@pytest.mark.parametrize("in_thread", [False, True])
async def test_whatever_a_task_raises_is_its_own_failure_and_the_worker_goes_on(
    app: App, error: BaseException, type_name: str, text: str, *, in_thread: bool
) -> None:
    async def fail() -> None:
        raise error

    def fail_plainly() -> None:
        raise error

    failing = app.task(name="fail")(fail_plainly if in_thread else fail)

    @app.task
    async def after() -> int:
        return 1

    async with app.worker(concurrency=1):
        with pytest.raises(TaskFailed) as caught:
            await (await failing.enqueue()).get(timeout=PATIENCE)
        assert await (await after.enqueue()).get(timeout=PATIENCE) == 1

    assert caught.value.type == type_name
    assert text in caught.value.message


async def test_stop_iteration_of_a_plain_function_is_a_failure(app: App) -> None:
    @app.task
    def first() -> int:
        return next(iter(()))

    async with app.worker():
        with pytest.raises(TaskFailed, match="StopIteration"):
            await (await first.enqueue()).get(timeout=PATIENCE)


async def test_text_that_no_store_can_carry_does_not_end_the_worker(redis_url: str) -> None:
    app = App(f"{redis_url}?prefix={new_id()}")

    @app.task
    async def fail(text: str) -> str:
        raise OSError(text.encode().decode("ascii", "surrogateescape"))

    async with app.worker():
        with pytest.raises(TaskFailed, match=r"caf\\udcc3\\udca9"):
            await (await fail.enqueue("café")).get(timeout=PATIENCE)


async def test_scopes_and_timeouts_inside_of_a_task_are_its_own(app: App) -> None:
    @app.task
    async def survive() -> list[str]:
        told: list[str] = []
        with anyio.move_on_after(0):
            await anyio.sleep_forever()
        told.append("moved on")
        try:
            async with asyncio.timeout(0):
                await anyio.sleep_forever()
        except TimeoutError:
            told.append("timed out")
        async with anyio.create_task_group() as group:
            group.start_soon(anyio.sleep_forever)
            group.cancel_scope.cancel()
        told.append("group ended")
        return told

    async with app.worker():
        result = await survive.enqueue()

        assert await result.get(timeout=PATIENCE) == ["moved on", "timed out", "group ended"]


async def test_a_failed_task_is_tried_again_as_often_as_its_policy_says(app: App) -> None:
    attempts: list[int] = []

    @app.task(retry=AT_ONCE)
    async def fail(ctx: Context) -> None:
        attempts.append(ctx.attempt)
        raise ValueError(f"attempt {ctx.attempt}")

    async with app.worker():
        with pytest.raises(TaskFailed, match="attempt 4"):
            await (await fail.enqueue()).get(timeout=PATIENCE)

    assert attempts == [1, 2, 3, 4]


async def test_a_task_that_recovers_succeeds(app: App) -> None:
    @app.task(retry=AT_ONCE)
    def third_time(ctx: Context) -> int:
        if ctx.attempt < 3:
            raise ValueError
        return ctx.attempt

    async with app.worker():
        assert await (await third_time.enqueue()).get(timeout=PATIENCE) == 3


async def test_the_pause_before_each_retry_grows(app: App) -> None:
    moments: list[float] = []

    @app.task(retry=Retry(times=3, base=10.0, factor=2.0, ceiling=30.0, jitter=False))
    async def fail() -> None:
        moments.append(run.clock.now())
        raise ValueError

    async with testing.run(app) as run:
        await fail.enqueue()
        await run.advance(timedelta(hours=1))
        assert len(run.failures) == 1

    pauses = [round(b - a) for a, b in pairwise(moments)]
    assert pauses == [10, 20, 30]


async def test_a_task_may_ask_to_run_again_later_whatever_its_policy(app: App) -> None:
    moments: list[float] = []

    @app.task
    async def not_yet(ctx: Context) -> int:
        moments.append(run.clock.now())
        if ctx.attempt < 5:
            raise RetryLater(600)
        return ctx.attempt

    async with testing.run(app, eager=True) as run:
        assert await (await not_yet.enqueue()) == 5

    assert round(moments[-1] - moments[0]) == 4 * 600


async def test_a_pause_that_is_no_number_fails_the_task(app: App) -> None:
    @app.task
    async def never() -> None:
        raise RetryLater(float("nan"))

    async with app.worker():
        with pytest.raises(TaskFailed, match="a delay is a number of seconds"):
            await (await never.enqueue()).get(timeout=PATIENCE)


@on_virtual_time
async def test_a_coroutine_ends_at_its_time_limit() -> None:
    app = virtual_app()
    ended: list[float] = []

    @app.task(time_limit=30.0)
    async def endless() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            ended.append(asyncio.get_running_loop().time())

    async with app.worker():
        begun = asyncio.get_running_loop().time()
        with pytest.raises(TaskFailed, match=r"the time limit of 30\.0 s is over") as caught:
            await (await endless.enqueue())

    assert caught.value.type == "asyncq.TimeLimitExceeded"
    assert caught.value.is_a(TimeLimitExceeded)
    assert round(ended[0] - begun) == 30


async def test_a_time_out_of_the_tasks_own_is_not_the_time_limit(app: App) -> None:
    @app.task(time_limit=60.0)
    async def own() -> None:
        with anyio.fail_after(0):
            await anyio.sleep_forever()

    async with app.worker():
        with pytest.raises(TaskFailed) as caught:
            await (await own.enqueue()).get(timeout=PATIENCE)

    assert caught.value.type == "TimeoutError"


async def test_a_time_limit_counts_as_a_failure_that_may_be_tried_again(app: App) -> None:
    @app.task(time_limit=0.01, retry=Retry(times=1, base=0.0))
    async def second_time(ctx: Context) -> int:
        if ctx.attempt == 1:
            await anyio.sleep_forever()
        return ctx.attempt

    async with app.worker():
        assert await (await second_time.enqueue()).get(timeout=PATIENCE) == 2


async def test_plain_functions_that_hang_are_left_behind_and_block_nobody(app: App) -> None:
    release = threading.Event()

    @app.task(time_limit=0.02)
    def hang() -> None:
        release.wait()

    @app.task
    def prompt(n: int) -> int:
        return n

    async with app.worker(concurrency=2):
        try:
            stuck = [await hang.enqueue() for _ in range(4)]
            for result in stuck:
                with pytest.raises(TaskFailed, match="time limit"):
                    await result.get(timeout=PATIENCE)
            assert [await (await prompt.enqueue(n)).get(timeout=PATIENCE) for n in (1, 2)] == [1, 2]
        finally:
            release.set()


async def test_plain_functions_run_in_threads_at_the_same_time(app: App) -> None:
    barrier = threading.Barrier(4, timeout=PATIENCE)

    @app.task
    def meet() -> bool:
        barrier.wait()
        return threading.current_thread() is not threading.main_thread()

    async with app.worker(concurrency=4):
        results = [await meet.enqueue() for _ in range(4)]

        assert [await result.get(timeout=PATIENCE) for result in results] == [True] * 4


async def test_what_has_expired_is_not_started(app: App) -> None:
    ran: list[str] = []

    @app.task
    async def note(name: str) -> None:
        ran.append(name)

    async with testing.run(app, worker=False) as run:
        late = await note.options(expires=60).enqueue("late")
        in_time = await note.options(expires=62).enqueue("in time")
        await run.advance(61)
        async with app.worker():
            with pytest.raises(TaskExpired):
                await late.get(timeout=PATIENCE)
            await in_time.get(timeout=PATIENCE)

    assert ran == ["in time"]


async def test_the_context_says_what_runs(app: App) -> None:
    @app.task(name="tell", queue="talk")
    async def tell(ctx: Context) -> list[Any]:
        assert current_context() is ctx
        return [ctx.id, ctx.task, ctx.queue, ctx.attempt, ctx.parent_id, ctx.root_id]

    async with app.worker():
        result = await tell.enqueue()
        told = await result.get(timeout=PATIENCE)

    assert told == [result.id, "tell", "talk", 1, None, result.id]


async def test_a_plain_function_finds_its_context(app: App) -> None:
    @app.task
    def tell(n: int, *, ctx: Context) -> bool:
        return current_context() is ctx

    async with app.worker():
        untyped: Any = tell  # a keyword-only parameter cannot be taken out of a type
        assert await (await untyped.enqueue(1)).get(timeout=PATIENCE) is True


def test_outside_of_a_task_there_is_no_context() -> None:
    with pytest.raises(LookupError, match="does not run in a task"):
        current_context()


async def test_context_variables_end_with_their_task(app: App) -> None:
    mark: contextvars.ContextVar[str] = contextvars.ContextVar("mark", default="clean")

    @app.task
    async def leave(text: str) -> str:
        before = mark.get()
        mark.set(text)
        return before

    @app.task
    def leave_plainly(text: str) -> str:
        before = mark.get()
        mark.set(text)
        return before

    async with app.worker(concurrency=1):
        results = [await task.enqueue("x") for task in (leave, leave_plainly) * 5]

        assert {await result.get(timeout=PATIENCE) for result in results} == {"clean"}
        with pytest.raises(LookupError):
            current_context()


async def test_the_highest_priority_comes_first(app: App) -> None:
    order: list[int] = []

    @app.task
    async def note(priority: int) -> None:
        order.append(priority)

    async with app:
        for priority in (0, 9, 5, 9, 1):
            await note.options(priority=priority).enqueue(priority)
        await app.make_worker(concurrency=1, burst=True).run()

    assert order == [9, 9, 5, 1, 0]


async def test_arguments_do_not_show_in_the_log(app: App, caplog: pytest.LogCaptureFixture) -> None:
    @app.task(retry=Retry(times=1, base=0.0))
    async def fail(password: str) -> None:
        raise ValueError

    with caplog.at_level(logging.DEBUG):
        async with app.worker():
            with pytest.raises(TaskFailed):
                await (await fail.enqueue("hunter2")).get(timeout=PATIENCE)

    assert "failed in attempt 2" in caplog.text
    assert "hunter2" not in caplog.text


async def test_an_attempt_says_in_its_record_when_and_where_it_ran(app: App) -> None:
    @app.task(name="note")
    async def note() -> None: ...

    async with app.worker() as worker:
        result = await note.enqueue()
        await until_status(result, Status.SUCCEEDED)
        [record] = await app.client.backend.fetch([result.id])

    assert record is not None
    assert (record.task, record.attempt, record.worker) == ("note", 1, worker.name)
    assert 0 < record.started_at <= record.finished_at


async def test_tasks_that_wait_run_side_by_side(app: App) -> None:
    gate = Gate()
    running = 0

    @app.task
    async def wait() -> None:
        nonlocal running
        running += 1
        if running == 50:
            gate.open()
        await gate.pass_through()

    async with app.worker(concurrency=50):
        results = await app.enqueue_many(wait.s() for _ in range(50))
        with fail_after(PATIENCE):
            for result in results:
                await result


async def test_what_expires_between_attempts_says_what_the_last_one_raised(app: App) -> None:
    @app.task(retry=Retry(times=5, base=40.0, factor=1.0, jitter=False))
    async def fail(ctx: Context) -> None:
        raise ValueError(f"no {ctx.attempt}" + "!" * 10_000)

    async with testing.run(app, eager=True):
        result = await fail.options(expires=100).enqueue()
        with pytest.raises(
            TaskExpired, match="it had failed 3 times, the last time with"
        ) as caught:
            await result.get(timeout=PATIENCE)

    assert caught.value.attempts == 3
    assert caught.value.last_error.startswith("ValueError: no 3!!!")
    assert len(caught.value.last_error) < 600
