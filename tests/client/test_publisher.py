"""The publisher: many callers, few calls, and each hears of what became of its own."""

from collections.abc import AsyncGenerator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest
from anyio import fail_after

from asyncq.client.publisher import Publisher
from asyncq.clock import SystemClock
from asyncq.config import Url
from asyncq.errors import BrokerUnavailable, ConfigurationError, Refused
from asyncq.language.envelope import Envelope
from asyncq.language.message import new_id
from asyncq.language.policies import Retry
from asyncq.seams.broker import MAX_BATCH
from tests.client.given import PATIENCE, Gate, WatchedBroker, until


@pytest.fixture(autouse=True)
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("asyncq.outages.AWAY", Retry(times=0, base=0.001, ceiling=0.002))


@pytest.fixture
def broker() -> WatchedBroker:
    return WatchedBroker(Url(f"memory://{new_id()}"), SystemClock())


@asynccontextmanager
async def running(broker: WatchedBroker, timeout: float = PATIENCE) -> AsyncGenerator[Publisher]:
    """A publisher at work for as long as the block."""
    publisher = Publisher(broker, timeout)
    with fail_after(PATIENCE):
        async with anyio.create_task_group() as group:
            group.start_soon(publisher.run)
            yield publisher
            group.cancel_scope.cancel()
        publisher.close()


def envelope(id: str | None = None) -> Envelope:
    return Envelope(id=id or new_id(), queue="default", body=b"")


def submitting(publisher: Publisher, *ids: str) -> Callable[[], Coroutine[Any, Any, None]]:
    async def submit() -> None:
        await publisher.submit([envelope(id) for id in ids])

    return submit


async def test_what_comes_while_a_send_is_under_way_goes_with_the_next(
    broker: WatchedBroker,
) -> None:
    gate = Gate()
    broker.before = gate.pass_through

    async with running(broker) as publisher, anyio.create_task_group() as group:
        group.start_soon(submitting(publisher, "first"))
        await gate.until_reached()
        for n in range(100):
            group.start_soon(submitting(publisher, f"n{n}"))
        await until(lambda: len(publisher._pending) == 100)  # pyright: ignore[reportPrivateUsage]
        gate.open()

    assert broker.batches == [["first"], [f"n{n}" for n in range(100)]]


async def test_no_call_has_more_than_a_batch(broker: WatchedBroker) -> None:
    async with running(broker) as publisher:
        futures = [publisher.submit([envelope() for _ in range(200)]) for _ in range(10)]
        for future in futures:
            await future

    assert sum(len(batch) for batch in broker.batches) == 2_000
    assert max(len(batch) for batch in broker.batches) <= MAX_BATCH


async def test_order_is_kept_through_failures(broker: WatchedBroker) -> None:
    failures = iter([BrokerUnavailable("gone"), BrokerUnavailable("gone"), None, None])
    broker.fail = lambda _: next(failures, None)
    ids = [f"n{n}" for n in range(20)]

    async with running(broker) as publisher:
        futures = [publisher.submit([envelope(id)]) for id in ids]
        for future in futures:
            await future

    assert [id for batch in broker.batches for id in batch] == ids


async def test_a_broker_that_stays_away_is_unavailable_after_the_time_out(
    broker: WatchedBroker,
) -> None:
    broker.fail = lambda _: BrokerUnavailable("nobody home")

    async with running(broker, timeout=0.05) as publisher:
        with pytest.raises(BrokerUnavailable, match="nobody home"):
            await publisher.submit([envelope()])

    assert broker.calls > 2


async def test_a_broker_that_falls_silent_after_it_said_why_is_quoted(
    broker: WatchedBroker,
) -> None:
    async def fall_silent_after_the_first() -> None:
        if broker.calls > 1:
            await anyio.sleep_forever()

    broker.before = fall_silent_after_the_first
    broker.fail = lambda _: BrokerUnavailable("a script keeps it busy")

    async with running(broker, timeout=0.05) as publisher:
        with pytest.raises(BrokerUnavailable) as first:
            await publisher.submit([envelope()])
        with pytest.raises(BrokerUnavailable) as second:
            await publisher.submit([envelope()])

    text = "no answer from the broker in 0.05 s; before that: a script keeps it busy"
    assert [str(first.value), str(second.value)] == [text, text]


async def test_each_caller_has_the_whole_time_out(broker: WatchedBroker) -> None:
    away = True
    broker.fail = lambda _: BrokerUnavailable("away") if away else None

    async with running(broker, timeout=0.1) as publisher:
        early = publisher.submit([envelope()])
        with pytest.raises(BrokerUnavailable):
            await early
        late = publisher.submit([envelope("late")])
        away = False
        await late

    assert broker.batches == [["late"]]


async def test_a_refused_envelope_is_its_own_callers_error(broker: WatchedBroker) -> None:
    def refuse(envelopes: Sequence[Envelope]) -> Exception | None:
        bad = [envelope.id for envelope in envelopes if envelope.id == "bad"]
        return Refused("bad", "not that one") if bad else None

    broker.fail = refuse

    async with running(broker) as publisher:
        good = [publisher.submit([envelope()]) for _ in range(3)]
        bad = publisher.submit([envelope("bad")])
        more = [publisher.submit([envelope()]) for _ in range(3)]
        with pytest.raises(Refused, match="not that one"):
            await bad
        for future in good + more:
            await future

    assert sum(len(batch) for batch in broker.batches) == 6


@pytest.mark.parametrize("error", [ConfigurationError("no rights"), TypeError("a bug")])
async def test_an_error_of_another_kind_is_heard_and_the_publisher_goes_on(
    broker: WatchedBroker, error: Exception
) -> None:
    failures = iter([error])
    broker.fail = lambda _: next(failures, None)

    async with running(broker) as publisher:
        with pytest.raises(type(error), match=str(error)):
            await publisher.submit([envelope()])
        await publisher.submit([envelope("next")])

    assert broker.batches == [["next"]]


@pytest.mark.parametrize("guilty", [{"3"}, {"0"}, {"7"}, {"2", "5"}, {"0", "1", "6"}])
async def test_an_error_that_names_nobody_is_heard_by_the_guilty_alone(
    broker: WatchedBroker, guilty: set[str]
) -> None:
    def fail(envelopes: Sequence[Envelope]) -> Exception | None:
        return TypeError("a bug") if guilty & {each.id for each in envelopes} else None

    broker.fail = fail

    async with running(broker) as publisher:
        futures = {str(n): publisher.submit([envelope(str(n))]) for n in range(8)}
        for id, future in futures.items():
            if id in guilty:
                with pytest.raises(TypeError, match="a bug"):
                    await future
            else:
                await future

    sent = [id for batch in broker.batches for id in batch]
    assert sent == [id for id in futures if id not in guilty]


async def test_a_broker_that_goes_away_while_the_guilty_is_sought_loses_nothing(
    broker: WatchedBroker,
) -> None:
    def fail(envelopes: Sequence[Envelope]) -> Exception | None:
        if broker.calls == 2:
            return BrokerUnavailable("away")
        return TypeError("a bug") if "1" in {each.id for each in envelopes} else None

    broker.fail = fail

    async with running(broker) as publisher:
        futures = [publisher.submit([envelope(str(n))]) for n in range(4)]
        with pytest.raises(TypeError, match="a bug"):
            await futures[1]
        for number in (0, 2, 3):
            await futures[number]

    assert [id for batch in broker.batches for id in batch] == ["0", "2", "3"]


async def test_a_broker_that_takes_all_but_some_for_now_keeps_nobody_else_waiting(
    broker: WatchedBroker,
) -> None:
    def fail(envelopes: Sequence[Envelope]) -> Exception | None:
        stuck = {each.id for each in envelopes} & {"stuck"}
        return BrokerUnavailable("no majority", stuck) if stuck else None

    broker.fail = fail

    async with running(broker, timeout=0.2) as publisher:
        stuck = publisher.submit([envelope("stuck")])
        other = publisher.submit([envelope("other")])
        await other
        assert not stuck.done()
        with pytest.raises(BrokerUnavailable, match="no majority"):
            await stuck


async def test_a_refusal_that_names_what_was_not_sent_ends(broker: WatchedBroker) -> None:
    broker.fail = lambda _: Refused("somebody else", "odd")

    async with running(broker) as publisher:
        futures = [publisher.submit([envelope()]) for _ in range(3)]
        for future in futures:
            with pytest.raises(Refused, match="odd"):
                await future


async def test_a_caller_that_is_cancelled_disturbs_nobody(broker: WatchedBroker) -> None:
    gate = Gate()
    broker.before = gate.pass_through

    async with running(broker) as publisher, anyio.create_task_group() as group:
        group.start_soon(submitting(publisher, "first"))
        await gate.until_reached()
        async with anyio.create_task_group() as doomed:
            group.start_soon(submitting(publisher, "second"))
            doomed.start_soon(submitting(publisher, "doomed"))
            await until(lambda: len(publisher._pending) == 2)  # pyright: ignore[reportPrivateUsage]
            doomed.cancel_scope.cancel()
        gate.open()

    assert broker.batches == [["first"], ["second"]]


async def test_a_caller_that_is_cancelled_while_its_envelope_travels_disturbs_nobody(
    broker: WatchedBroker,
) -> None:
    gate = Gate()
    broker.before = gate.pass_through
    failures = iter([BrokerUnavailable("once")])
    broker.fail = lambda _: next(failures, None)

    async with running(broker) as publisher, anyio.create_task_group() as group:
        async with anyio.create_task_group() as doomed:
            doomed.start_soon(submitting(publisher, "doomed"))
            group.start_soon(submitting(publisher, "other"))
            await gate.until_reached()
            doomed.cancel_scope.cancel()
        gate.open()

    assert broker.batches == [["other"]]


async def test_who_waits_when_the_publisher_ends_hears_of_it(broker: WatchedBroker) -> None:
    gate = Gate()
    broker.before = gate.pass_through
    heard: list[str] = []

    async def submit(publisher: Publisher) -> None:
        try:
            await publisher.submit([envelope()])
        except BrokerUnavailable as error:
            heard.append(str(error))

    with fail_after(PATIENCE):
        async with anyio.create_task_group() as callers, running(broker) as publisher:
            callers.start_soon(submit, publisher)
            await gate.until_reached()
            callers.start_soon(submit, publisher)
            await until(lambda: len(publisher._pending) == 1)  # pyright: ignore[reportPrivateUsage]

    assert heard == ["the app was closed before the broker had answered"] * 2
