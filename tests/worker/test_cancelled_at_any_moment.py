"""A cancellation comes at any moment of a run: there is one outcome, and no slot is lost."""

import asyncio
import statistics
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress

import anyio
import pytest

from asyncq.app import App
from asyncq.client.context import Context
from asyncq.client.result import Result
from asyncq.errors import TaskCancelled
from asyncq.language.marks import Cancellation, Mark
from asyncq.language.message import new_id
from asyncq.language.policies import Retry
from asyncq.worker.pool import CANCEL_TIMEOUT, LAST_TIMEOUT
from asyncq.worker.worker import Worker
from tests.client.given import PATIENCE, new_app, until
from tests.faults.lab.scale import scaled
from tests.worker.combinations import any_app
from tests.worker.virtual import on_virtual_time, virtual_app

__all__ = ["any_app"]  # a fixture

LIMIT = 5.0  # seconds
GRACE = 3.0  # seconds
RACES = scaled(200, 1000)
MOMENTS = scaled(1000, 10_000)
TURNS = 40  # of the loop, from a claim to well after its start
LISTENING = scaled(0.5, 0.1)  # seconds until a coroutine hears that it is cancelled


def mark(worker: Worker, *ids: str, reason: str = "enough") -> None:
    """As if the worker had heard of it at this turn of the loop."""
    worker.cancellations._apply(  # pyright: ignore[reportPrivateUsage]
        Mark(at=1e12, reason=reason, ids=ids)
    )


async def end_of(result: Result[str]) -> str:
    try:
        return await result.get(timeout=PATIENCE)
    except TaskCancelled as error:
        return "cancelled" if error.reason == "enough" else f"cancelled for {error.reason}"


@pytest.mark.parametrize("any_app", ["memory", "sqlite", "redis", "rabbitmq+redis"], indirect=True)
async def test_what_fails_or_ends_as_it_is_cancelled_has_the_end_that_was_answered(
    any_app: App,
) -> None:
    runs: Counter[int] = Counter()

    @any_app.task(retry=Retry(1_000_000, base=0))
    async def work(context: Context, n: int) -> str:
        runs[n] += 1
        await asyncio.sleep(n % 40 * 0.002)
        if n % 2 or context.attempt == 1:
            raise ValueError("again")
        return "done"

    side_by_side: list[int] = []
    gate = asyncio.Event()

    @any_app.task
    async def take_a_slot(n: int) -> str:
        side_by_side.append(n)
        await gate.wait()
        return "done"

    async with any_app, any_app.worker(concurrency=RACES) as worker:
        results = [await work.enqueue(n) for n in range(RACES)]
        answers: dict[str, Cancellation] = {}
        for start in range(0, RACES, 50):
            answers |= await any_app.cancel(results[start : start + 50], "enough")
        ends = [await end_of(result) for result in results]
        await until(lambda: not worker.running)
        before = runs.copy()
        others = await any_app.enqueue_many(take_a_slot.s(n) for n in range(RACES))
        await until(lambda: len(side_by_side) == RACES)
        gate.set()
        assert {await end_of(other) for other in others} == {"done"}
        assert runs == before
    for n, (result, end) in enumerate(zip(results, ends, strict=True)):
        match answers[result.id]:
            case Cancellation.CANCELLED:
                assert end == "cancelled"
            case Cancellation.ENDED:
                assert end == "done"
            case answer:
                assert answer is Cancellation.ASKED
        assert n % 2 == 0 or end == "cancelled"


async def test_no_slot_is_lost_whenever_it_comes(app: App) -> None:
    """Also before the first step of what it ends, and while a thread is awaited."""
    together = 50

    async def take_turns() -> None:
        for _ in range(TURNS // 4):
            await asyncio.sleep(0)

    @app.task(name="plain")
    async def plain() -> str:
        await take_turns()
        return "done"

    @app.task(name="limited", time_limit=PATIENCE, soft_time_limit=PATIENCE / 2)
    async def limited() -> str:
        await take_turns()
        return "done"

    @app.task(name="threaded")
    def threaded() -> str:
        return "done"

    ends: Counter[str] = Counter()
    async with app, app.worker(concurrency=together) as worker:
        for first in range(0, MOMENTS, together):
            calls = [(plain, limited, threaded)[n % 3].s() for n in range(together)]
            results = await app.enqueue_many(calls)
            left = [result.id for result in results]
            for turn in range(TURNS):
                await asyncio.sleep(0)
                some = left[(first // together + turn) % TURNS :: TURNS]
                mark(worker, *some)
            ends.update([await end_of(result) for result in results])
        await until(lambda: not worker.running)
        assert worker.slots.free == together
        assert worker.slots.threads.limiter.borrowed_tokens == 0
        assert worker.slots.threads.left == 0
    assert ends.total() == MOMENTS
    assert ends["cancelled"]
    assert ends["done"]


async def by_timeout() -> None:
    async with asyncio.timeout(LIMIT):
        await anyio.sleep_forever()


async def by_timeouts_in_each_other() -> None:
    async with asyncio.timeout(LIMIT), asyncio.timeout(LIMIT):
        await anyio.sleep_forever()


async def by_scope() -> None:
    with anyio.move_on_after(LIMIT):
        await anyio.sleep_forever()


async def by_wait_for() -> None:
    await asyncio.wait_for(anyio.sleep_forever(), LIMIT)  # noqa: TID251 - users do


async def by_what_was_awaited() -> None:
    """Python 3.11 loses a cancellation that comes as this is over."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[None] = loop.create_future()
    loop.call_at(round(loop.time()) + LIMIT, future.set_result, None)
    await asyncio.wait_for(future, 60)  # noqa: TID251 - users do


async def by_group() -> None:
    async def fail() -> None:
        await asyncio.sleep(LIMIT)
        raise TimeoutError

    async with asyncio.TaskGroup() as group:
        group.create_task(fail())
        await anyio.sleep_forever()


async def by_anyio_group() -> None:
    async def fail() -> None:
        await asyncio.sleep(LIMIT)
        raise TimeoutError

    async with anyio.create_task_group() as group:
        group.start_soon(fail)
        await anyio.sleep_forever()


WAYS = [
    by_timeout,
    by_timeouts_in_each_other,
    by_scope,
    by_wait_for,
    by_what_was_awaited,
    by_group,
    by_anyio_group,
]


@pytest.mark.parametrize("is_first", [True, False])
@pytest.mark.parametrize("way", WAYS)
@on_virtual_time
async def test_a_time_out_of_the_task_s_own_hides_no_cancellation(
    way: Callable[[], Awaitable[None]], *, is_first: bool
) -> None:
    """At worst it hears of the second, which comes when its grace is over."""
    app, id = virtual_app(cancel_grace=GRACE), new_id()
    loop = asyncio.get_running_loop()
    seen: list[str] = []

    @app.task
    async def work() -> None:
        began.set()
        with suppress(TimeoutError, ExceptionGroup):
            await way()
        try:
            await anyio.sleep_forever()
        finally:
            await asyncio.sleep(LAST_TIMEOUT / 2)
            seen.append("cleaned up")

    began = asyncio.Event()
    async with app.worker(concurrency=1) as worker:
        moment = loop.time() + LIMIT  # nothing of what follows takes any time
        if is_first:
            loop.call_at(moment, mark, worker, id)
        result = await work.options(id=id).enqueue()
        await began.wait()
        if not is_first:
            loop.call_at(moment, mark, worker, id)
        with pytest.raises(TaskCancelled, match="enough") as caught:
            await result
        took = loop.time() - moment
        await until(lambda: worker.slots.free == 1)
    assert caught.value.reason == "enough"
    assert took <= GRACE + LAST_TIMEOUT
    assert len(seen) <= 1  # it may have ended where it was


@on_virtual_time
async def test_the_first_of_two_who_cancel_at_one_turn_says_why() -> None:
    app = virtual_app(cancel_grace=GRACE)
    begun = asyncio.Event()
    seen: list[str] = []

    @app.task
    async def work() -> None:
        begun.set()
        try:
            await anyio.sleep_forever()
        except asyncio.CancelledError as error:
            seen.append(str(error))
            await asyncio.sleep(GRACE / 2)
            seen.append("cleaned up")
            raise

    async with app.worker() as worker:
        result = await work.enqueue()
        await begun.wait()
        for reason in ("first", "second"):
            mark(worker, result.id, reason=reason)
        with pytest.raises(TaskCancelled) as caught:
            await result
    assert caught.value.reason == "first"
    assert seen == ["first", "cleaned up"]


@pytest.mark.parametrize("any_app", ["memory", "sqlite", "redis"], indirect=True)
async def test_a_coroutine_hears_of_it_at_once_without_doing_anything(any_app: App) -> None:
    heard: list[float] = []
    begun = asyncio.Event()

    @any_app.task
    async def work() -> None:
        begun.set()
        try:
            await anyio.sleep_forever()
        finally:
            heard.append(time.monotonic())

    took: list[float] = []
    async with any_app, any_app.worker():
        for _ in range(20):
            begun.clear()
            result = await work.enqueue()
            await begun.wait()
            asked = time.monotonic()
            await result.cancel()
            with pytest.raises(TaskCancelled):
                await result.get(timeout=PATIENCE)
            took.append(heard[-1] - asked)
    assert statistics.quantiles(took, n=20)[-1] < LISTENING
    assert statistics.median(took) < LISTENING / 2


@pytest.mark.parametrize("how", ["stop", "hurry"])
async def test_who_cleans_up_is_not_disturbed_by_the_end_of_its_worker(how: str) -> None:
    app = new_app(grace=0.0, cancel_grace=GRACE)
    seen: list[str] = []

    @app.task
    async def work() -> None:
        seen.append("runs")
        try:
            await anyio.sleep_forever()
        finally:
            seen.append("cleans up")
            await asyncio.sleep(0.2)
            seen.append("cleaned up")

    async with app:
        async with app.worker() as worker:
            result = await work.enqueue()
            await until(lambda: seen == ["runs"])
            await result.cancel("enough")
            await until(lambda: len(seen) == 2)
            if how == "hurry":
                worker.hurry()
        with pytest.raises(TaskCancelled, match="enough"):
            await app.result(result.id).get(timeout=PATIENCE)
    assert seen == ["runs", "cleans up", "cleaned up"]


@on_virtual_time
async def test_no_worker_waits_for_a_long_clean_up_for_longer_than_for_any_task() -> None:
    app = virtual_app(grace=0.0, cancel_grace=60.0)
    loop = asyncio.get_running_loop()
    begun = asyncio.Event()
    seen: list[str] = []

    @app.task
    async def work() -> None:
        begun.set()
        try:
            await anyio.sleep_forever()
        finally:
            try:
                await asyncio.sleep(50)
            except asyncio.CancelledError as error:
                seen.append(str(error))
                raise

    async with app:
        async with app.worker() as worker:
            result = await work.enqueue()
            await begun.wait()
            await result.cancel("enough")
            told = loop.time()
            worker.stop()
        assert loop.time() - told <= CANCEL_TIMEOUT + LAST_TIMEOUT
        with pytest.raises(TaskCancelled, match="enough"):
            await app.result(result.id)
    assert seen == ["the worker is stopping, and does not wait any more"]
