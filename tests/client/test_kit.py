"""The kit for tests of tasks: an app in memory, whose time passes as it is told."""

import asyncio
import subprocess
import sys
from datetime import timedelta
from typing import Any

import pytest
from anyio import to_thread

import asyncq
from asyncq import testing
from asyncq.errors import ConfigurationError
from tests.client.given import PATIENCE

AWAY = "redis://127.0.0.1:1/0"  # where nothing is


@pytest.fixture
def app() -> asyncq.App:
    return asyncq.App(AWAY)


async def test_an_app_runs_in_memory_whatever_its_url(app: asyncq.App) -> None:
    @app.task
    async def add(x: int, y: int) -> int:
        return x + y

    async with testing.run(app) as run:
        result = await add.enqueue(1, 2)
        await run.until_idle()

        assert await result.get(timeout=PATIENCE) == 3
        assert run.enqueued == [add.s(1, 2)]
    assert app.url == AWAY
    with pytest.raises(ConfigurationError, match="not connected"):
        await add.enqueue(1, 2)


async def test_what_is_connected_outside_is_so_again_afterwards() -> None:
    app = asyncq.App("memory://outside")

    @app.task
    async def work() -> str:
        return "done"

    async with app:
        async with testing.run(app):
            assert await (await work.enqueue()).get(timeout=PATIENCE) == "done"
        result = await work.enqueue()

        assert await result.status() is asyncq.Status.QUEUED


async def test_time_passes_as_it_is_told(app: asyncq.App) -> None:
    ran: list[str] = []

    @app.task
    async def note(what: str) -> None:
        ran.append(what)

    async with testing.run(app) as run:
        await note.options(delay=60).enqueue("a minute")
        await note.options(delay=timedelta(hours=1)).enqueue("an hour")
        await note.options(delay=7200).enqueue("two hours")
        await run.until_idle()
        assert ran == []

        await run.advance(60)
        assert ran == ["a minute"]
        await run.advance(timedelta(hours=1))

        assert ran == ["a minute", "an hour"]
        assert [sent.delay for sent in run.enqueued] == pytest.approx([60, 3600, 7200])


async def test_retries_come_in_virtual_time_and_in_their_order(app: asyncq.App) -> None:
    moments: list[float] = []
    began = 0.0

    @app.task(retry=asyncq.Retry(times=3, base=100.0, jitter=False))
    async def fail() -> None:
        moments.append(run.clock.now() - began)
        raise ValueError("no")

    async with testing.run(app) as run:
        began = run.clock.now()
        await fail.enqueue()
        await run.advance(10_000)

        assert moments == pytest.approx([0.0, 100.0, 300.0, 700.0])
        [failure] = run.failures
        assert failure.type == "ValueError"
        assert run.clock.now() - began == pytest.approx(10_000)


async def test_what_expires_before_it_may_start_does_not_run(app: asyncq.App) -> None:
    @app.task
    async def work() -> None:
        raise AssertionError

    async with testing.run(app) as run:
        result = await work.options(delay=10, expires=5).enqueue()
        await run.advance(11)

        with pytest.raises(asyncq.TaskExpired):
            await result.get(timeout=PATIENCE)


async def test_a_result_is_forgotten_when_its_time_is_over(app: asyncq.App) -> None:
    @app.task(keep_result=100.0)
    async def work() -> None: ...

    async with testing.run(app) as run:
        result = await work.enqueue()
        await run.until_idle()
        assert await app.result(result.id).status() is asyncq.Status.SUCCEEDED
        await run.advance(101)

        assert await app.result(result.id).status() is asyncq.Status.UNKNOWN


async def test_idle_is_when_what_tasks_have_sent_has_ended_too(app: asyncq.App) -> None:
    @app.task
    async def count_down(n: int) -> None:
        if n:
            await count_down.enqueue(n - 1)

    @app.task
    def blocking() -> None:
        pass

    async with testing.run(app) as run:
        await count_down.enqueue(20)
        await blocking.enqueue()
        await run.until_idle()

        assert len(run.calls_of(count_down)) == 21
        assert run.failures == []


async def test_what_does_not_end_is_a_time_out(app: asyncq.App) -> None:
    @app.task
    async def wait() -> None:
        await asyncio.Event().wait()

    async with testing.run(app) as run:
        await wait.enqueue()

        with pytest.raises(TimeoutError, match=r"still wait or run after 0\.1 s"):
            await run.until_idle(timeout=0.1)


async def test_what_was_sent_can_be_looked_at_without_a_worker(app: asyncq.App) -> None:
    @app.task(queue="mail", priority=3)
    async def send(to: str, *, subject: str, sizes: tuple[int, ...] = ()) -> None: ...

    @app.task
    async def untyped(value: Any) -> None: ...

    async with testing.run(app, worker=False) as run:
        result = await send.options(delay=5, headers={"a": 1}).enqueue(
            "ann", subject="Hi", sizes=(1, 2)
        )
        await untyped.enqueue((1, 2))
        await run.advance(3600)

        first, second = run.enqueued
        assert (first.task, first.args) == (send.name, ("ann",))
        assert first.kwargs == {"subject": "Hi", "sizes": (1, 2)}
        assert (first.queue, first.priority, first.headers) == ("mail", 3, {"a": 1})
        assert first.id == result.id
        assert first == send.s("ann", subject="Hi", sizes=(1, 2))
        assert first == send.options(delay=5).s("ann", subject="Hi", sizes=(1, 2))
        assert first != send.options(delay=6).s("ann", subject="Hi", sizes=(1, 2))
        assert first != send.s("bob", subject="Hi", sizes=(1, 2))
        assert second == untyped.s((1, 2))
        assert run.calls_of(untyped) == [second]
        assert "send('ann', subject='Hi', sizes=(1, 2)), queue='mail', delay=5" in repr(first)
        assert await result.status() is asyncq.Status.QUEUED


async def test_eagerly_a_call_returns_when_its_task_has_ended(app: asyncq.App) -> None:
    ran: list[str] = []

    @app.task(retry=asyncq.Retry(times=2, base=3600.0))
    async def flaky() -> str:
        ran.append("flaky")
        if len(ran) < 3:
            raise ValueError
        return "at last"

    @app.task
    async def parent() -> str:
        value = await (await flaky.enqueue())
        ran.append("parent")
        return value

    @app.task
    async def fail() -> None:
        raise ValueError("no")

    async with testing.run(app, eager=True) as run:
        result = await parent.enqueue()
        assert ran == ["flaky"] * 3 + ["parent"]
        assert await result == "at last"
        failed = await fail.enqueue()
        many = await app.enqueue_many([parent.s(), parent.s()])

        with pytest.raises(asyncq.TaskFailed, match="ValueError: no"):
            await failed
        assert await asyncq.gather(*many) == ["at last"] * 2
        assert len(run.failures) == 1


async def test_eagerly_what_no_worker_takes_is_an_error_and_no_wait(app: asyncq.App) -> None:
    @app.task
    async def work() -> None: ...

    async with testing.run(app, eager=True):
        with pytest.raises(ConfigurationError, match=r"queues=\['elsewhere', "):
            await work.options(queue="elsewhere").enqueue()


async def test_a_publish_fails_as_it_is_told_to(app: asyncq.App) -> None:
    @app.task
    async def work() -> None: ...

    async with testing.run(app) as run:
        run.fail_next_publish()
        with pytest.raises(asyncq.BrokerUnavailable):
            await work.enqueue()
        run.fail_next_publish(OSError("disk"), times=2)
        with pytest.raises(OSError, match="disk"):
            await work.enqueue()
        with pytest.raises(OSError, match="disk"):
            await app.enqueue_many([work.s()])
        assert run.enqueued == []

        await work.enqueue()
        assert len(run.enqueued) == 1


async def test_a_task_runs_again_when_its_outcome_is_lost(app: asyncq.App) -> None:
    ran: list[int] = []

    @app.task
    async def work(ctx: asyncq.Context) -> None:
        ran.append(ctx.attempt)

    @app.task
    async def fail() -> None:
        ran.append(0)
        raise ValueError

    async with testing.run(app) as run:
        run.lose_next_outcome()
        result = await work.enqueue()
        await run.until_idle()

        assert ran == [1, 1]  # nobody had said that it ended

        run.lose_next_outcome(times=2)
        with pytest.raises(asyncq.TaskFailed):
            await (await fail.enqueue()).get(timeout=PATIENCE)
        assert ran == [1, 1, 0, 0, 0]
        assert await result.get(timeout=PATIENCE) is None


async def test_an_outcome_is_stored_when_the_backend_is_back_and_its_task_ran_once(
    app: asyncq.App,
) -> None:
    ran: list[str] = []

    @app.task
    async def charge(who: str) -> str:
        ran.append(who)
        return who

    async with testing.run(app) as run:
        run.fail_next_store()
        run.fail_next_store(asyncq.BrokerUnavailable("gone"))
        result = await charge.enqueue("ann")
        await run.until_idle()

        assert await result.get(timeout=PATIENCE) == "ann"
        assert ran == ["ann"]


async def test_an_outcome_that_no_backend_takes_is_a_failure(app: asyncq.App) -> None:
    @app.task
    async def work() -> None: ...

    async with testing.run(app) as run:
        run.fail_next_store(OSError("a fault of the driver"))
        result = await work.enqueue()
        await run.until_idle()

        with pytest.raises(asyncq.TaskFailed) as caught:
            await result.get(timeout=PATIENCE)
        assert caught.value.is_a(asyncq.FailureType.UNSETTLED)


@pytest.mark.parametrize("concurrency", [1, 10])
async def test_a_delivery_that_comes_twice_runs_twice_and_has_one_outcome(
    app: asyncq.App, concurrency: int
) -> None:
    numbers: dict[str, int] = {}
    ran: list[str] = []

    @app.task
    async def number(order: str) -> int:
        ran.append(order)
        await asyncio.sleep(0)
        return numbers.setdefault(order, len(numbers) + 1)  # can be repeated

    async with testing.run(app, concurrency=concurrency) as run:
        run.duplicate_next_delivery()
        one, two = await number.enqueue("a"), await number.enqueue("b")
        await run.until_idle()

        assert sorted(ran) == ["a", "a", "b"]
        assert [await one.get(timeout=PATIENCE), await two.get(timeout=PATIENCE)] == [1, 2]
        assert run.failures == []


async def test_a_lost_lease_cancels_what_runs_and_runs_it_again(app: asyncq.App) -> None:
    events: list[str] = []
    reached = asyncio.Event()

    @app.task
    async def work() -> str:
        if events:
            return "again"
        try:
            reached.set()
            await asyncio.Event().wait()
        finally:
            events.append("cancelled")
        return "never"

    async with testing.run(app) as run:
        result = await work.enqueue()
        await reached.wait()
        held = run.lose_lease()
        await run.until_idle()

        assert held == 1
        assert await result.get(timeout=PATIENCE) == "again"
        assert events == ["cancelled"]
        assert run.lose_lease() == 0  # it goes on, under another
        assert await (await work.enqueue()).get(timeout=PATIENCE) == "again"


async def test_what_costs_a_worker_its_lease_again_and_again_is_a_dead_letter(
    app: asyncq.App,
) -> None:
    ran: list[int] = []

    @app.task
    async def kill() -> None:
        ran.append(run.lose_lease())
        await asyncio.Event().wait()

    async with testing.run(app) as run:
        result = await kill.enqueue()
        await run.until_idle()

        with pytest.raises(asyncq.TaskFailed) as caught:
            await result.get(timeout=PATIENCE)
        assert caught.value.is_a(asyncq.FailureType.WORKER_CRASHED)
        assert ran == [1] * app.config.max_crashes


async def test_without_a_worker_there_is_no_lease_to_lose(app: asyncq.App) -> None:
    async with testing.run(app, worker=False) as run:
        with pytest.raises(ConfigurationError, match="needs the worker"):
            run.lose_lease()


async def test_a_client_of_another_thread_is_in_memory_as_well(app: asyncq.App) -> None:
    @app.task
    async def add(x: int, y: int) -> int:
        return x + y

    def send() -> int:
        with app.sync() as client:
            return client.enqueue(add.s(1, 2)).get(timeout=PATIENCE)

    async with testing.run(app) as run:
        assert await to_thread.run_sync(send) == 3
        assert run.enqueued == [add.s(1, 2)]


@testing.on_virtual_time
async def test_in_a_virtual_loop_sleeping_and_time_limits_are_virtual_too() -> None:
    app = asyncq.App(AWAY)

    @app.task(time_limit=60.0)
    async def sleep(seconds: float) -> str:
        await asyncio.sleep(seconds)
        return "slept"

    async with testing.run(app) as run:
        began = run.clock.now()
        short, long = await sleep.options(delay=100).enqueue(50), await sleep.enqueue(70)
        await run.advance(200)

        assert await short == "slept"
        with pytest.raises(asyncq.TaskFailed, match="TimeLimitExceeded"):
            await long
        assert run.clock.now() - began >= 200


async def test_a_function_is_called_with_a_context_that_a_test_makes_up(app: asyncq.App) -> None:
    @app.task
    async def work(ctx: asyncq.Context, n: int) -> tuple[int, str]:
        await ctx.progress(n, 10)
        return ctx.attempt, ctx.state["db"]

    ctx = testing.context(attempt=2, id="one", state={"db": "here"})

    assert await work(ctx, 3) == (2, "here")
    assert ctx.id == "one"
    assert ctx.reported == [asyncq.Progress(3, 10)]
    with ctx:
        assert asyncq.current_context() is ctx
    with pytest.raises(LookupError):
        asyncq.current_context()


def test_the_kit_needs_neither_pytest_nor_hypothesis() -> None:
    code = (
        "import sys; sys.modules['pytest'] = sys.modules['hypothesis'] = None\n"
        "import asyncq.testing; print(asyncq.testing.run.__name__)"
    )

    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )

    assert done.stdout.strip() == "run"


@pytest.mark.parametrize("given", ["shop:app", None, lambda: None])
async def test_what_is_no_app_is_named_where_it_is_to_be_run(given: Any) -> None:
    with pytest.raises(asyncq.ConfigurationError, match=r"is an asyncq\.App, not .*pass the app"):
        async with testing.run(given):
            pytest.fail("it runs")
