"""How a worker ends: what runs gets its time, the rest goes back uncounted, nothing is lost."""

import asyncio
import threading
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from typing import Any

import anyio
import anyio.to_thread
import pytest
from anyio import fail_after

from asyncq.app import App
from asyncq.client.context import Context
from asyncq.client.result import Result
from asyncq.drivers.memory.broker import MemoryBroker, MemoryConsumer
from asyncq.errors import BrokerUnavailable
from asyncq.language.message import Status
from asyncq.seams.broker import Completion
from asyncq.worker import completer
from tests.client.given import PATIENCE, Gate, new_app, until, until_status
from tests.worker.virtual import on_virtual_time, virtual_app


def now() -> float:
    return asyncio.get_running_loop().time()


@on_virtual_time
async def test_what_runs_may_end_within_the_grace_period() -> None:
    app = virtual_app(grace=30.0)
    started = anyio.Event()

    @app.task
    async def work() -> str:
        started.set()
        await anyio.sleep(29)
        return "done"

    async with app:
        async with app.worker() as worker:
            result = await work.enqueue()
            await started.wait()
            told = now()
            worker.stop()

        assert 29 <= now() - told < 30
        assert await result == "done"


@on_virtual_time
async def test_after_the_grace_period_what_runs_goes_back_uncounted() -> None:
    app = virtual_app(grace=30.0)
    attempts: list[int] = []
    started = anyio.Event()
    ends = [100, 0]

    @app.task
    async def work(ctx: Context) -> str:
        attempts.append(ctx.attempt)
        started.set()
        await anyio.sleep(ends[len(attempts) - 1])
        return "done"

    async with app:
        async with app.worker() as worker:
            result = await work.enqueue()
            await started.wait()
            told = now()
            worker.stop()
        assert 30 <= now() - told < 31
        assert await result.status() is Status.QUEUED
        async with app.worker():
            assert await result == "done"

    assert attempts == [1, 1]


@on_virtual_time
async def test_a_worker_in_a_hurry_cancels_at_once() -> None:
    app = virtual_app(grace=30.0)
    started = anyio.Event()

    @app.task
    async def work() -> None:
        started.set()
        await anyio.sleep(100)

    async with app:
        for told_before in (False, True):
            async with app.worker() as worker:
                result = await work.enqueue()
                await started.wait()
                if told_before:
                    worker.stop()
                    await anyio.sleep(1)
                told = now()
                worker.hurry()
            assert now() - told < 1
            assert await result.status() is Status.QUEUED


@on_virtual_time
async def test_a_task_that_ignores_its_cancellation_is_left_behind(
    caplog: pytest.LogCaptureFixture,
) -> None:
    app = virtual_app(grace=10.0)
    started = anyio.Event()
    release = anyio.Event()

    @app.task
    async def stubborn() -> None:
        started.set()
        while not release.is_set():
            try:
                await release.wait()
            except asyncio.CancelledError:
                continue

    async with app:
        async with app.worker() as worker:
            result = await stubborn.enqueue()
            await started.wait()
            told = now()
            worker.stop()
        assert 15 <= now() - told < 16  # the grace period, and CANCEL_TIMEOUT
        assert await result.status() is Status.QUEUED
        release.set()
        await anyio.lowlevel.checkpoint()

    assert f"task {stubborn.name}[{result.id}] ignores its cancellation" in caplog.text
    assert "what runs in threads" not in caplog.text


@on_virtual_time
async def test_a_task_that_loses_its_cancellation_is_cancelled_again_and_goes_back(
    caplog: pytest.LogCaptureFixture,
) -> None:
    app = virtual_app()
    started = anyio.Event()
    ended = anyio.Event()

    @app.task
    async def lossy() -> None:
        started.set()
        try:
            with suppress(asyncio.CancelledError):
                await anyio.sleep_forever()
            await anyio.sleep_forever()
        finally:
            ended.set()

    async with app:
        async with app.worker(grace=0.0) as worker:
            result = await lossy.enqueue()
            await started.wait()
            worker.stop()
        assert ended.is_set()
        assert await result.status() is Status.QUEUED

    assert "ignores its cancellation" not in caplog.text


async def test_a_task_that_finishes_in_spite_of_its_cancellation_has_its_outcome(
    app: App,
) -> None:
    started = anyio.Event()

    @app.task
    async def finish() -> str:
        started.set()
        with suppress(asyncio.CancelledError):
            await anyio.sleep_forever()
        return "finished all the same"

    async with app:
        async with app.worker(grace=0.0):
            result = await finish.enqueue()
            await started.wait()

        assert await result.get(timeout=PATIENCE) == "finished all the same"


async def test_nothing_new_is_taken_in_after_the_stop(app: App) -> None:
    gate = Gate()

    @app.task
    async def work(n: int) -> int:
        await gate.pass_through()
        return n

    async with app:
        async with app.worker(concurrency=1) as worker:
            first = await work.enqueue(1)
            await gate.until_reached()
            worker.stop()
            second = await work.enqueue(2)
            gate.open()

        assert await first.status() is Status.SUCCEEDED
        assert await second.status() is Status.QUEUED


@pytest.mark.parametrize("concurrency", [1, 3, 50])
async def test_a_stop_at_any_moment_loses_nothing(concurrency: int) -> None:
    app = new_app(grace=1.0)
    tasks = 120
    runs = 0

    @app.task
    async def note(n: int) -> int:
        nonlocal runs
        runs += 1
        await anyio.lowlevel.checkpoint()
        return n

    async with app:
        results = await app.enqueue_many(note.s(n) for n in range(tasks))
        with fail_after(PATIENCE):
            for turns in range(1, 60):
                async with app.worker(concurrency=concurrency):
                    for _ in range(turns):
                        await anyio.lowlevel.checkpoint()
            async with app.worker(concurrency=concurrency):
                assert [await result for result in results] == list(range(tasks))

        assert runs == tasks  # drained workers give back only what had not begun
        broker = app.client.broker
        assert isinstance(broker, MemoryBroker)
        depth = await broker.depth("default")
        assert (depth.ready, depth.in_flight, depth.dead) == (0, 0, 0)


@on_virtual_time
async def test_a_worker_ends_though_its_broker_never_answers_again(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    app = virtual_app(grace=10.0)

    @app.task
    async def work() -> None: ...

    async def silence(*_: Any) -> Any:
        completing.set()
        await anyio.sleep_forever()

    completing = anyio.Event()
    async with app:
        monkeypatch.setattr(MemoryConsumer, "complete", silence)
        async with app.worker():
            await work.enqueue()
            await completing.wait()
            told = now()
        assert completer.SETTLE_TIMEOUT <= now() - told < completer.SETTLE_TIMEOUT + 1

    assert "1 task could not be settled" in caplog.text


@on_virtual_time
async def test_a_worker_ends_though_its_broker_is_gone(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    app = virtual_app(grace=10.0)

    @app.task
    async def work() -> None: ...

    async def gone(*_: Any) -> Any:
        completing.set()
        raise BrokerUnavailable("gone")

    completing = anyio.Event()
    async with app:
        monkeypatch.setattr(MemoryConsumer, "complete", gone)
        async with app.worker():
            await app.enqueue_many(work.s() for _ in range(3))
            await completing.wait()
            told = now()
        assert now() - told < completer.SETTLE_TIMEOUT + 3

    assert caplog.text.count("settling") == 1


async def test_a_message_that_cannot_be_settled_is_set_aside_alone(
    app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    settle = MemoryConsumer.complete
    poison: list[str] = []

    async def choke(self: MemoryConsumer, batch: list[Completion]) -> Any:
        for completion in batch:
            is_poison = completion.settlement.delivery.envelope.id in poison
            if is_poison and completion.record is not None and completion.record.task:
                raise UnicodeEncodeError("utf-8", "\udcff", 0, 1, "surrogates not allowed")
        return await settle(self, batch)

    monkeypatch.setattr(MemoryConsumer, "complete", choke)

    @app.task
    async def work(n: int) -> int:
        return n

    async with app:
        results = await app.enqueue_many(work.s(n) for n in range(20))
        poison.append(results[7].id)
        async with app.worker():
            values: list[Any] = [await outcome(result) for result in results]
            broker = app.client.broker
            assert isinstance(broker, MemoryBroker)
            [dead] = await broker.dead_letters("default")

    assert values == [*range(7), "Unsettled", *range(8, 20)]
    assert dead.envelope.id == results[7].id


async def outcome(result: Result[int]) -> int | str:
    try:
        return await result.get(timeout=PATIENCE)
    except Exception as error:  # noqa: BLE001 - whatever it is
        return getattr(error, "type", repr(error))


class Hanging:
    """A plain function that runs until it is released."""

    def __init__(self, app: App) -> None:
        self.started, self.release = threading.Event(), threading.Event()
        self.runs = 0

        @app.task
        def hang() -> str:
            self.runs += 1
            self.started.set()
            self.release.wait(PATIENCE)
            return "done"

        self.task = hang

    async def until_started(self) -> None:
        await anyio.to_thread.run_sync(self.started.wait)


async def test_inside_a_program_the_worker_waits_for_its_threads_and_their_results_stand(
    app: App, caplog: pytest.LogCaptureFixture
) -> None:
    hanging = Hanging(app)

    async with app:
        with fail_after(PATIENCE):
            async with app.worker(grace=0.01) as worker:
                result = await hanging.task.enqueue()
                await hanging.until_started()
                worker.stop()
                await until(
                    lambda: any("run on past the grace" in line for line in caplog.messages)
                )
                assert await result.status() is Status.RUNNING
                hanging.release.set()

        assert await result.get(timeout=PATIENCE) == "done"
    assert hanging.runs == 1


async def test_a_hurry_leaves_threads_behind(app: App) -> None:
    hanging = Hanging(app)

    try:
        async with app:
            with fail_after(PATIENCE):
                async with app.worker(grace=0.01) as worker:
                    result = await hanging.task.enqueue()
                    await hanging.until_started()
                    worker.hurry()

            assert await result.status() is Status.QUEUED
    finally:
        hanging.release.set()


async def test_a_cancelled_host_leaves_threads_behind(app: App) -> None:
    hanging = Hanging(app)

    try:
        async with app:
            result = await hanging.task.enqueue()
            with anyio.CancelScope() as host:
                async with app.worker(grace=30):
                    await hanging.until_started()
                    host.cancel()
                    await anyio.sleep_forever()

            assert await result.status() is Status.QUEUED
    finally:
        hanging.release.set()


async def test_a_process_is_left_once_all_but_its_threads_is_settled(app: App) -> None:
    hanging = Hanging(app)
    told: list[str] = []

    @app.task(queue="other")
    async def slow() -> str:
        await anyio.sleep(0.1)
        return "slow"

    @app.on_shutdown
    async def close(_state: dict[str, Any]) -> None:
        told.append(f"hook, then {await thread.status()}")

    async with app:
        thread, other = await hanging.task.enqueue(), await slow.enqueue()
        worker = app.make_worker(queues=["default", "other"], grace=0.5)
        left = anyio.Event()

        async def look() -> None:
            await left.wait()
            told.append(f"left, then {await thread.status()} and {await other.status()}")
            hanging.release.set()

        with fail_after(PATIENCE):
            async with anyio.create_task_group() as group:
                group.start_soon(look)
                group.start_soon(partial(worker.run, leave=left.set))
                await hanging.until_started()
                worker.stop()

    assert told == ["hook, then running", "left, then queued and succeeded"]


async def test_a_thread_that_has_not_begun_never_does(app: App) -> None:
    hanging = Hanging(app)

    async with app:
        async with app.worker(grace=0.01, concurrency=2) as worker:
            await worker.slots.threads.limiter.acquire_on_behalf_of("one")
            await worker.slots.threads.limiter.acquire_on_behalf_of("two")
            result = await hanging.task.enqueue()
            await until_status(result, Status.RUNNING)
        assert await result.status() is Status.QUEUED
    assert hanging.runs == 0


async def call_that_breaks() -> None:
    """As a connection does in the middle of a call."""
    try:
        await anyio.sleep_forever()
    except asyncio.CancelledError:
        raise ConnectionError("closed in the middle of a call")  # noqa: B904 - as they do


async def in_a_group() -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(call_that_breaks())
        group.create_task(asyncio.sleep(3600))


async def in_a_group_of_anyio() -> None:
    async with anyio.create_task_group() as group:
        group.start_soon(call_that_breaks)
        group.start_soon(in_a_group)


async def from_none() -> None:
    try:
        await call_that_breaks()
    except ConnectionError:
        raise RuntimeError("it did not work") from None


async def in_its_finally() -> None:
    try:
        await anyio.sleep_forever()
    finally:
        raise ValueError("nothing to put in order")


@pytest.mark.parametrize(
    "work", [call_that_breaks, in_a_group, in_a_group_of_anyio, from_none, in_its_finally]
)
async def test_what_breaks_because_its_worker_stops_is_given_back(
    app: App, work: Callable[[], Awaitable[None]]
) -> None:
    begun = anyio.Event()

    @app.task
    async def task() -> None:
        begun.set()
        await work()

    async with app:
        result = await task.enqueue()
        async with app.worker(grace=0.05):
            await begun.wait()
            await anyio.sleep(0.01)
        assert await result.status() is Status.QUEUED
