"""A worker as the sender of what latches have released: alone, patiently, and while it is that."""

import logging
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from functools import partial

import pytest
from anyio import create_task_group, fail_after, sleep

from asyncq.app import App
from asyncq.drivers import table as drivers
from asyncq.drivers.memory.ledger import MemoryLedger
from asyncq.errors import BackendUnavailable, QueueFull
from asyncq.language.effects import Arrive, Hold, Send
from asyncq.language.envelope import Envelope
from asyncq.language.message import (
    End,
    derived_id,
    new_id,
)
from asyncq.seams.ledger import Due, Ledger, Unsent
from asyncq.worker.latches import Latches
from tests.client.given import PATIENCE, until, watched
from tests.worker.chord_tasks import ledger_of

WIDTH = 150  # messages of a latch: two pages


async def test_what_is_released_is_published_once_though_two_workers_bring_parts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(drivers.BROKERS, "watched", "tests.client.given:WatchedBroker")
    name = new_id()
    apps = [App(f"watched://{name}", backend=f"memory://{name}") for _ in range(2)]
    ran: list[int] = []
    for app in apps:

        @app.task(name="note", keep_result=0)
        async def note(number: int) -> None:
            ran.append(number)

        @app.task(name="fail", keep_result=0)
        async def fail() -> None:
            await sleep(0.01)
            raise ValueError("no")

    def publishes() -> Counter[str]:
        brokers = [watched(app) for app in apps]
        return Counter(id for broker in brokers for batch in broker.batches for id in batch)

    async with apps[0] as app, apps[1] as other:
        root, follow_up = new_id(), app.client.follow_up
        noted = [
            send
            for n in range(WIDTH)
            for send in follow_up(app.tasks["note"].s(n), derived_id(root, f"failed {n}"))
        ]
        parts = [
            send
            for n in range(60)
            for send in follow_up(
                app.tasks["fail"].s(), derived_id(root, str(n)), (End(root, str(n)),)
            )
        ]
        await ledger_of(app).apply([Hold(root, len(parts), (), tuple(noted))], "a client")
        await app.client.send(parts)[0]
        for each in apps:
            watched(each).before = partial(sleep, 0.05)  # time enough for others to come
        async with app.worker(concurrency=8), other.worker(concurrency=8):
            await until(lambda: len(ran) >= WIDTH)
            await sleep(0.5)
        counted = publishes()

    assert sorted(ran) == [*range(WIDTH)]
    assert {counted[send.envelope.id] for send in noted} == {1}


@pytest.fixture
async def watched_app(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[App]:
    """An app that is connected and tries again soon; its backend is no store of its broker's."""
    monkeypatch.setattr("asyncq.worker.releases.LATER", 0.05)
    monkeypatch.setattr("asyncq.worker.releases.FULL", 0.01)
    monkeypatch.setattr("asyncq.worker.obstacles.QUIET", 0.3)
    monkeypatch.setitem(drivers.BROKERS, "watched", "tests.client.given:WatchedBroker")
    async with App(f"watched://{new_id()}", backend=f"memory://{new_id()}") as app:
        yield app


def envelopes(count: int) -> tuple[Send, ...]:
    return tuple(
        Send(Envelope(id=new_id(), queue="small", body=b""), "default") for _ in range(count)
    )


async def until_sent(ledger: Ledger, latches: Sequence[str]) -> None:
    """Return once nothing of these is unsent."""
    with fail_after(PATIENCE):
        while any(state and state.unsent for state in await ledger.look(latches)):  # noqa: ASYNC110 - there is no event
            await sleep(0.01)


def is_full(envelopes: Sequence[Envelope]) -> QueueFull:
    return QueueFull([envelope.id for envelope in envelopes], "small", 1)


async def test_the_log_says_when_a_queue_has_no_room_and_when_it_has_again(
    watched_app: App, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "asyncq.outages")
    broker, ledger = watched(watched_app), ledger_of(watched_app)
    own = Latches(watched_app.client.backend, watched_app.client.send)
    holds = [Hold(new_id(), (), envelopes(150)) for _ in range(5)]
    names = [hold.latch for hold in holds]
    broker.fail = is_full
    async with create_task_group() as group:
        group.start_soon(own.look_after)
        for name in await own.apply(holds):
            await own.release(name)
        await sleep(1.0)
        assert broker.calls < 100, "nobody asks a queue that is full for each latch"
        broker.fail = lambda _: None
        await until_sent(ledger, names)
        await sleep(1.0)
        group.cancel_scope.cancel()

    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == 2, lines
    assert lines[0].startswith("what workflows have released is not sent to queue small")
    assert lines[1].startswith("what workflows have released is sent to queue small again after")
    published = [id for batch in broker.batches for id in batch]
    assert sorted(published) == sorted(send.envelope.id for hold in holds for send in hold.sends)


async def test_what_another_has_become_the_sender_of_is_left_to_it(
    watched_app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    broker, ledger = watched(watched_app), ledger_of(watched_app)
    own = Latches(watched_app.client.backend, watched_app.client.send)
    broker.fail = is_full
    hold = Hold(new_id(), (), envelopes(1))
    async with create_task_group() as group:
        group.start_soon(own.look_after)
        with monkeypatch.context() as patch:
            patch.setattr("asyncq.drivers.memory.ledger.SENDER_AWAY", 0.0)
            for name in await own.apply([hold]):
                await own.release(name)
            [due] = await ledger.due("another", lease=60.0)
        assert due == Due(hold.latch, True)
        asked = broker.calls
        broker.fail = lambda _: None
        await sleep(1.0)
        assert broker.calls == asked
        assert await own.apply([Arrive(hold.latch, "a", True)]) == []
        await own.release(hold.latch)
        assert broker.calls == asked
        group.cancel_scope.cancel()


async def test_what_takes_long_to_be_sent_keeps_its_sender(
    watched_app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("asyncq.drivers.memory.ledger.SENDER_AWAY", 0.5)
    monkeypatch.setattr("asyncq.worker.releases.SENDER_AWAY", 0.5)
    broker, ledger = watched(watched_app), ledger_of(watched_app)
    own = Latches(watched_app.client.backend, watched_app.client.send)
    broker.before = partial(sleep, 2.0)
    hold = Hold(new_id(), (), envelopes(1))
    async with create_task_group() as group:
        group.start_soon(own.look_after)
        [name] = await own.apply([hold])
        group.start_soon(own.release, name)
        for _ in range(15):
            await sleep(0.1)
            assert await ledger.due("another") == []
        await until_sent(ledger, [name])
        group.cancel_scope.cancel()
    assert broker.batches == [[hold.sends[0].envelope.id]]


async def test_what_was_taken_is_not_sent_again_because_it_could_not_be_confirmed(
    watched_app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("asyncq.worker.releases.NO_ANSWER", 0.05)
    broker, ledger = watched(watched_app), ledger_of(watched_app)
    own = Latches(watched_app.client.backend, watched_app.client.send)
    confirm, failures = MemoryLedger.confirm, 2

    async def away(self: MemoryLedger, unsent: Unsent) -> None:
        nonlocal failures
        if failures:
            failures -= 1
            raise BackendUnavailable("it is away")
        await confirm(self, unsent)

    monkeypatch.setattr(MemoryLedger, "confirm", away)
    hold = Hold(new_id(), (), envelopes(WIDTH))
    async with create_task_group() as group:
        group.start_soon(own.look_after)
        for name in await own.apply([hold]):
            await own.release(name)
        await until_sent(ledger, [hold.latch])
        group.cancel_scope.cancel()
    assert not failures
    published = [id for batch in broker.batches for id in batch]
    assert published == [send.envelope.id for send in hold.sends]


async def test_more_than_a_worker_keeps_in_mind_are_sent_all_the_same(
    watched_app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("asyncq.worker.releases.MOST_OWN", 3)
    monkeypatch.setattr("asyncq.drivers.memory.ledger.SENDER_AWAY", 0.5)
    monkeypatch.setattr("asyncq.worker.latches.LOOK", 0.1)
    broker, ledger = watched(watched_app), ledger_of(watched_app)
    own = Latches(watched_app.client.backend, watched_app.client.send)
    holds = [Hold(new_id(), (), envelopes(1)) for _ in range(20)]
    names = [hold.latch for hold in holds]
    broker.fail = is_full
    async with create_task_group() as group:
        group.start_soon(own.look_after)
        for name in await own.apply(holds):
            await own.release(name)
        broker.fail = lambda _: None
        await until_sent(ledger, names)
        group.cancel_scope.cancel()
    published = [id for batch in broker.batches for id in batch]
    assert sorted(published) == sorted(send.envelope.id for hold in holds for send in hold.sends)
