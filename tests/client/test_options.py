"""The options of a call: what they mean, and what is refused before anything is sent."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from asyncq import testing
from asyncq.app import App
from asyncq.client.context import Context
from asyncq.client.gathering import as_completed, gather
from asyncq.errors import ConfigurationError, InvalidValue, RetryLater, UnknownOption
from asyncq.language.message import Status
from asyncq.testing import Sent
from tests.client.given import new_app


async def sent_with(app: App, **options: Any) -> tuple[Sent, float]:
    """What a call with these options sends, and when that is."""

    @app.task(queue="own", priority=3, expires=60.0, keep_result=9.0)
    async def task() -> None: ...

    async with testing.run(app, worker=False) as run:
        await task.options(**options).enqueue()
        [sent] = run.enqueued
        return sent, run.clock.now()


STARTS: list[tuple[dict[str, Any], Callable[[float], float | None]]] = [
    ({}, lambda _: None),
    ({"delay": 5}, lambda now: now + 5),
    ({"delay": 0}, lambda now: now),
    ({"countdown": 5.5}, lambda now: now + 5.5),
    ({"countdown": timedelta(minutes=1)}, lambda now: now + 60),
    ({"eta": 1_234_567.0}, lambda _: 1_234_567.0),
    ({"eta": datetime(2030, 1, 1, tzinfo=UTC)}, lambda _: 1_893_456_000.0),
]


@pytest.mark.parametrize(("options", "eta"), STARTS, ids=[str(options) for options, _ in STARTS])
async def test_delay_countdown_and_eta_say_when_to_start(
    app: App, options: dict[str, Any], eta: Callable[[float], float | None]
) -> None:
    sent, now = await sent_with(app, **options)

    assert sent.eta == eta(now)


async def test_options_of_the_call_win_over_those_of_the_task(app: App) -> None:
    sent, now = await sent_with(
        app, queue="other", priority=0, expires=timedelta(seconds=5), id="mine", headers={"a": 1}
    )

    assert sent.queue == "other"
    assert sent.priority == 0
    assert sent.expires == now + 5
    assert sent.id == "mine"
    assert sent.headers == {"a": 1}


async def test_options_that_are_not_given_are_those_of_the_task(app: App) -> None:
    sent, now = await sent_with(app)

    assert (sent.queue, sent.priority) == ("own", 3)
    assert sent.expires == now + 60
    assert len(sent.id) == 32


@pytest.mark.parametrize(
    ("options", "error", "complaint"),
    [
        ({"delay": 1, "countdown": 1}, ValueError, "give one of"),
        ({"delay": 0, "eta": 5.0}, ValueError, "give one of"),
        ({"eta": datetime(2030, 1, 1)}, ValueError, "no time zone"),  # noqa: DTZ001 - the point
        ({"eta": float("nan")}, ValueError, "moment"),
        ({"eta": float("inf")}, ValueError, "moment"),
        ({"eta": "2030-01-01"}, ValueError, "moment"),
        ({"eta": -1}, ValueError, "moment"),
        ({"eta": 10**400}, ValueError, "moment"),
        ({"eta": 1e12}, ValueError, "end of 9999"),
        ({"eta": timedelta(seconds=5)}, ValueError, "write delay="),
        ({"delay": "5"}, ValueError, "number of seconds"),
        ({"delay": True}, ValueError, "number of seconds"),
        ({"delay": 10**400}, ValueError, "number of seconds"),
        ({"countdown": 1e10}, ValueError, "at most"),
        ({"expires": "5"}, ValueError, "expires is a number of seconds"),
        ({"keep_result": "5"}, ValueError, "keep_result is a number of seconds"),
        ({"priority": "5"}, ValueError, "from 0"),
        ({"id": 5}, ValueError, "1 to 128"),
        ({"queue": 5}, ConfigurationError, "queue name"),
        ({"exchange": 5}, ConfigurationError, "exchange name"),
        ({"exchange": "a", "routing_key": 5}, ConfigurationError, "routing key"),
        ({"defer_by": 5}, TypeError, "write delay"),
        ({"ignore_result": True}, TypeError, "write keep_result=0"),
        ({"retry": 5}, TypeError, r"@app.task\(retry"),
        ({"prioritty": 5}, TypeError, "mean priority"),
        ({"zzz": 5}, TypeError, "there are queue, exchange"),
        ({"delay": -1}, ValueError, "not negative"),
        ({"delay": float("nan")}, ValueError, "number of seconds"),
        ({"delay": float("inf")}, ValueError, "number of seconds"),
        ({"expires": timedelta(seconds=-1)}, ValueError, "not negative"),
        ({"expires": float("nan")}, ValueError, "number of seconds"),
        ({"keep_result": -1.0}, ValueError, "not negative"),
        ({"keep_result": float("inf")}, ValueError, "number of seconds"),
        ({"priority": 10}, ValueError, "from 0"),
        ({"priority": -1}, ValueError, "from 0"),
        ({"priority": 1.5}, ValueError, "from 0"),
        ({"priority": True}, ValueError, "from 0"),
        ({"id": ""}, ValueError, "1 to 128"),
        ({"id": "with space"}, ValueError, "1 to 128"),
        ({"id": "line\n"}, ValueError, "1 to 128"),
        ({"id": "x" * 129}, ValueError, "1 to 128"),
        ({"queue": ""}, ConfigurationError, "queue name"),
        ({"queue": "a b"}, ConfigurationError, "queue name"),
        ({"queue": "line\n"}, ConfigurationError, "queue name"),
        ({"queue": "{tag}"}, ConfigurationError, "queue name"),
        ({"queue": "x" * 129}, ConfigurationError, "queue name"),
        ({"queue": "a", "exchange": "b"}, ConfigurationError, "not both"),
        ({"exchange": "a b"}, ConfigurationError, "exchange name"),
        ({"routing_key": "a.b"}, ConfigurationError, "is for an exchange"),
        ({"exchange": "a", "routing_key": "x" * 256}, ConfigurationError, "256 bytes"),
        ({"headers": [1]}, TypeError, "headers"),
        ({"headers": {1: 2}}, TypeError, "headers"),
        ({"headers": {"a": ...}}, TypeError, "cannot be sent"),
        ({"headers": {"a": "\udcff"}}, TypeError, "cannot be sent"),
        ({"headers": {"a": 2**70}}, TypeError, "cannot be sent"),
    ],
    ids=str,
)
def test_options_that_no_broker_could_carry_are_refused(
    app: App, options: dict[str, Any], error: type[Exception], complaint: str
) -> None:
    @app.task
    async def task() -> None: ...

    with pytest.raises(error, match=complaint):
        task.options(**options)


@pytest.mark.parametrize(
    "options",
    [
        {"priority": 10},
        {"priority": 0.5},
        {"expires": -1.0},
        {"keep_result": float("nan")},
        {"time_limit": -1.0},
        {"queue": "a/b"},
        {"queue": "a", "exchange": "b"},
        {"exchange": "a/b"},
        {"routing_key": "a"},
        {"name": "with space"},
        {"name": "x" * 201},
        {"name": "line\n"},
        {"colour": "red"},
    ],
    ids=str,
)
def test_a_task_with_options_that_cannot_be_is_refused(app: App, options: dict[str, Any]) -> None:
    async def task() -> None: ...

    with pytest.raises((ValueError, ConfigurationError, TypeError)):
        app.task(**options)(task)

    assert app.tasks == {}


@pytest.mark.parametrize(
    ("options", "instead"),
    [
        ({"timeout": 5}, "write time_limit"),
        ({"soft_timeout": 5}, "write soft_time_limit"),
        ({"retry_if": callable}, r"write retry=Retry\(when="),
        ({"max_retries": 5}, r"retry=Retry\(times=...\)"),
        ({"retries": 5}, r"retry=Retry\(times=...\)"),
        ({"countdown": 5}, r"task.options\(delay=...\)"),
        ({"autoretry_for": (OSError,)}, r"retry=Retry\(on=...\)"),
        ({"retry_backoff": True}, r"Retry\(base="),
        ({"default_retry_delay": 3}, r"Retry\(base="),
        ({"ignore_result": True}, "keep_result=0"),
        ({"acks_late": True}, "acknowledged only after"),
        ({"bind": True}, "asyncq.Context"),
        ({"result_ttl": 5}, "write keep_result"),
        ({"queue_name": "mail"}, "write queue"),
        ({"actor_name": "mail"}, "write name"),
        ({"max_age": 5}, "write expires"),
        ({"time_limits": 5}, "do you mean time_limit"),
        ({"colour": "red"}, "there are name, queue"),
    ],
    ids=str,
)
def test_an_unknown_option_of_a_task_names_the_right_one(
    app: App, options: dict[str, Any], instead: str
) -> None:
    with pytest.raises(UnknownOption, match=instead):
        app.task(**options)


def test_a_task_named_by_position_is_told_how(app: App) -> None:
    with pytest.raises(InvalidValue, match=r"@app.task\(name="):
        app.task("mail.send")  # pyright: ignore[reportCallIssue, reportArgumentType] - wrong on purpose


@pytest.mark.parametrize(
    ("options", "instead"),
    [
        ({"broker_url": "memory://"}, "write broker"),
        ({"result_backend": "memory://"}, "write backend"),
        ({"task_routes": {}}, "write routes"),
        ({"concurrency": 5}, r"config=Config\(concurrency=...\)"),
        ({"quues": []}, "do you mean queues"),
    ],
    ids=str,
)
def test_an_unknown_option_of_an_app_names_the_right_one(
    options: dict[str, Any], instead: str
) -> None:
    with pytest.raises(UnknownOption, match=instead):
        App(**options)


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"concurrency": 0}, "concurrency is from 1"),
        ({"concurrency": "5"}, "concurrency is from 1"),
        ({"concurrency": 1.5}, "concurrency is from 1"),
        ({"grace": -1}, "grace is a number of seconds"),
        ({"grace": "5"}, "grace is a number of seconds"),
        ({"queues": "mail"}, "list of names"),
        ({"queues": ["a b"]}, "queue name"),
        ({"queues": [None]}, "queue name"),
        ({"queue": "mail"}, r"queues=\[...\]"),
        ({"lease": 5}, r"config=Config\(lease=...\)"),
        ({"max_jobs": 5}, "concurrency"),
    ],
    ids=str,
)
async def test_a_worker_with_options_that_cannot_be_is_refused(
    app: App, options: dict[str, Any], complaint: str
) -> None:
    async with app:
        with pytest.raises(ConfigurationError, match=complaint):
            app.make_worker(**options)


async def test_durations_of_tasks_calls_and_workers_may_be_timedeltas(app: App) -> None:
    hour = timedelta(hours=1)

    @app.task(time_limit=hour, expires=hour, keep_result=hour)
    async def task() -> int:
        return 1

    settings = task.settings
    assert (settings.time_limit, settings.expires, settings.keep_result) == (3600, 3600, 3600)
    async with app.worker(grace=timedelta(0)):
        result = await task.options(expires=hour, keep_result=hour).enqueue()

        assert await result.get(timeout=timedelta(seconds=10)) == 1


async def test_no_limit_may_be_written_as_infinity(app: App) -> None:
    @app.task(time_limit=float("inf"), expires=float("inf"))
    async def task() -> int:
        return 1

    assert (task.settings.time_limit, task.settings.expires) == (None, None)
    async with app.worker():
        result = await task.enqueue()
        assert await result.get(timeout=float("inf")) == 1


async def test_a_call_that_never_expires_wins_over_its_task(app: App) -> None:
    sent, _ = await sent_with(app, expires=float("inf"))

    assert sent.expires is None


@pytest.mark.parametrize("timeout", [-1, float("nan"), "5", True, 10**400], ids=str)
async def test_a_wait_that_makes_no_sense_is_refused(app: App, timeout: Any) -> None:
    @app.task
    async def task() -> None: ...

    async with app:
        result = await task.enqueue()
        with pytest.raises(InvalidValue, match="timeout is a number of seconds"):
            await result.get(timeout=timeout)
        with pytest.raises(InvalidValue, match="timeout is a number of seconds"):
            as_completed([result], timeout=timeout)
        with pytest.raises(InvalidValue, match="timeout is a number of seconds"):
            await gather(result, timeout=timeout)


@pytest.mark.parametrize("delay", [-1, float("nan"), float("inf"), "5", None, True], ids=str)
def test_a_pause_that_a_task_asks_for_is_checked(delay: Any) -> None:
    with pytest.raises(InvalidValue, match="a delay is a number of seconds"):
        RetryLater(delay)


def test_a_pause_that_a_task_asks_for_may_be_a_timedelta() -> None:
    assert RetryLater(timedelta(minutes=1)).delay == 60.0


@pytest.mark.parametrize("value", [float("nan"), "5", None, True], ids=str)
async def test_progress_that_is_no_number_is_refused(app: App, value: Any) -> None:
    @app.task
    async def task(ctx: Context) -> str:
        with pytest.raises(InvalidValue, match="progress is a finite number"):
            await ctx.progress(value)
        return "refused"

    async with app.worker():
        assert await (await task.enqueue()).get(timeout=10) == "refused"


async def test_a_message_with_an_eta_is_scheduled_and_one_without_is_queued(app: App) -> None:
    @app.task
    async def task() -> None: ...

    async with app:
        later = await task.options(delay=3600).enqueue()
        now = await task.enqueue()

        assert await later.status() is Status.SCHEDULED
        assert await now.status() is Status.QUEUED


async def test_a_delayed_message_runs_when_its_time_has_come(app: App) -> None:
    started: list[tuple[float | None, float]] = []

    @app.task
    async def start(ctx: Context) -> None:
        started.append((ctx.eta, run.clock.now()))

    async with testing.run(app) as run:
        due = run.clock.now() + 60
        await start.options(delay=60).enqueue()
        await run.advance(59)
        assert started == []
        await run.advance(1)

    assert started == [(due, due)]


async def test_one_id_is_taken_once(app: App) -> None:
    runs: list[int] = []

    @app.task
    async def note(n: int) -> int:
        runs.append(n)
        return n

    async with app:
        first = await note.options(id="order-1").enqueue(1)
        second = await note.options(id="order-1").enqueue(2)
        async with app.worker():
            assert await first.get(timeout=10) == await second.get(timeout=10) == 1
            third = await note.options(id="order-1").enqueue(3)
            assert await third.get(timeout=10) == 1

    assert runs == [1]


async def test_headers_arrive_at_the_task() -> None:
    app = new_app()

    @app.task
    async def headers(ctx: Context) -> dict[str, Any]:
        return ctx.headers

    sent = {"trace": "abc", "depth": 3, "nested": {"a": [1, 2]}}
    async with app.worker():
        result = await headers.options(headers=sent).enqueue()

        assert await result.get(timeout=10) == sent
