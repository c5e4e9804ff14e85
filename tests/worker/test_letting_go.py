"""A worker that cannot reach a broker, or does not have it, leaves to others what goes there."""

import logging
from collections.abc import Sequence

import pytest
from anyio import create_task_group, fail_after, sleep

from asyncq.app import App
from asyncq.config import Config
from asyncq.drivers import table as drivers
from asyncq.errors import BrokerUnavailable
from asyncq.language.effects import Hold, Send
from asyncq.language.envelope import Envelope
from asyncq.language.message import new_id
from asyncq.seams.ledger import Ledger
from asyncq.worker.latches import Latches
from tests.client.given import WatchedBroker
from tests.worker.chord_tasks import ledger_of
from tests.worker.combinations import any_app

__all__ = ["any_app"]  # a fixture

TURNS = 30.0  # seconds in which others have had theirs


@pytest.fixture(autouse=True)
def quick_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("asyncq.worker.latches.LOOK", 1.0)
    monkeypatch.setitem(drivers.BROKERS, "watched", "tests.client.given:WatchedBroker")


def holds_for(broker: str, count: int) -> list[Hold]:
    envelopes = [Envelope(id=new_id(), queue="there", body=b"") for _ in range(count)]
    return [Hold(new_id(), (), (Send(envelope, broker),)) for envelope in envelopes]


def ids_of(holds: Sequence[Hold]) -> list[str]:
    return sorted(send.envelope.id for hold in holds for send in hold.sends)


def broker_of(app: App, name: str) -> WatchedBroker:
    broker = app.client.brokers[name]
    assert isinstance(broker, WatchedBroker)
    return broker


async def release(own: Latches, holds: Sequence[Hold]) -> None:
    for latch in await own.apply(holds):
        await own.release(latch)


async def until_sent(ledger: Ledger, holds: Sequence[Hold]) -> None:
    names = [hold.latch for hold in holds]
    with fail_after(TURNS):
        while any(state and state.unsent for state in await ledger.look(names)):  # noqa: ASYNC110 - there is no event
            await sleep(0.05)


async def test_what_one_worker_cannot_send_another_does(
    any_app: App, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "asyncq.outages")
    urls = {"far": f"watched://{new_id()}", "strange": f"watched://{new_id()}"}
    first, backend = any_app.url.reveal(), any_app.backend_url.reveal()
    config = Config(publish_timeout=0.3)
    right = App(brokers={"default": first, **urls}, backend=backend, config=config)
    wrong = App(
        brokers={"default": first, "far": urls["far"]},  # and none that is "strange"
        backend=backend,
        config=config,
    )
    far, strange = holds_for("far", 3), holds_for("strange", 3)

    async with right, wrong, create_task_group() as group:
        broker_of(wrong, "far").fail = lambda _: BrokerUnavailable("it is away from this one")
        able, unable = (Latches(app.client.backend, app.client.send) for app in (right, wrong))
        group.start_soon(unable.look_after)
        await release(unable, [*far, *strange])
        assert broker_of(right, "far").calls == 0
        group.start_soon(able.look_after)
        await until_sent(ledger_of(right), [*far, *strange])
        group.cancel_scope.cancel()

        for name, holds in (("far", far), ("strange", strange)):
            published = [id for batch in broker_of(right, name).batches for id in batch]
            assert sorted(published) == ids_of(holds)
    [line] = [text for text in caplog.messages if "an app that shares this backend" in text]
    assert "broker strange" in line
    assert "give this app a broker of the name 'strange'" in line
    assert not [
        text for text in caplog.messages if "sent to broker" in text and "again after" in text
    ]


async def test_a_worker_that_is_alone_sends_when_its_broker_is_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("asyncq.worker.releases.AWAY", 1.0)
    app = App(
        brokers={"default": f"memory://{new_id()}", "far": f"watched://{new_id()}"},
        config=Config(publish_timeout=0.1),
    )
    holds = holds_for("far", 5)

    async with app, create_task_group() as group:
        broker = broker_of(app, "far")
        broker.fail = lambda _: BrokerUnavailable("it is away")
        own = Latches(app.client.backend, app.client.send)
        group.start_soon(own.look_after)
        await release(own, holds)
        await sleep(3.0)
        broker.fail = lambda _: None
        with fail_after(5.0):
            await until_sent(ledger_of(app), holds)
        group.cancel_scope.cancel()

        assert sorted(id for batch in broker.batches for id in batch) == ids_of(holds)
