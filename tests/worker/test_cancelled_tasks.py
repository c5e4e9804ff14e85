"""Cancelled tasks: what a worker does to what it runs, and to what it claims.

What a canceller is told is in `tests.client.test_cancelling`.
"""

import asyncio
import logging
import sys
import time
from contextlib import suppress
from types import FrameType
from typing import Any

import anyio
import pytest
import redis.asyncio

from asyncq.app import App
from asyncq.client.context import Context
from asyncq.clock import SystemClock
from asyncq.errors import RetryLater, TaskCancelled
from asyncq.language.effects import Hold, Send
from asyncq.language.marks import Cancellation, Mark
from asyncq.language.message import End, Message, Status, new_id
from asyncq.language.policies import Retry
from asyncq.worker.cancellations import Cancellations
from tests.client.given import AT_ONCE, PATIENCE, new_app, until, until_empty
from tests.worker.combinations import any_app, sees_all

__all__ = ["any_app"]  # a fixture

HEARD = 3.0  # seconds from a repair until what was cancelled meanwhile is heard of


async def test_what_runs_is_cancelled_where_it_waits_and_cleans_up(any_app: App) -> None:
    seen: list[str] = []

    @any_app.task(retry=5)
    async def work() -> None:
        seen.append("runs")
        try:
            await anyio.sleep_forever()
        except asyncio.CancelledError as error:
            seen.append(f"cancelled: {error}")
            await asyncio.sleep(0.05)
            seen.append("cleaned up")
            raise

    async with any_app, any_app.worker():
        result = await work.enqueue()
        await until(lambda: bool(seen))
        began = time.monotonic()
        answer = await result.cancel("enough")
        with pytest.raises(TaskCancelled, match="was cancelled: enough"):
            await result.get(timeout=PATIENCE)
        assert time.monotonic() - began < AT_ONCE
        # Where nobody can say that it runs, it may have ended before its worker has said so.
        assert answer is Cancellation.ASKED or not sees_all(any_app)
        assert answer in {Cancellation.ASKED, Cancellation.CANCELLED}
        assert await result.status() is Status.CANCELLED
        await until_empty(any_app)
        assert list(await any_app.dead.list("default")) == []
    assert seen == ["runs", "cancelled: enough", "cleaned up"]


@pytest.mark.parametrize("any_app", ["redis", "redis+redis", "rabbitmq+redis"], indirect=True)
async def test_the_connection_that_hears_of_cancellations_is_cut_again_and_again(
    any_app: App, redis_url: str
) -> None:
    """And nothing else is."""
    runs: set[int] = set()
    ended: dict[int, float] = {}
    cuts = 0

    @any_app.task
    async def hold(number: int) -> None:
        runs.add(number)
        try:
            await anyio.sleep_forever()
        finally:
            ended[number] = time.monotonic()

    async def cut() -> None:
        nonlocal cuts
        while True:
            cuts += await server.client_kill_filter(_type="pubsub")
            await anyio.sleep(0.02)

    server: Any
    async with any_app, any_app.worker(concurrency=20), redis.asyncio.from_url(redis_url) as server:
        results = [await hold.enqueue(number) for number in range(20)]
        await until(lambda: len(runs) == 20)
        async with anyio.create_task_group() as group:
            group.start_soon(cut)
            for result in results:
                await result.cancel("enough")
            await until(lambda: cuts > 5)
            group.cancel_scope.cancel()
        healed = time.monotonic()
        await until(lambda: len(ended) == 20)
        for result in results:
            with pytest.raises(TaskCancelled, match="enough"):
                await result.get(timeout=PATIENCE)
    assert max(ended.values()) - healed < HEARD


async def test_a_mark_that_comes_as_a_retry_is_given_back_is_not_missed(
    any_app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its attempt is over, and its pool has not heard of that yet."""
    given_back = Cancellations.given_back

    def and_mark(self: Cancellations, message: Message) -> None:
        given_back(self, message)
        mark = Mark(at=SystemClock().now(), reason="enough", ids=(message.header.id,))
        asyncio.get_running_loop().call_soon(self._apply, mark)  # pyright: ignore[reportPrivateUsage]

    monkeypatch.setattr(Cancellations, "given_back", and_mark)

    @any_app.task(retry=Retry(1, base=3600, jitter=False, ceiling=3600))
    async def work() -> None:
        raise ValueError("not today")

    async with any_app, any_app.worker():
        result = await work.enqueue()
        with pytest.raises(TaskCancelled, match="enough"):
            await result.get(timeout=PATIENCE)


async def test_marks_of_others_cost_what_is_not_marked_next_to_nothing() -> None:
    """Counted in calls of functions, which no other process disturbs."""
    app, runs = new_app(), 0

    @app.task
    async def count() -> None:
        nonlocal runs
        runs += 1

    @app.task(queue="others")
    async def other() -> None:
        pass

    async def calls_of_a_drain() -> int:
        nonlocal runs
        calls, runs = 0, 0

        def count_call(_frame: FrameType, event: str, _arg: object) -> None:
            nonlocal calls
            calls += event in {"call", "c_call"}

        sys.setprofile(count_call)
        try:
            await app.enqueue_many(count.s() for _ in range(2000))
            await until(lambda: runs == 2000)
        finally:
            sys.setprofile(None)
        return calls

    async with app, app.worker(queues=["default"], concurrency=50):
        await calls_of_a_drain()
        plain = [await calls_of_a_drain() for _ in range(3)]
        others = await app.enqueue_many(other.s() for _ in range(20_000))
        answers = await app.cancel(others, "enough")
        assert len(answers) == 20_000
        marked = [await calls_of_a_drain() for _ in range(3)]
    assert min(marked) < 1.1 * min(plain), (marked, plain)


async def test_who_returns_in_time_has_succeeded_whatever_was_asked(any_app: App) -> None:
    runs: list[int] = []

    @any_app.task
    async def after() -> None:
        runs.append(2)

    @any_app.task
    async def stubborn(context: Context) -> str:
        runs.append(1)
        with suppress(asyncio.CancelledError):
            await anyio.sleep_forever()
        await context.enqueue_after(after.s())
        await asyncio.sleep(0.6)  # longer than anybody waits for its worker to say that it runs
        return "done all the same"

    async with any_app, any_app.worker():
        result = await stubborn.enqueue()
        await until(lambda: bool(runs))
        assert await result.cancel() is Cancellation.ASKED
        assert await result.get(timeout=PATIENCE) == "done all the same"
        await until(lambda: runs == [1, 2])


@pytest.mark.parametrize("how", ["fail", "retry", "later"])
async def test_what_fails_while_it_is_cancelled_is_cancelled_and_not_tried_again(
    any_app: App, how: str
) -> None:
    runs: list[int] = []

    @any_app.task(retry=Retry(5, base=0))
    async def work() -> None:
        runs.append(1)
        try:
            await anyio.sleep_forever()
        finally:
            match how:
                case "fail":
                    raise ValueError("in the midst")
                case "later":
                    raise RetryLater(0)
                case _:
                    raise KeyError("in the midst")

    async with any_app, any_app.worker():
        result = await work.enqueue()
        await until(lambda: bool(runs))
        await result.cancel("enough")
        with pytest.raises(TaskCancelled, match="enough"):
            await result.get(timeout=PATIENCE)
        await until_empty(any_app)
    assert runs == [1]


async def test_a_function_in_a_thread_looks_now_and_then(any_app: App) -> None:
    seen: list[str] = []

    @any_app.task
    def by_checkpoint(ctx: Context) -> None:
        seen.append("runs")
        try:
            while True:
                time.sleep(0.005)
                ctx.checkpoint()
        finally:
            seen.append("cleaned up")

    @any_app.task
    def by_looking(ctx: Context) -> str:
        seen.append("runs")
        while not ctx.cancelled:
            time.sleep(0.005)
        return "half of it"

    async with any_app, any_app.worker():
        result = await by_checkpoint.enqueue()
        await until(lambda: bool(seen))
        await result.cancel("enough")
        with pytest.raises(TaskCancelled, match="enough"):
            await result.get(timeout=PATIENCE)
        await until(lambda: seen == ["runs", "cleaned up"])
        looking = await by_looking.enqueue()
        await until(lambda: len(seen) == 3)
        await looking.cancel()
        assert await looking.get(timeout=PATIENCE) == "half of it"


async def test_a_second_cancellation_does_not_disturb_what_cleans_up(any_app: App) -> None:
    seen: list[str] = []

    @any_app.task
    async def work() -> None:
        seen.append("runs")
        try:
            await anyio.sleep_forever()
        finally:
            await asyncio.sleep(0.2)
            seen.append("cleaned up")

    async with any_app, any_app.worker():
        result = await work.enqueue()
        await until(lambda: bool(seen))
        for _ in range(3):
            await result.cancel("enough")
        with pytest.raises(TaskCancelled):
            await result.get(timeout=PATIENCE)
        await until(lambda: len(seen) == 2)
    assert seen == ["runs", "cleaned up"]


@pytest.mark.parametrize("times", [1, 100])
async def test_who_ignores_it_is_cancelled_once_more_and_then_left_behind(
    times: int, caplog: pytest.LogCaptureFixture
) -> None:
    app = new_app(grace=1.0, cancel_grace=0.1, max_stuck=3)
    runs: list[int] = []
    let_go = asyncio.Event()

    async def stand_here_for_ever() -> None:
        for _ in range(times):
            with suppress(asyncio.CancelledError):
                await let_go.wait()
        await let_go.wait()

    @app.task
    async def stubborn() -> str:
        runs.append(1)
        await stand_here_for_ever()
        return "nobody wants to know"

    @app.task
    async def next_one() -> str:
        return "has a slot"

    async with app:
        async with app.worker(concurrency=1):
            try:
                result = await stubborn.enqueue()
                await until(lambda: bool(runs))
                assert await result.cancel("enough") is Cancellation.ASKED
                with pytest.raises(TaskCancelled, match="enough"):
                    await result.get(timeout=PATIENCE)
                assert await (await next_one.enqueue()).get(timeout=PATIENCE) == "has a slot"
                assert ("is left behind" in caplog.text) is (times > 1)
                assert ("stand_here_for_ever" in caplog.text) is (times > 1)
            finally:
                let_go.set()
            await asyncio.sleep(0.05)
        with pytest.raises(TaskCancelled):
            await app.result(result.id).get(timeout=PATIENCE)
    assert "please report" not in caplog.text


async def test_what_is_described_and_runs_is_cancelled_as_well(app: App) -> None:
    begun: list[str] = []

    @app.task
    async def wait(tenant: str) -> str:
        begun.append(tenant)
        await asyncio.sleep(0.5 if tenant == "b" else PATIENCE)
        return tenant

    async with app, app.worker():
        results = [await wait.options(headers={"t": t}).enqueue(t) for t in "ab"]
        await until(lambda: len(begun) == 2)
        await app.cancel(task=wait.name, headers={"t": "a"})
        with pytest.raises(TaskCancelled):
            await results[0].get(timeout=PATIENCE)
        assert await results[1].get(timeout=PATIENCE) == "b"


async def test_a_part_that_was_cancelled_fails_its_workflow_where_it_waits(app: App) -> None:
    """What follows from its end is derived by the worker that meets it."""
    ran: list[str] = []

    @app.task
    async def part() -> None:
        ran.append("part")

    @app.task
    async def on_failure() -> None:
        ran.append("on failure")

    async with app:
        ledger = app.client.backend.offers.ledger
        assert ledger is not None
        latch, id = f"latch-{new_id()}", new_id()
        sends = tuple(app.client.follow_up(on_failure.s(), new_id()))
        await ledger.apply([Hold(latch, (id,), (), sends)], new_id())
        [send] = app.client.follow_up(part.s(), id, (End(latch, id),))
        assert isinstance(send, Send)
        for future in app.client.send([send]):
            await future
        assert await app.cancel(id, "no") == {id: Cancellation.CANCELLED}
        async with app.worker():
            await until(lambda: bool(ran))
    assert ran == ["on failure"]


async def test_no_cancellation_is_left_on_a_worker_s_tasks(app: App) -> None:
    """A cancelled coroutine's slot is used again by what knows nothing of it."""
    begun: list[int] = []
    counts: list[int] = []

    @app.task
    async def wait() -> None:
        begun.append(1)
        await anyio.sleep_forever()

    @app.task
    async def count() -> None:
        task = asyncio.current_task()
        counts.append(-1 if task is None else task.cancelling())

    async with app, app.worker(concurrency=2) as worker:
        for _ in range(20):
            result = await wait.enqueue()
            await until(lambda: bool(begun))
            begun.clear()
            await result.cancel()
            with pytest.raises(TaskCancelled):
                await result.get(timeout=PATIENCE)
            await (await count.enqueue()).get(timeout=PATIENCE)
        await until(lambda: not worker.running)
        assert worker.slots.free == 2
    assert counts == [0] * 20


async def test_what_was_asked_to_end_is_told_in_the_log(
    app: App, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)

    @app.task
    async def work() -> None: ...

    async with app:
        result = await work.enqueue()
        await app.cancel(task=work, reason="not today")
        async with app.worker():
            with pytest.raises(TaskCancelled):
                await result.get(timeout=PATIENCE)
    assert f"[{result.id}] was cancelled in attempt 1: not today" in caplog.text
    assert "1 task: 0 succeeded, 1 cancelled" in caplog.text


async def test_what_was_tried_before_may_still_end_in_its_own_way(any_app: App) -> None:
    """That it was given back once is forgotten as it is taken again."""
    runs: list[int] = []

    @any_app.task(retry=Retry(1, base=0))
    async def work() -> str:
        runs.append(1)
        if len(runs) == 1:
            raise ValueError
        with suppress(asyncio.CancelledError):
            await anyio.sleep_forever()
        await asyncio.sleep(0.5)
        return "done all the same"

    async with any_app, any_app.worker():
        result = await work.enqueue()
        await until(lambda: len(runs) == 2)
        assert await result.cancel() is Cancellation.ASKED
        assert await result.get(timeout=PATIENCE) == "done all the same"


async def test_what_goes_wrong_in_a_clean_up_is_told(
    app: App, caplog: pytest.LogCaptureFixture
) -> None:
    begun: list[int] = []

    @app.task
    async def work() -> None:
        begun.append(1)
        connection = None
        try:
            await anyio.sleep_forever()
        finally:
            connection.close()  # type: ignore[attr-defined]

    async with app, app.worker():
        result = await work.enqueue()
        await until(lambda: bool(begun))
        await result.cancel("enough")
        with pytest.raises(TaskCancelled) as caught:
            await result.get(timeout=PATIENCE)
    assert caught.value.last_error.startswith("AttributeError: ")
    assert "it raised, as it cleaned up, AttributeError" in caplog.text
