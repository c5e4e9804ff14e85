"""Cancelling: whom it reaches, and what its canceller and all who wait are told.

What a worker does to what it runs is in `tests.worker.test_cancelled_tasks`.
"""

import asyncio
import time

import anyio
import pytest
from anyio import fail_after

import asyncq
from asyncq import testing
from asyncq.app import App
from asyncq.errors import ConfigurationError, InvalidValue, TaskCancelled, TaskFailed
from asyncq.language.marks import KEEP, MOST_IDS, Cancellation
from asyncq.language.message import Status, new_id
from asyncq.language.policies import Retry
from tests.client.given import AT_ONCE, PATIENCE, until, until_empty, until_status
from tests.worker.combinations import any_app, sees_all

__all__ = ["any_app"]  # a fixture

DAY = 86400.0


@pytest.mark.parametrize("delay", [0, DAY])
async def test_what_waits_never_runs_and_its_waiter_hears_of_it_at_once(
    any_app: App, delay: float
) -> None:
    """Also while no worker is there at all."""
    ran: list[int] = []

    @any_app.task
    async def send(n: int) -> None:
        ran.append(n)

    async with any_app:
        results = [await send.options(delay=delay).enqueue(n) for n in range(3)]
        began = time.monotonic()
        answer = await results[0].cancel("the order was withdrawn")
        assert answer is Cancellation.CANCELLED
        with pytest.raises(TaskCancelled, match="was cancelled: the order was withdrawn") as caught:
            await results[0].get(timeout=PATIENCE)
        assert time.monotonic() - began < AT_ONCE
        assert caught.value.reason == "the order was withdrawn"
        assert await results[0].status() is Status.CANCELLED
        assert await results[0].cancel("again") is Cancellation.ENDED
        answers = await any_app.cancel(results[1:])
        assert list(answers.values()) == [Cancellation.CANCELLED] * 2
        async with any_app.worker():
            last = await send.enqueue(3)
            await last.get(timeout=PATIENCE)
            await until_empty(any_app)
    assert ran == [3]


async def test_what_has_ended_or_is_unknown_stays_as_it_is(any_app: App) -> None:
    @any_app.task
    async def work(n: int) -> int:
        if n < 0:
            raise ValueError(n)
        return n

    async with any_app, any_app.worker():
        done, failed = await work.enqueue(1), await work.enqueue(-1)
        assert await done.get(timeout=PATIENCE) == 1
        with pytest.raises(TaskFailed):
            await failed.get(timeout=PATIENCE)
        assert await done.cancel() is await failed.cancel() is Cancellation.ENDED
        assert await any_app.result(done.id).get(timeout=PATIENCE) == 1
        if sees_all(any_app):
            id = new_id()
            assert await any_app.cancel(id) == {id: Cancellation.UNKNOWN}
            assert await (await work.options(id=id).enqueue(2)).get(timeout=PATIENCE) == 2


async def test_what_is_to_be_tried_again_in_an_hour_ends_now(any_app: App) -> None:
    runs: list[int] = []

    @any_app.task(retry=Retry(1, base=3600, jitter=False, ceiling=3600))
    async def work() -> None:
        runs.append(1)
        raise ValueError("not today")

    async with any_app, any_app.worker():
        result = await work.enqueue()
        await until(lambda: bool(runs))
        if sees_all(any_app):
            await until_status(result, Status.SCHEDULED)
        else:
            await anyio.sleep(0.3)
        began = time.monotonic()
        assert await result.cancel("enough") is Cancellation.CANCELLED
        with pytest.raises(TaskCancelled) as caught:
            await result.get(timeout=PATIENCE)
        assert time.monotonic() - began < AT_ONCE
        assert caught.value.last_error == "ValueError: not today"
    assert runs == [1]


async def test_a_retry_that_is_given_back_as_its_mark_comes_ends_now(app: App) -> None:
    """A thousand times, at all moments."""
    count = 200

    @app.task(retry=Retry(1, base=3600, jitter=False, ceiling=3600))
    async def work(seconds: float) -> None:
        await asyncio.sleep(seconds)
        raise ValueError("not today")

    async with app, app.worker(concurrency=count):
        results = [await work.enqueue(n * 0.0005) for n in range(count)]
        await asyncio.sleep(count * 0.0002)
        answers = await app.cancel(results, "enough")
        for result in results:
            with pytest.raises(TaskCancelled, match="enough"):
                await result.get(timeout=PATIENCE)
    assert set(answers.values()) <= {Cancellation.CANCELLED, Cancellation.ASKED}


async def test_whatever_is_described_and_was_sent_until_now_is_cancelled(any_app: App) -> None:
    ran: list[str] = []

    @any_app.task(name=f"mail-{new_id()}", queue="mail")
    async def mail(tenant: str) -> None:
        ran.append(f"mail {tenant}")

    @any_app.task(name=f"bill-{new_id()}", queue="bills")
    async def bill(tenant: str) -> None:
        ran.append(f"bill {tenant}")

    def of(tenant: str) -> dict[str, str]:
        return {"tenant": tenant, "more": "of it"}

    async with any_app:
        cancelled = [await mail.options(headers=of(tenant)).enqueue(tenant) for tenant in "ab"]
        kept = [await bill.options(headers=of(tenant)).enqueue(tenant) for tenant in "ab"]
        assert await any_app.cancel(task=mail, reason="no mail") == {}
        assert await any_app.cancel(queue="bills", headers={"tenant": "b"}, reason="no b") == {}
        await anyio.sleep(0.01)
        async with any_app.worker():
            for result in (*cancelled, kept[1]):
                with pytest.raises(TaskCancelled, match="no "):
                    await result.get(timeout=PATIENCE)
            await kept[0].get(timeout=PATIENCE)
            await (await mail.options(headers=of("b")).enqueue("b")).get(timeout=PATIENCE)
    assert ran == ["bill a", "mail b"]


async def test_another_client_may_cancel_and_another_may_wait(any_app: App) -> None:
    """Nobody has to be the one who sent it."""
    other = App(any_app.url.reveal(), backend=any_app.backend_url.reveal())
    ran: list[int] = []

    @any_app.task
    async def work() -> None:
        ran.append(1)

    async with any_app, other:
        result = await work.options(delay=DAY).enqueue()
        waiting = asyncio.ensure_future(result.get(timeout=PATIENCE))
        await anyio.sleep(0.1)
        began = time.monotonic()
        assert await other.cancel(result.id, "by another") == {result.id: Cancellation.CANCELLED}
        with pytest.raises(TaskCancelled, match="by another"):
            await other.result(result.id).get(timeout=PATIENCE)
        with pytest.raises(TaskCancelled, match="by another"):
            await waiting
        assert time.monotonic() - began < AT_ONCE
    assert ran == []


async def test_what_is_sent_again_from_the_dead_letters_runs(any_app: App) -> None:
    runs: list[int] = []

    @any_app.task
    async def fail_once() -> int:
        runs.append(1)
        if len(runs) == 1:
            raise ValueError
        return len(runs)

    async with any_app, any_app.worker():
        result = await fail_once.enqueue()
        with pytest.raises(TaskFailed):
            await result.get(timeout=PATIENCE)
        with fail_after(PATIENCE):
            while not await any_app.dead.list("default"):  # noqa: ASYNC110 - there is no event
                await anyio.sleep(0.01)
        await any_app.cancel(task=fail_once)
        assert list(await any_app.dead.replay("default", [result.id])) == [result.id]
        assert await any_app.result(result.id).get(timeout=PATIENCE) == 2


async def test_many_are_cancelled_at_once(any_app: App) -> None:
    count = 3 * MOST_IDS + 7
    ran: list[int] = []

    @any_app.task(name=f"many-{new_id()}", queue="many")
    async def work(n: int) -> None:
        ran.append(n)

    @any_app.task(queue="many")
    async def last() -> None: ...

    async with any_app:
        results = await any_app.enqueue_many(work.s(n) for n in range(count))
        answers = await any_app.cancel(results, "all of it")
        assert len(answers) == count
        assert set(answers.values()) == {Cancellation.CANCELLED}
        async with any_app.worker():
            await (await last.enqueue()).get(timeout=PATIENCE)
            await until_empty(any_app, "many")
    assert ran == []


async def test_marks_end(app: App) -> None:
    ran: list[int] = []

    @app.task
    async def work(n: int) -> None:
        ran.append(n)

    async with testing.run(app) as run:
        await app.cancel(task=work)
        registry = app.client.backend.offers.registry
        assert registry is not None
        assert len((await registry.list("cancel")).entries) == 1
        await run.advance(KEEP + 1)
        assert len((await registry.list("cancel")).entries) == 0
        await work.enqueue(1)
        await run.until_idle()
    assert ran == [1]


@pytest.mark.parametrize("scheme", ["null", "rpc"])
async def test_a_backend_without_marks_says_so(scheme: str, request: pytest.FixtureRequest) -> None:
    if scheme == "rpc":
        app = App(request.getfixturevalue("rabbitmq_url"))
    else:
        app = App(f"memory://{new_id()}", backend="null://")

    @app.task
    async def work() -> None: ...

    async with app:
        result = await work.enqueue()
        with pytest.raises(ConfigurationError, match=r"keeps no marks: give the app one that does"):
            await result.cancel()


async def test_what_makes_no_sense_is_refused(app: App) -> None:
    @app.task
    async def work() -> None: ...

    async with app:
        result = await work.options(delay=DAY).enqueue()
        with pytest.raises(InvalidValue, match="either results or ids"):
            await app.cancel()
        with pytest.raises(InvalidValue, match="either results or ids"):
            await app.cancel(result, task=work)
        with pytest.raises(InvalidValue, match="a reason is a text"):
            await result.cancel(5)  # type: ignore[arg-type]
        with pytest.raises(InvalidValue, match="an id is"):
            await app.cancel([5])  # type: ignore[list-item]
        with pytest.raises(TypeError, match="header"):
            await app.cancel(headers={"a": object()})
        assert await app.cancel([]) == {}
        with app.sync() as client:
            sent = await asyncio.to_thread(client.enqueue, work.options(delay=DAY).s())
            assert await asyncio.to_thread(sent.cancel, "no") is asyncq.Cancellation.CANCELLED


async def test_what_is_cancelled_is_told_at_once_to_who_asks_later(any_app: App) -> None:
    @any_app.task
    async def work() -> None: ...

    async with any_app:
        results = [await work.options(delay=DAY).enqueue() for _ in range(20)]
        await any_app.cancel(results)
        began = time.monotonic()
        for result in results:
            with pytest.raises(TaskCancelled):
                await result.get(timeout=PATIENCE)
        assert time.monotonic() - began < AT_ONCE


async def test_a_task_is_cancelled_under_its_former_names_as_well() -> None:
    url = f"memory://{new_id()}"
    before, after = App(url), App(url)
    ran: list[int] = []

    @before.task(name="old")
    async def old() -> None: ...

    @after.task(name="new", aliases=["old"])
    async def new() -> None:
        ran.append(1)

    async with before, after:
        results = [await old.enqueue(), await new.enqueue()]
        await after.cancel(task="new")
        async with after.worker():
            for result in results:
                with pytest.raises(TaskCancelled):
                    await result.get(timeout=PATIENCE)
    assert ran == []
