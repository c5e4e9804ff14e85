"""The options of a call: what they mean, and what is refused before anything is sent."""

import time
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from asyncq.app import App
from asyncq.brokers.base import Envelope
from asyncq.brokers.memory import MemoryBroker
from asyncq.config import Url
from asyncq.context import Context
from asyncq.errors import ConfigurationError
from asyncq.message import Status
from asyncq.policies import Retry
from tests.client.given import new_app


class Fixed:
    """A clock that stands."""

    def now(self) -> float:
        return 1_000_000.0


@pytest.fixture
def fixed() -> App:
    return App("memory://" + str(time.perf_counter_ns()), clock=Fixed())


async def envelope_of(app: App, **options: Any) -> Envelope:
    """What a call with these options puts into the broker."""
    sent: list[Envelope] = []

    class Caught(MemoryBroker):
        async def publish(self, envelopes: Any) -> None:
            sent.extend(envelopes)

    @app.task(queue="own", priority=3, expires=60.0, keep_result=9.0)
    async def task() -> None: ...

    async with app:
        app.client._dispatch.default._broker = Caught(Url("memory://nowhere"), Fixed())  # pyright: ignore[reportPrivateUsage] - to catch it
        await task.options(**options).enqueue()
    [envelope] = sent
    return envelope


@pytest.mark.parametrize(
    ("options", "eta"),
    [
        ({}, None),
        ({"delay": 5}, 1_000_005.0),
        ({"delay": 0}, 1_000_000.0),
        ({"countdown": 5.5}, 1_000_005.5),
        ({"countdown": timedelta(minutes=1)}, 1_000_060.0),
        ({"eta": 1_234_567.0}, 1_234_567.0),
        ({"eta": datetime(2030, 1, 1, tzinfo=UTC)}, 1_893_456_000.0),
    ],
)
async def test_delay_countdown_and_eta_say_when_to_start(
    fixed: App, options: dict[str, Any], eta: float | None
) -> None:
    envelope = await envelope_of(fixed, **options)

    assert envelope.eta == eta


async def test_options_of_the_call_win_over_those_of_the_task(fixed: App) -> None:
    envelope = await envelope_of(
        fixed, queue="other", priority=0, expires=timedelta(seconds=5), id="mine", headers={"a": 1}
    )

    assert envelope.queue == "other"
    assert envelope.priority == 0
    assert envelope.expires == 1_000_005.0
    assert envelope.id == "mine"
    assert envelope.headers == {"a": 1}


async def test_options_that_are_not_given_are_those_of_the_task(fixed: App) -> None:
    envelope = await envelope_of(fixed)

    assert (envelope.queue, envelope.priority) == ("own", 3)
    assert envelope.expires == 1_000_060.0
    assert len(envelope.id) == 32


@pytest.mark.parametrize(
    ("options", "error", "complaint"),
    [
        ({"delay": 1, "countdown": 1}, ValueError, "give one of"),
        ({"delay": 0, "eta": 5.0}, ValueError, "give one of"),
        ({"eta": datetime(2030, 1, 1)}, ValueError, "no time zone"),  # noqa: DTZ001 - the point
        ({"eta": float("nan")}, ValueError, "moment"),
        ({"eta": float("inf")}, ValueError, "moment"),
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


@pytest.mark.parametrize("options", [{"times": -1}, {"base": -1.0}, {"factor": 0.5}])
def test_a_retry_policy_that_makes_no_sense_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="Retry takes"):
        Retry(**options)


async def test_a_message_with_an_eta_is_scheduled_and_one_without_is_queued(app: App) -> None:
    @app.task
    async def task() -> None: ...

    async with app:
        later = await task.options(delay=3600).enqueue()
        now = await task.enqueue()

        assert await later.status() is Status.SCHEDULED
        assert await now.status() is Status.QUEUED


async def test_a_delayed_message_runs_when_its_time_has_come(app: App) -> None:
    @app.task
    async def started(ctx: Context) -> float | None:
        return ctx.eta if ctx.eta is not None and time.time() >= ctx.eta else None  # noqa: TID251 - the machine's

    async with app.worker():
        before = time.time()  # noqa: TID251 - the machine's
        result = await started.options(delay=0.05).enqueue()

        eta = await result.get(timeout=10)

    assert eta is not None
    assert eta >= before + 0.05


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
