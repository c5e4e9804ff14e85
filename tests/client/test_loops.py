"""One app, several event loops: each has a client of its own, or an error says what to write."""

import asyncio
import gc
import inspect
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import anyio
import anyio.from_thread
import anyio.to_thread
import pytest
from anyio import fail_after

import asyncq
from asyncq.app import App
from asyncq.client.result import Result
from asyncq.errors import ConfigurationError
from asyncq.language.message import Progress, Status, new_id
from tests.client.given import PATIENCE, new_app

T = TypeVar("T")

ELSEWHERE = "not connected in this event loop, but in another event loop.*'async with app:'"
CLOSED = "not connected in this event loop, but was in another .* closed.*'async with app:'"


@pytest.fixture(params=["memory", "sqlite", "redis"])
def any_app(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> App:
    if request.param == "memory":
        return new_app(grace=1.0)
    if request.param == "redis":
        return App(f"{request.getfixturevalue('redis_url')}?prefix={new_id()}")
    return App(f"sqlite:///{tmp_path_factory.mktemp('store')}/queue.db")


async def in_another_loop(work: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """What ``work`` returns in a loop of its own, in a thread, while this one goes on."""
    with fail_after(2 * PATIENCE):
        return await anyio.to_thread.run_sync(lambda: asyncio.run(work()), abandon_on_cancel=True)


def test_each_loop_has_a_client_of_its_own(any_app: App) -> None:
    @any_app.task
    async def add(x: int) -> int:
        return x + 1

    async def here() -> object:
        async with any_app, any_app.worker():
            assert await (await add.enqueue(1)).get(timeout=PATIENCE) == 2
            return any_app.client

    assert len({id(client) for client in [asyncio.run(here()) for _ in range(3)]}) == 3


async def test_a_second_loop_works_beside_the_first(any_app: App) -> None:
    @any_app.task
    async def add(x: int) -> int:
        return x + 1

    async def ask(x: int) -> int:
        async with any_app, any_app:
            return await (await add.enqueue(x)).get(timeout=PATIENCE)

    async with any_app.worker():
        with ThreadPoolExecutor(8) as threads, fail_after(2 * PATIENCE):
            loop = asyncio.get_running_loop()
            asked = [
                loop.run_in_executor(threads, lambda x=x: asyncio.run(ask(x))) for x in range(24)
            ]
            assert [await answer for answer in asked] == list(range(1, 25))
        assert await (await add.enqueue(1)).get(timeout=PATIENCE) == 2


async def test_a_loop_that_did_not_enter_is_told_so_at_once(any_app: App) -> None:
    @any_app.task
    async def one() -> int:
        return 1

    async def send() -> Result[int]:
        return await one.enqueue()

    async with any_app:
        for work in (
            send,
            lambda: any_app.enqueue_many([one.s()]),
            lambda: any_app.__aexit__(None, None, None),
        ):
            with pytest.raises(ConfigurationError, match=ELSEWHERE):
                await in_another_loop(work)
        assert await (await one.enqueue()).status() is Status.QUEUED


async def test_code_without_a_loop_is_told_so_at_once(app: App) -> None:
    async with app:
        with pytest.raises(ConfigurationError, match=r"here, without an event loop.*app\.sync\(\)"):
            await anyio.to_thread.run_sync(app.result, "some-id")


def test_a_loop_that_was_closed_without_leaving_is_forgotten(any_app: App) -> None:
    @any_app.task
    async def one() -> int:
        return 1

    async def enter() -> None:
        await any_app.__aenter__()
        await one.enqueue()

    async def work() -> int:
        async with any_app, any_app.worker():
            return await (await one.enqueue()).get(timeout=PATIENCE)

    asyncio.run(enter())
    with pytest.raises(ConfigurationError, match=CLOSED):
        asyncio.run(one.enqueue())
    assert asyncio.run(work()) == 1
    with pytest.raises(ConfigurationError, match="not connected any more"):
        asyncio.run(one.enqueue())


def test_a_loop_that_was_closed_under_its_tasks_harms_no_other(
    any_app: App, caplog: pytest.LogCaptureFixture
) -> None:
    @any_app.task
    async def one() -> int:
        return 1

    async def enter() -> None:
        await any_app.__aenter__()
        with pytest.raises(TimeoutError):
            await (await one.enqueue()).get(timeout=0.01)

    async def work() -> int:
        async with any_app, any_app.worker():
            return await (await one.enqueue()).get(timeout=PATIENCE)

    loop = asyncio.new_event_loop()
    loop.run_until_complete(enter())
    loop.close()  # nothing was cancelled, and so nothing left

    assert asyncio.run(work()) == 1


def test_loops_that_ended_leave_nothing_behind(app: App) -> None:
    @app.task
    async def one() -> int:
        return 1

    async def use(leave: bool) -> None:
        await app.__aenter__()
        await one.enqueue()
        if leave:
            await app.__aexit__(None, None, None)

    for n in range(1_000):
        asyncio.run(use(leave=n % 2 == 0))

    connected = app._connections._connected  # pyright: ignore[reportPrivateUsage]
    assert len(connected) <= 1
    assert threading.active_count() < 50


async def test_a_worker_belongs_to_the_loop_that_makes_it(any_app: App) -> None:
    @any_app.task
    async def where() -> int:
        return threading.get_ident()

    async def work() -> int:
        async with any_app.worker():
            return await (await where.enqueue()).get(timeout=PATIENCE)

    async with any_app:
        assert await in_another_loop(work) != threading.get_ident()
        with pytest.raises(ConfigurationError, match=ELSEWHERE):
            await in_another_loop(as_coroutine(any_app.make_worker))


async def test_a_handle_is_awaited_through_the_loop_that_awaits_it(any_app: App) -> None:
    @any_app.task
    async def add(x: int) -> int:
        return x + 1

    async with any_app, any_app.worker():
        results = await any_app.enqueue_many(add.s(x) for x in range(20))

        async def get() -> int:
            async with any_app:
                return await results[0].get(timeout=PATIENCE)

        async def gather() -> list[int]:
            async with any_app:
                return await asyncq.gather(*results, timeout=PATIENCE)

        async def complete() -> list[int]:
            async with any_app:
                done = asyncq.as_completed(results, timeout=PATIENCE)
                return sorted([await result async for result in done])

        async def ask() -> tuple[Status, Progress | None]:
            async with any_app:
                await results[1].get(timeout=PATIENCE)
                answers = await results[1].status(), await results[1].progress()
                await results[1].forget()
                return answers

        assert await in_another_loop(get) == 1
        assert await in_another_loop(gather) == list(range(1, 21))
        assert await in_another_loop(complete) == list(range(1, 21))
        assert await in_another_loop(ask) == (Status.SUCCEEDED, None)


async def test_a_handle_in_a_loop_that_is_not_connected_says_so_at_once(any_app: App) -> None:
    @any_app.task
    async def never() -> None: ...

    async with any_app:
        result = await never.enqueue()

        async def complete() -> None:
            async for _ in asyncq.as_completed([result]):
                pass

        for work in (
            result.get,
            lambda: asyncq.gather(result),
            complete,
            result.status,
            result.progress,
            result.forget,
        ):
            with pytest.raises(ConfigurationError, match=ELSEWHERE):
                await in_another_loop(work)


async def test_a_wait_in_another_loop_ends_in_time(any_app: App) -> None:
    @any_app.task
    async def never() -> None: ...

    async with any_app:
        result = await never.enqueue()

        async def wait() -> None:
            async with any_app:
                await result.get(timeout=0.05)

        with pytest.raises(TimeoutError, match=r"no outcome after 0\.05 s"):
            await in_another_loop(wait)


async def test_a_handle_outlives_the_block_that_made_it(any_app: App) -> None:
    @any_app.task
    async def one() -> int:
        return 1

    async with any_app:
        result = await one.enqueue()
    async with any_app.worker():
        assert await result.get(timeout=PATIENCE) == 1


async def test_a_plain_task_may_run_a_loop_of_its_own(any_app: App) -> None:
    @any_app.task
    async def leaf(x: int) -> int:
        return x + 1

    async def ask(x: int) -> int:
        async with any_app:
            return await (await leaf.enqueue(x)).get(timeout=PATIENCE)

    @any_app.task
    def connects(x: int) -> int:
        return asyncio.run(ask(x))

    @any_app.task
    def forgets(x: int) -> None:
        asyncio.run(leaf.enqueue(x))

    async with any_app.worker():
        assert await (await connects.enqueue(1)).get(timeout=PATIENCE) == 2
        with pytest.raises(asyncq.TaskFailed, match=f"(?s)ConfigurationError: .*{ELSEWHERE}"):
            await (await forgets.enqueue(1)).get(timeout=PATIENCE)


async def test_a_plain_task_may_report_its_progress_from_a_loop_of_its_own(any_app: App) -> None:
    reported, seen = threading.Event(), threading.Event()

    @any_app.task
    def report(ctx: asyncq.Context) -> None:
        asyncio.run(as_coroutine(lambda: ctx.progress(1, 2))())
        reported.set()
        seen.wait(PATIENCE)

    async with any_app.worker():
        result = await report.enqueue()
        with fail_after(PATIENCE):
            assert await anyio.to_thread.run_sync(reported.wait, PATIENCE)
        assert await result.progress() == Progress(1, 2)
        seen.set()
        await result.get(timeout=PATIENCE)


async def test_a_thread_of_the_loop_sends_through_the_loop(any_app: App) -> None:
    """What Starlette's and FastAPI's plain endpoints may do."""

    @any_app.task
    async def one() -> int:
        return 1

    def endpoint() -> str:
        return anyio.from_thread.run(one.enqueue).id

    async with any_app:
        id = await anyio.to_thread.run_sync(endpoint)
        assert await any_app.result(id).status() is Status.QUEUED


async def test_what_ends_in_one_loop_is_not_waited_for_in_another(any_app: App) -> None:
    @any_app.task
    async def one() -> int:
        return 1

    async with any_app:
        ended = asyncq.as_completed([await one.enqueue(), await one.enqueue()])

        async def iterate() -> None:
            async with any_app:
                await anext(ended)

        with pytest.raises(ConfigurationError, match=r"made in another event loop.*call it in"):
            await in_another_loop(iterate)
        async with any_app.worker():
            values = [await result async for result in ended]

    assert values == [1, 1]


async def test_what_has_ended_may_be_carried_to_another_loop(any_app: App) -> None:
    @any_app.task
    async def one() -> int:
        return 1

    async with any_app.worker():
        [handle] = [result async for result in asyncq.as_completed([await one.enqueue()])]

        async def use() -> int:
            async with any_app:
                assert await handle.status() is Status.SUCCEEDED
                [again] = await asyncq.gather(handle, timeout=PATIENCE)
                [last] = [result async for result in asyncq.as_completed([handle])]
                return await handle + again + await last

        assert await in_another_loop(use) == 3


async def test_a_worker_leaves_the_programs_garbage_collector_alone(app: App) -> None:
    thresholds, frozen = gc.get_threshold(), gc.get_freeze_count()

    async with app:
        await app.run_worker(burst=True)
        await in_another_loop(lambda: app.run_worker(burst=True))

    assert (gc.get_threshold(), gc.get_freeze_count()) == (thresholds, frozen)


async def test_run_worker_in_a_thread_does_without_signals(any_app: App) -> None:
    @any_app.task
    async def where() -> int:
        return threading.get_ident()

    thread = threading.Thread(target=lambda: asyncio.run(any_app.run_worker(burst=True)))
    async with any_app:
        result = await where.enqueue()
        thread.start()
        with fail_after(2 * PATIENCE):
            assert await result.get(timeout=PATIENCE) == thread.ident
            await anyio.to_thread.run_sync(thread.join)


def as_coroutine(call: Callable[[], Any]) -> Callable[[], Coroutine[Any, Any, Any]]:
    """``call``, for who wants a coroutine function."""

    async def run() -> Any:
        answer = call()
        return await answer if inspect.isawaitable(answer) else answer

    return run
