"""What a task tells its worker by raising it: each ends in its own way, in one attempt."""

import logging
from collections.abc import Callable, Sequence

import anyio
import pytest

from asyncq import testing
from asyncq.app import App
from asyncq.client.context import Context
from asyncq.errors import (
    Directive,
    Ignore,
    InvalidValue,
    Reject,
    RetryLater,
    Snooze,
    TaskFailed,
    TaskIgnored,
)
from asyncq.language.message import FailureType, Status
from asyncq.language.policies import Retry
from asyncq.seams.admin import DeadLetter
from tests.client.given import PATIENCE, until_status
from tests.worker.combinations import any_app

__all__ = ["any_app"]  # a fixture

PAUSE = 0.05  # seconds


async def dead_letters(app: App) -> Sequence[DeadLetter]:
    """Once there are some: they come behind the outcome where these are two stores."""
    letters: Sequence[DeadLetter] = ()
    with anyio.fail_after(PATIENCE):
        while not letters:
            letters = await app.dead.list("default")
            await anyio.sleep(0.01)
    return letters


async def test_a_call_that_is_rejected_fails_at_once_and_lies_in_the_dead_letters(
    any_app: App,
) -> None:
    runs: list[int] = []

    @any_app.task(retry=5)
    async def pay(context: Context) -> None:
        runs.append(context.attempt)
        raise Reject("the card is stolen")

    async with any_app, any_app.worker():
        result = await pay.enqueue()
        with pytest.raises(TaskFailed) as caught:
            await result.get(timeout=PATIENCE)
        assert caught.value.is_a(FailureType.REJECTED)
        assert caught.value.message == "the card is stolen"
        assert await result.status() is Status.FAILED
        [letter] = await dead_letters(any_app)
        assert letter.reason == "Rejected: the card is stolen"
    assert runs == [1]


async def test_a_task_that_is_to_be_ignored_ends_in_a_state_of_its_own(any_app: App) -> None:
    sent: list[int] = []

    @any_app.task
    async def after() -> None:
        sent.append(1)

    @any_app.task(retry=5)
    async def sync_user(context: Context) -> None:
        await context.enqueue_after(after.s())
        raise Ignore("nothing has changed")

    async with any_app, any_app.worker():
        result = await sync_user.enqueue()
        with pytest.raises(TaskIgnored, match="was to be ignored: nothing has changed") as caught:
            await result.get(timeout=PATIENCE)
        assert caught.value.reason == "nothing has changed"
        await until_status(result, Status.IGNORED)
        assert list(await any_app.dead.list("default")) == []
    assert sent == []


async def test_a_snooze_counts_as_no_attempt(any_app: App) -> None:
    attempts: list[int] = []

    @any_app.task(retry=Retry(1, base=PAUSE, jitter=False))
    async def wait(context: Context, times: int) -> int:
        attempts.append(context.attempt)
        if len(attempts) <= times:
            raise Snooze(PAUSE)
        if context.attempt == 1:
            raise ValueError("the first")
        return context.attempt

    async with any_app, any_app.worker():
        assert await (await wait.enqueue(4)).get(timeout=PATIENCE) == 2
    assert attempts == [1, 1, 1, 1, 1, 2]


async def test_after_500_snoozes_the_first_failure_waits_as_the_first() -> None:
    app = App(f"memory://{__name__}.snoozes")
    moments: list[float] = []
    sizes: set[int] = set()

    @app.task(retry=Retry(1, base=7.0, factor=100.0, jitter=False))
    async def wait(context: Context) -> None:
        moments.append(run.clock.now())
        sizes.add(len(repr(context.message)))
        if len(moments) <= 500:
            raise Snooze(1)
        raise ValueError(context.attempt)

    async with testing.run(app) as run:
        await wait.enqueue()
        await run.advance(500)
        await run.advance(7)
        [failure] = run.failures

    assert failure.message == "2"
    assert round(moments[-1] - moments[-2]) == 7
    assert len(sizes) <= 3  # an eta, and no more each time; numbers are not all as long


async def test_a_task_may_ask_to_run_again_with_other_arguments(any_app: App) -> None:
    ran: list[tuple[int, list[str], bool]] = []

    @any_app.task
    async def fetch(context: Context, page: int, names: list[str], *, last: bool = False) -> int:
        ran.append((page, names, last))
        if context.attempt == 1:
            raise RetryLater(PAUSE, args=(page + 1, [*names, "b"]))
        if context.attempt == 2:
            raise RetryLater(kwargs={"last": True})
        return context.attempt

    async with any_app, any_app.worker():
        assert await (await fetch.enqueue(1, ["a"])).get(timeout=PATIENCE) == 3
    assert ran == [(1, ["a"], False), (2, ["a", "b"], False), (2, ["a", "b"], True)]


@pytest.mark.parametrize(
    ("raise_it", "told"),
    [
        (lambda: RetryLater(args=("no number",)), "argument page: Expected `int`"),
        (lambda: RetryLater(args=(1, 2, 3)), "argument"),
        (lambda: RetryLater(kwargs={"pages": 1}), "pages"),
        (lambda: RetryLater(args=(object(),)), "page"),
    ],
)
async def test_other_arguments_have_to_fit(
    app: App, raise_it: Callable[[], RetryLater], told: str
) -> None:
    @app.task(retry=5)
    async def fetch(page: int) -> None:
        raise raise_it()

    async with app, app.worker():
        with pytest.raises(TaskFailed) as caught:
            await (await fetch.enqueue(1)).get(timeout=PATIENCE)
    assert caught.value.is_a(FailureType.BAD_ARGUMENTS)
    assert "RetryLater's arguments" in caught.value.message
    assert told in caught.value.message


def test_what_is_no_list_of_arguments_is_refused_where_it_is_written() -> None:
    with pytest.raises(InvalidValue, match="RetryLater's args is a list or a tuple"):
        RetryLater(args="text")
    with pytest.raises(InvalidValue, match="RetryLater's kwargs is a dictionary"):
        RetryLater(kwargs=[1])  # type: ignore[arg-type]
    for delay in (-1, float("nan"), float("inf"), "1", None, True):
        with pytest.raises(InvalidValue, match="a delay is a number of seconds"):
            Snooze(delay)  # type: ignore[arg-type]


async def test_out_of_a_group_what_ends_the_task_counts_first(app: App) -> None:
    runs: list[int] = []

    @app.task
    async def both() -> None:
        runs.append(1)
        raise ExceptionGroup("all", [Snooze(0), RetryLater(0), Reject("no"), Ignore()])

    async with app, app.worker():
        with pytest.raises(TaskFailed, match="Rejected: no"):
            await (await both.enqueue()).get(timeout=PATIENCE)
    assert runs == [1]


async def test_a_directive_of_ones_own_is_an_error_like_any_other(app: App) -> None:
    class Stop(Directive):
        pass

    @app.task
    async def stop() -> None:
        raise Stop("now")

    async with app, app.worker():
        with pytest.raises(TaskFailed, match="Stop: now"):
            await (await stop.enqueue()).get(timeout=PATIENCE)


async def test_what_a_task_may_raise_is_one_line_and_no_error(
    app: App, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)

    @app.task(throws=LookupError)
    async def find(fault: str) -> None:
        if fault == "group":
            raise ExceptionGroup("all", [KeyError("a"), IndexError("b")])
        raise KeyError(fault) if fault == "key" else ValueError(fault)

    async with app, app.worker():
        for fault in ("key", "group", "value"):
            with pytest.raises(TaskFailed) as caught:
                await (await find.enqueue(fault)).get(timeout=PATIENCE)
            assert "Traceback" in caught.value.traceback
        assert len(await app.dead.list("default")) == 3

    expected = [each for each in caplog.records if "as expected" in each.getMessage()]
    assert [each.levelno for each in expected] == [logging.INFO] * 2
    assert all(each.exc_info is None for each in expected)
    errors = [each for each in caplog.records if each.levelno >= logging.ERROR]
    assert ["ValueError: value" in each.getMessage() for each in errors] == [True]


async def test_a_policy_says_what_is_tried_again(app: App) -> None:
    runs: dict[str, int] = {}

    def is_worth_it(error: BaseException) -> bool:
        if "odd" in str(error):
            raise ZeroDivisionError
        return "again" in str(error)

    policy = Retry(2, base=0, on=OSError, not_on=FileNotFoundError, when=is_worth_it)

    @app.task(retry=policy)
    async def fetch(name: str) -> None:
        runs[name] = runs.get(name, 0) + 1
        match name:
            case "missing":
                raise FileNotFoundError("again")
            case "group":
                raise ExceptionGroup("again", [OSError("again"), FileNotFoundError("again")])
            case "other":
                raise ValueError("again")
            case _:
                raise OSError(name)

    names = ["again", "no", "odd", "missing", "group", "other"]
    async with app, app.worker():
        for name in names:
            with pytest.raises(TaskFailed) as caught:
                await (await fetch.enqueue(name)).get(timeout=PATIENCE)
            assert not caught.value.is_a(ZeroDivisionError)
    assert [runs[name] for name in names] == [3, 1, 1, 1, 1, 1]


async def test_no_attempt_begins_later_than_for_seconds_after_the_call(app: App) -> None:
    moments: list[float] = []

    @app.task(retry=Retry(for_seconds=60, base=8, factor=1, jitter=False))
    async def fail() -> None:
        moments.append(run.clock.now())
        raise ValueError

    async with testing.run(app) as run:
        began = run.clock.now()
        await fail.enqueue()
        await run.advance(200)
        assert len(run.failures) == 1

    assert [round(moment - began) for moment in moments] == [0, 8, 16, 24, 32, 40, 48, 56]
