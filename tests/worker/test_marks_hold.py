"""Marks hold for as long as what they mark, for whoever comes to it, and for nothing else."""

from functools import partial

import pytest

from asyncq import testing
from asyncq.app import App
from asyncq.clock import SystemClock
from asyncq.config import Config
from asyncq.errors import Snooze, TaskCancelled
from asyncq.language.marks import KEEP, KIND, SKEW, Cancellation
from asyncq.language.message import Status, new_id
from asyncq.language.policies import Retry
from asyncq.seams.registry import Entry
from tests.client.given import PATIENCE, Gate, new_app, until_status
from tests.worker.combinations import any_app

__all__ = ["any_app"]  # a fixture

DAY = 86400.0
LATE = 2 * KEEP  # seconds
SEEING_ALL = ["memory", "sqlite", "redis", "sqlite+memory", "redis+redis"]


async def marks_of(app: App) -> list[Entry]:
    registry = app.client.backend.offers.registry
    assert registry is not None
    return list((await registry.list(KIND)).entries)


@pytest.mark.parametrize("any_app", SEEING_ALL, indirect=True)
async def test_what_has_ended_or_is_unknown_is_left_no_mark(any_app: App) -> None:
    @any_app.task
    async def work() -> int:
        return 1

    async with any_app, any_app.worker():
        done = await work.enqueue()
        await done.get(timeout=PATIENCE)
        await until_status(done, Status.SUCCEEDED)
        ids = [done.id, new_id()]
        answers = await any_app.cancel(ids, "too late")
        assert list(answers.values()) == [Cancellation.ENDED, Cancellation.UNKNOWN]
        assert await marks_of(any_app) == []


async def test_an_id_that_was_cancelled_may_be_used_again_once_its_outcome_is_gone(
    app: App,
) -> None:
    """Its mark is still there."""

    @app.task(keep_result=60)
    async def work() -> int:
        return 1

    async with testing.run(app) as run:
        call = partial(work.options, id="import-42")
        result = await call(delay=10).enqueue()
        assert await result.cancel() is Cancellation.CANCELLED
        await run.advance(2 * 3600 + SKEW)
        assert len(await marks_of(app)) == 1
        assert await (await call().enqueue()).get(timeout=PATIENCE) == 1


@pytest.mark.parametrize("later", ["delay", "retry", "snooze"])
async def test_a_mark_lasts_as_long_as_what_it_marks_is_to_wait(app: App, later: str) -> None:
    """Long after its outcome is gone."""
    runs: list[int] = []

    @app.task(retry=Retry(1, base=LATE, ceiling=LATE, jitter=False))
    async def work() -> None:
        runs.append(1)
        raise Snooze(LATE) if later == "snooze" else ValueError

    async with testing.run(app) as run:
        call = work.options(delay=LATE) if later == "delay" else work.options()
        result = await call.enqueue()
        await until_status(result, Status.SCHEDULED)
        assert await result.cancel() is Cancellation.CANCELLED
        await run.advance(LATE - DAY)
        assert await result.status() is not Status.CANCELLED  # nobody knows any more
        await run.advance(2 * DAY)
        await run.until_idle()
        assert (await app.queues.depth("default")).delayed == 0
    assert len(runs) == (later != "delay")


@pytest.mark.parametrize("later", ["delay", "retry"])
@pytest.mark.parametrize("any_app", SEEING_ALL, indirect=True)
async def test_each_store_keeps_it_for_so_long(any_app: App, later: str) -> None:
    @any_app.task(retry=Retry(1, base=LATE + DAY, ceiling=LATE + DAY, jitter=False), priority=7)
    async def work() -> None:
        raise ValueError

    async with any_app, any_app.worker():
        call = work.options(delay=LATE + DAY) if later == "delay" else work.options()
        result = await call.enqueue()
        await until_status(result, Status.SCHEDULED)
        assert await result.cancel() is Cancellation.CANCELLED
        [mark] = await marks_of(any_app)
        now = SystemClock().now()
    assert mark.ends is not None
    assert mark.ends > now + LATE


async def test_a_mark_lasts_as_long_as_a_dead_letter_may_lie() -> None:
    """What is sent again from there may be described by it."""
    app = new_app(keep_dead_letters=LATE)

    @app.task
    async def work() -> None: ...

    async with app:
        await app.cancel(task=work)
        [mark] = await marks_of(app)
        now = SystemClock().now()
    assert mark.ends is not None
    assert mark.ends > now + LATE - DAY


@pytest.mark.parametrize("is_left", [False, True], ids=["here", "elsewhere"])
async def test_what_waits_behind_another_never_runs(any_app: App, *, is_left: bool) -> None:
    """A worker may have it at hand, and may leave before it comes to it."""
    gate = Gate()
    ran: list[int] = []

    @any_app.task(name=f"hold-{new_id()}")
    async def hold() -> None:
        await gate.pass_through()

    @any_app.task(name=f"work-{new_id()}")
    async def work(n: int) -> None:
        ran.append(n)

    @any_app.task(name=f"last-{new_id()}")
    async def last() -> int:
        return 1

    other = App(
        any_app.url.reveal(), backend=any_app.backend_url.reveal(), config=Config(concurrency=1)
    )
    other.tasks.update(any_app.tasks)
    async with any_app:
        async with any_app.worker(concurrency=1) as worker:
            first = await hold.enqueue()
            await gate.until_reached()
            results = await any_app.enqueue_many(work.s(n) for n in range(5))
            answers = await any_app.cancel(results, "enough")
            assert set(answers.values()) == {Cancellation.CANCELLED}
            for result in results:
                with pytest.raises(TaskCancelled, match="enough"):
                    await result.get(timeout=PATIENCE)
            if is_left:
                worker.hurry()
            else:
                gate.open()
                assert await (await last.enqueue()).get(timeout=PATIENCE) == 1
        gate.open()
        async with other, other.worker():
            await first.get(timeout=PATIENCE)
            assert await (await last.enqueue()).get(timeout=PATIENCE) == 1
    assert ran == []
