"""Every end of an attempt completes its delivery, as what it is: its own, or the pool's doing."""

import asyncio
import logging
import signal
import threading
from collections.abc import Callable
from typing import Any

import anyio
import pytest
import uvloop
from anyio import fail_after

from asyncq.app import App
from asyncq.errors import TaskFailed
from asyncq.language.message import Status
from asyncq.language.policies import Retry
from asyncq.worker.failures import is_interrupted
from tests.client.given import PATIENCE, Gate, new_app
from tests.worker.virtual import on_virtual_time, virtual_app

TWICE = Retry(times=1, base=0.0)


class Own(BaseException):
    """No `Exception`, and none of Python's either."""


def cancelled_future() -> "asyncio.Future[None]":
    future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    future.cancel()
    return future


def this_task() -> "asyncio.Task[Any]":
    task = asyncio.current_task()
    assert task is not None
    return task


async def cancel_itself() -> None:
    asyncio.get_running_loop().call_later(0.001, this_task().cancel)
    await asyncio.sleep(60)


async def cancel_itself_too_late_to_notice() -> None:
    this_task().cancel()
    raise asyncio.CancelledError


async def await_what_is_cancelled() -> None:
    await cancelled_future()


async def run_a_group_that_is_cancelled() -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(asyncio.sleep(60))
        asyncio.get_running_loop().call_soon(this_task().cancel)


async def wait_for_a_child_that_cancels_us() -> None:
    ours = this_task()

    async def child() -> None:
        ours.cancel("by the child")

    async with asyncio.TaskGroup() as group:
        group.create_task(child())
        await asyncio.sleep(60)


CANCELLATIONS = [
    cancel_itself,
    cancel_itself_too_late_to_notice,
    await_what_is_cancelled,
    run_a_group_that_is_cancelled,
    wait_for_a_child_that_cancels_us,
]


@pytest.mark.parametrize("body", CANCELLATIONS)
async def test_a_cancellation_of_its_own_is_a_failure_that_is_logged(
    app: App, body: Callable[[], Any], caplog: pytest.LogCaptureFixture
) -> None:
    runs: list[int] = []

    @app.task
    async def work() -> None:
        runs.append(1)
        await body()

    async with app.worker(concurrency=1):
        result = await work.enqueue()
        with pytest.raises(TaskFailed) as caught:
            await result.get(timeout=PATIENCE)

    assert caught.value.type == "CancelledError"
    assert runs == [1]
    assert any(result.id in line and "CancelledError" in line for line in caplog.messages)


@pytest.mark.parametrize(
    ("retry", "runs"),
    [
        (TWICE, 2),
        (Retry(times=1, base=0.0, on=(ValueError,)), 1),
        (Retry(times=1, base=0.0, on=(asyncio.CancelledError,)), 2),
    ],
    ids=["any", "others", "this"],
)
async def test_a_cancellation_of_its_own_is_retried_by_the_policy(
    app: App, retry: Retry, runs: int
) -> None:
    ran: list[int] = []

    @app.task(retry=retry)
    async def work() -> None:
        ran.append(1)
        await cancel_itself()

    async with app.worker():
        with pytest.raises(TaskFailed, match="CancelledError"):
            await (await work.enqueue()).get(timeout=PATIENCE)

    assert len(ran) == runs


ENDS: list[tuple[Callable[[], BaseException], str]] = [
    (GeneratorExit, "GeneratorExit"),
    (KeyboardInterrupt, "KeyboardInterrupt"),
    (lambda: SystemExit(0), "SystemExit"),
    (StopAsyncIteration, "StopAsyncIteration"),
    (asyncio.CancelledError, "CancelledError"),
    (Own, "tests.worker.test_ends.Own"),
    (lambda: BaseExceptionGroup("two", [GeneratorExit(), Own()]), "BaseExceptionGroup"),
    (lambda: BaseExceptionGroup("one", [asyncio.CancelledError()]), "BaseExceptionGroup"),
]


@pytest.fixture
def _no_ctrl_c() -> Any:
    """A host that handles SIGINT, as most do: then a task's own interrupt can be told from it."""
    before = signal.signal(signal.SIGINT, lambda _number, _frame: None)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("_no_ctrl_c")
@pytest.mark.parametrize("how", ["raised", "in a thread", "awaited", "awaited with clean-up"])
@pytest.mark.parametrize("limit", [None, 60.0])
@pytest.mark.parametrize(("make", "type_name"), ENDS, ids=[name for _, name in ENDS])
async def test_whatever_ends_an_attempt_concludes_its_delivery(
    app: App, make: Callable[[], BaseException], type_name: str, how: str, limit: float | None
) -> None:
    async def raise_it() -> None:
        raise make()

    def raise_it_in_a_thread() -> None:
        raise make()

    async def await_it() -> None:
        future = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().call_soon(future.set_exception, make())
        await future

    async def await_it_and_clean_up() -> None:
        try:
            await await_it()
        finally:
            await asyncio.sleep(0)

    bodies: dict[str, Callable[[], Any]] = {
        "raised": raise_it,
        "in a thread": raise_it_in_a_thread,
        "awaited": await_it,
        "awaited with clean-up": await_it_and_clean_up,
    }
    work = app.task(name="work", time_limit=limit)(bodies[how])

    @app.task
    async def after() -> int:
        return 1

    async with app.worker(concurrency=1):
        result = await work.enqueue()
        with pytest.raises(TaskFailed) as caught:
            await result.get(timeout=PATIENCE)
        assert await result.status() is Status.FAILED
        assert await (await after.enqueue()).get(timeout=PATIENCE) == 1

    ignored = how == "awaited with clean-up" and type_name == "GeneratorExit"
    assert caught.value.type == ("RuntimeError" if ignored else type_name)


async def test_stop_iteration_in_a_thread_keeps_its_name(app: App) -> None:
    @app.task
    def first() -> int:
        return next(iter(()))

    async with app.worker():
        with pytest.raises(TaskFailed) as caught:
            await (await first.enqueue()).get(timeout=PATIENCE)

    assert caught.value.type == "StopIteration"


async def test_a_pending_cancellation_does_not_undo_what_a_task_returned(app: App) -> None:
    @app.task
    async def work() -> int:
        this_task().cancel()
        return 7

    async with app.worker():
        assert await (await work.enqueue()).get(timeout=PATIENCE) == 7


async def test_what_is_cancelled_before_it_began_is_given_back(app: App) -> None:
    gate = Gate()
    ran: list[str] = []

    @app.task
    async def cancel_all() -> None:
        ours = this_task()
        for task in asyncio.all_tasks() - {ours}:
            if "Executor" in repr(task.get_coro()):
                task.cancel()
        await gate.pass_through()

    @app.task
    async def work(name: str) -> str:
        ran.append(name)
        return name

    async with app:
        results = await app.enqueue_many([cancel_all.s(), *(work.s(str(n)) for n in range(20))])
        async with app.worker(concurrency=50):
            gate.open()
            for n, result in enumerate(results[1:]):
                assert await result.get(timeout=PATIENCE) == str(n)


@on_virtual_time
async def test_a_value_returned_in_spite_of_the_pool_stands() -> None:
    app = virtual_app(grace=1.0)
    started = anyio.Event()

    @app.task
    async def work() -> str:
        started.set()
        try:
            await anyio.sleep_forever()
        except asyncio.CancelledError:
            await asyncio.sleep(0.1)
        return "saved"

    async with app:
        async with app.worker():
            result = await work.enqueue()
            await started.wait()

        assert await result == "saved"


@on_virtual_time
async def test_a_failure_that_the_pool_did_not_cause_stands() -> None:
    app = virtual_app(grace=1.0)
    started = anyio.Event()

    @app.task
    async def work() -> None:
        started.set()
        with anyio.CancelScope(shield=True):
            try:
                await asyncio.sleep(1.5)
            except asyncio.CancelledError:
                await asyncio.sleep(0.1)
        raise ValueError("its own")

    async with app:
        async with app.worker():
            result = await work.enqueue()
            await started.wait()

        with pytest.raises(TaskFailed, match="ValueError: its own"):
            await result


@on_virtual_time
@pytest.mark.parametrize("then", ["breaks", "cancels itself as well"])
async def test_what_the_pool_cancelled_goes_back_whatever_follows_from_that(then: str) -> None:
    app = virtual_app(grace=1.0)
    started: list[int] = []
    began = anyio.Event()

    @app.task(retry=None)
    async def work() -> str:
        started.append(1)
        began.set()
        if len(started) == 2:
            return "done"
        try:
            await anyio.sleep_forever()
        except asyncio.CancelledError as error:
            if then == "breaks":
                raise ConnectionError("in the middle of a call") from error
            this_task().cancel()
            await asyncio.sleep(1)
        return "never"

    async with app:
        async with app.worker():
            result = await work.enqueue()
            await began.wait()
        assert await result.status() is Status.QUEUED
        async with app.worker():
            assert await result == "done"


def test_the_same_holds_under_uvloop() -> None:
    async def main() -> list[str]:
        app = new_app(grace=1.0)
        types: list[str] = []
        tasks = [app.task(name=body.__name__)(body) for body in CANCELLATIONS]
        async with app.worker():
            for task in tasks:
                with pytest.raises(TaskFailed) as caught:
                    await (await task.enqueue()).get(timeout=PATIENCE)
                types.append(caught.value.type)
        return types

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        assert runner.run(main()) == ["CancelledError"] * len(CANCELLATIONS)


def test_ctrl_c_is_told_from_a_task_that_interrupts_itself() -> None:
    def handler(_number: int, _frame: object) -> None:
        raise KeyboardInterrupt

    def caught(raising: Callable[[], None]) -> KeyboardInterrupt:
        try:
            raising()
        except KeyboardInterrupt as error:
            return error
        raise AssertionError

    def by_itself() -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, handler)
    try:
        assert not is_interrupted(caught(by_itself))
        assert is_interrupted(caught(lambda: signal.raise_signal(signal.SIGINT)))
        signal.signal(signal.SIGINT, signal.default_int_handler)
        assert is_interrupted(caught(by_itself))  # nothing tells: Ctrl-C must not be lost
        told: list[bool] = []
        thread = threading.Thread(target=lambda: told.append(is_interrupted(caught(by_itself))))
        thread.start()
        thread.join()
        assert told == [False]
    finally:
        signal.signal(signal.SIGINT, before)


async def test_a_retry_is_logged_with_what_it_is_for(
    app: App, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)

    @app.task(retry=TWICE)
    async def work() -> None:
        raise asyncio.CancelledError

    async with app.worker():
        with fail_after(PATIENCE), pytest.raises(TaskFailed):
            await (await work.enqueue())

    assert sum("CancelledError" in line for line in caplog.messages) == 2
