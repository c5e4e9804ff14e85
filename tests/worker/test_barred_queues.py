"""One queue that cannot be consumed stops none of the others."""

import logging
import re
from collections.abc import Iterator

import anyio
import pytest
from anyio import fail_after

from asyncq import outages
from asyncq.app import App
from asyncq.config import Config
from asyncq.drivers import table as drivers
from asyncq.errors import ConfigurationError, LeaseLost, QueueUnavailable, first_error
from asyncq.language.message import new_id
from asyncq.language.policies import Retry
from asyncq.worker import session
from tests.client.given import PATIENCE, until
from tests.worker.faulty import BarringBroker

SHORT = Retry(times=0, base=0.005, ceiling=0.01)
WRONG = ConfigurationError("queue bad was made otherwise")
TAKEN = QueueUnavailable("bad", "queue bad is taken by another")


@pytest.fixture
def barred(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Exception]]:
    """What queues cannot be consumed for, by their names."""
    monkeypatch.setitem(drivers.BROKERS, "barring", "tests.worker.faulty:BarringBroker")
    monkeypatch.setattr(outages, "AWAY", SHORT)
    monkeypatch.setattr(outages, "WRONG", SHORT)
    monkeypatch.setattr(session, "PAUSE", SHORT)
    BarringBroker.barred.clear()
    BarringBroker.attempts.clear()
    yield BarringBroker.barred
    BarringBroker.barred.clear()


@pytest.fixture
def app(barred: dict[str, Exception]) -> App:
    name = new_id()
    app = App(f"barring://{name}", backend=f"memory://{name}", config=Config(grace=1.0))

    @app.task(queue="good", name="good")
    async def good(n: int) -> int:
        return n

    @app.task(queue="bad", name="bad")
    async def bad(n: int) -> int:
        return -n

    return app


def lines_about(caplog: pytest.LogCaptureFixture, queue: str) -> list[str]:
    """What the log says of a queue, but for what is there to debug."""
    return [
        record.getMessage()
        for record in caplog.records
        if f"queue {queue} " in record.getMessage() and record.levelno >= logging.WARNING
    ]


@pytest.mark.parametrize("error", [WRONG, TAKEN])
async def test_the_others_are_consumed_and_the_log_says_it_once(
    app: App, barred: dict[str, Exception], error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    barred["bad"] = error

    with fail_after(PATIENCE):
        async with app.worker(queues=["bad", "good"]) as worker:
            waiting = await app.tasks["bad"].enqueue(2)
            assert await (await app.tasks["good"].enqueue(1)).get(timeout=PATIENCE) == 1
            await until(lambda: BarringBroker.attempts["bad"] > 3)

            assert not worker.is_consuming
            assert lines_about(caplog, "bad") == [
                f"queue bad is not consumed, trying again: {error}"
            ]

            del barred["bad"]
            assert await waiting.get(timeout=PATIENCE) == -2
            await until(lambda: worker.is_consuming)

    assert "queue bad is consumed again after " in lines_about(caplog, "bad")[-1]
    assert len(lines_about(caplog, "bad")) == 2


async def test_with_no_queue_to_consume_a_worker_does_not_begin(
    app: App, barred: dict[str, Exception]
) -> None:
    barred |= {"bad": WRONG, "good": WRONG}

    with fail_after(PATIENCE), pytest.raises(ConfigurationError, match="made otherwise"):
        async with app.worker(queues=["bad", "good"]):
            pass


async def test_with_no_queue_to_consume_just_now_a_worker_waits_for_one(
    app: App, barred: dict[str, Exception]
) -> None:
    barred |= {"bad": WRONG, "good": TAKEN}

    async def free_one() -> None:
        await until(lambda: BarringBroker.attempts["good"] > 3)
        del barred["good"]

    with fail_after(PATIENCE):
        async with anyio.create_task_group() as group:
            group.start_soon(free_one)
            async with app.worker(queues=["bad", "good"]):
                assert await (await app.tasks["good"].enqueue(1)).get(timeout=PATIENCE) == 1


@pytest.mark.parametrize("error", [WRONG, TAKEN])
async def test_a_queue_that_goes_wrong_later_stops_no_other_and_comes_back(
    app: App, barred: dict[str, Exception], error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    with fail_after(PATIENCE):
        async with app.worker(queues=["bad", "good"]) as worker:
            assert worker.is_consuming
            barred["bad"] = error
            await until(lambda: not worker.is_consuming)
            waiting = await app.tasks["bad"].enqueue(2)
            assert await (await app.tasks["good"].enqueue(1)).get(timeout=PATIENCE) == 1

            del barred["bad"]
            assert await waiting.get(timeout=PATIENCE) == -2
            assert worker.is_consuming

    interrupted, again = lines_about(caplog, "bad")
    assert interrupted == f"queue bad is not consumed, trying again: {error}"
    assert re.fullmatch(r"queue bad is consumed again after \d+\.\d s", again)


async def test_where_every_queue_goes_wrong_the_worker_waits_until_one_is_well(
    app: App, barred: dict[str, Exception], caplog: pytest.LogCaptureFixture
) -> None:
    with fail_after(PATIENCE):
        async with app.worker(queues=["bad", "good"]) as worker:
            barred.update(bad=WRONG, good=WRONG)
            await until(lambda: not worker.is_consuming)
            waiting = await app.tasks["good"].enqueue(1)

            barred.clear()
            assert await waiting.get(timeout=PATIENCE) == 1
            await until(lambda: worker.is_consuming)

    [interrupted, *_] = lines_about(caplog, "good")
    assert interrupted == f"queue good is not consumed, trying again: {WRONG}"


async def test_a_worker_that_was_cut_off_waits_where_it_is_refused_then(
    app: App, barred: dict[str, Exception], caplog: pytest.LogCaptureFixture
) -> None:
    with fail_after(PATIENCE):
        async with app.worker(queues=["bad", "good"]) as worker:
            before = BarringBroker.attempts["bad"]
            barred.update(bad=LeaseLost("it"), good=LeaseLost("it"))
            await until(lambda: BarringBroker.attempts["bad"] > before)
            barred.update(bad=WRONG, good=WRONG)
            await until(lambda: "cannot consume" in caplog.text)
            assert not worker.is_consuming

            barred.clear()
            assert await (await app.tasks["good"].enqueue(1)).get(timeout=PATIENCE) == 1

    assert f"cannot consume, trying again: {WRONG}" in caplog.text


async def test_in_a_burst_where_every_queue_goes_wrong_the_worker_ends_with_the_reason(
    app: App, barred: dict[str, Exception]
) -> None:
    hold = anyio.Event()

    @app.task(queue="good", name="hold")
    async def spoil_both() -> None:
        barred.update(bad=WRONG, good=WRONG)
        hold.set()

    async with app:
        await spoil_both.enqueue()
        with fail_after(PATIENCE), pytest.raises(ExceptionGroup) as caught:
            await app.make_worker(queues=["bad", "good"], burst=True).run()

    assert hold.is_set()
    assert first_error(caught.value) is WRONG


async def test_a_burst_ends_although_a_queue_cannot_be_consumed(
    app: App, barred: dict[str, Exception]
) -> None:
    barred["bad"] = WRONG

    async with app:
        sent = [await app.tasks["good"].enqueue(n) for n in range(20)]
        with fail_after(PATIENCE):
            await app.make_worker(queues=["bad", "good"], burst=True).run()

        assert [await each.get(timeout=PATIENCE) for each in sent] == list(range(20))
