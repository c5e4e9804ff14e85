"""What RabbitMQ buries by itself, or has removed, while others wait for its end.

What every broker promises of that is in `DoomedContract`.
"""

import logging

import anyio
import pamqp.commands as amqp
import pytest
from anyio import sleep

from asyncq.clock import SystemClock
from asyncq.config import Url
from asyncq.drivers.rabbitmq import names
from asyncq.drivers.rabbitmq.broker import RabbitBroker
from asyncq.drivers.rabbitmq.fetching import Fetching
from asyncq.drivers.rabbitmq.publisher import Publisher
from asyncq.language.message import End, new_id
from asyncq.language.topology import Binding, Exchange, Queue
from asyncq.seams.broker import PURGED, WAITED_TOO_LONG, QueueSpec, Reject
from asyncq.testing.contracts.given import now, take
from tests.contracts.rabbit_given import (
    MAIL,
    ask,
    broker,
    doomed,
    envelope,
    lease,
    letters_of,
    publisher,
)
from tests.contracts.test_rabbitmq_rights import ALL, NONE, Narrow, narrow

__all__ = ["broker", "narrow", "publisher"]  # fixtures

ENDS = (End("latch", "part"),)


@pytest.mark.parametrize("delay", [0.0, 0.3])
async def test_each_copy_of_an_exchange_is_doomed_in_its_own_queue(
    broker: RabbitBroker, delay: float
) -> None:
    events = Exchange("events", "fanout")
    await broker.declare([Queue(name, bindings=[Binding(events)], ttl=0.2) for name in ("a", "b")])
    eta = now() + delay if delay else None
    sent = envelope(queue="a", exchange="events", routing_key="", ends=ENDS, eta=eta)
    await broker.publish([sent])
    await sleep(delay + 0.5)

    for queue, id in (("a", sent.id), ("b", f"{sent.id}@b")):
        async with broker.consume(QueueSpec(queue, prefetch=10), lease()) as consumer:
            [delivery] = await take(consumer, 1)
            assert (delivery.envelope.id, delivery.envelope.ends) == (id, ENDS)
            assert delivery.verdict.startswith(f"{WAITED_TOO_LONG}: ")
            await consumer.settle([Reject(delivery, delivery.verdict)])
            assert not await consumer.receive(10)
        assert len(await broker.dead_letters(queue)) == 1


async def test_what_is_doomed_outlives_its_worker_with_the_verdict(
    broker: RabbitBroker, rabbitmq_url: str
) -> None:
    await broker.publish([envelope(str(number), ends=ENDS) for number in range(3)])
    await broker.purge("mail")
    async with doomed(rabbitmq_url, alone_from=5) as dying:
        assert all(each.verdict for each in await take(dying, 3))

    async with broker.consume(MAIL, lease(alone_from=5)) as consumer:
        again = await take(consumer, 3)
    assert all(each.verdict.startswith(f"{PURGED}: ") for each in again)
    assert {each.crashes for each in again} == {1}


async def test_a_purge_that_is_cancelled_is_charged_to_nobody(
    broker: RabbitBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("asyncq.drivers.rabbitmq.purging.STRIDE", 5)
    fetch = Fetching.fetch

    async def fetch_and_be_cancelled(self: Fetching, count: int) -> int:
        came = await fetch(self, count)
        scope.cancel()
        return came

    monkeypatch.setattr(Fetching, "fetch", fetch_and_be_cancelled)
    await broker.publish([envelope(str(n), ends=ENDS if n % 2 else ()) for n in range(20)])
    with anyio.CancelScope() as scope:
        await broker.purge("mail")
    assert scope.cancelled_caught

    async with broker.consume(QueueSpec("mail", prefetch=100), lease()) as consumer:
        left = await take(consumer, 17)  # of five, two are doomed and three are gone
        assert not await consumer.receive(10)
    assert {each.crashes for each in left} == {0}
    assert sorted(each.envelope.id for each in left if each.verdict) == ["1", "3"]


async def test_the_letter_of_what_was_delayed_first_says_why_it_died(broker: RabbitBroker) -> None:
    await broker.declare([Queue("mail", max_length=1, overflow="drop-head")])
    await broker.publish([envelope("1", eta=now() + 0.1)])
    with anyio.fail_after(10):
        while (await broker.depth("mail")).ready == 0:  # noqa: ASYNC110 - there is no event
            await sleep(0.01)
    await broker.publish([envelope("2")])

    [letter] = await letters_of(broker, 1)
    assert (letter.envelope.id, letter.reason) == ("1", "RabbitMQ: maxlen")


async def test_who_may_not_have_the_exchange_made_is_told_what_that_costs(
    broker: RabbitBroker,
    publisher: Publisher,
    narrow: Narrow,
    caplog: pytest.LogCaptureFixture,
) -> None:
    await broker.publish([envelope()])
    narrow.may(NONE, ALL, ALL)
    async with RabbitBroker(Url(narrow.url), SystemClock()) as other:
        with caplog.at_level(logging.WARNING):
            await other.publish([envelope()])
        assert caplog.text == ""

    await ask(publisher, amqp.Exchange.Delete(exchange=names.doomed("mail")))
    async with RabbitBroker(Url(narrow.url), SystemClock()) as other:
        for _ in range(2):
            await other.publish([envelope(new_id())])
    assert caplog.text.count("no exchange 'mail:doomed'") == 1
