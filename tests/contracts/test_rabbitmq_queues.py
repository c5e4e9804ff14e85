"""What RabbitMQ makes of exchanges, bindings and the bounds of queues."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import anyio
import anyio.to_thread
import pamqp.commands as amqp
import pytest

from asyncq import App, gather
from asyncq.clock import SystemClock
from asyncq.config import Url
from asyncq.drivers.rabbitmq import consumer as consumer_module
from asyncq.drivers.rabbitmq.broker import RabbitBroker
from asyncq.drivers.rabbitmq.content import Parcel
from asyncq.drivers.rabbitmq.publisher import Publisher
from asyncq.drivers.rabbitmq.sender import Sender, Sent
from asyncq.errors import BrokerUnavailable, ConfigurationError, QueueFull, Unroutable
from asyncq.language.envelope import Envelope
from asyncq.language.message import new_id
from asyncq.language.topology import Binding, Exchange, Queue
from asyncq.seams.broker import Ack, Lease, QueueSpec
from asyncq.testing.contracts.given import ids_of, take
from tests.contracts.rabbit_given import (
    MAIL,
    PATIENCE,
    ask,
    broker,
    envelope,
    letters_of,
    next_of,
    publish_until_it_fails,
    publisher,
)
from tests.system.commands import Shell

__all__ = ["broker", "publisher"]  # fixtures

EVENTS = Exchange("events", "topic")
QUEUES = [
    Queue("mail", bindings=[Binding(EVENTS, "user.*"), Binding(Exchange("all", "fanout"))]),
    Queue("log", bindings=[Binding(EVENTS, "#"), Binding(Exchange("all", "fanout"))]),
    Queue("big", bindings=[Binding(Exchange("by", "headers"), headers={"size": "big"})]),
    Queue("one", bindings=[Binding(Exchange("exact"), "this")]),
]


NO_HEADERS: dict[str, str] = {}


@pytest.mark.parametrize(
    ("to", "arrives"),
    [
        (("events", "user.created", NO_HEADERS), {"mail": "1", "log": "1@log"}),
        (("events", "order.paid", NO_HEADERS), {"log": "1@log"}),
        (("all", "", NO_HEADERS), {"mail": "1", "log": "1@log"}),
        (("by", "", {"size": "big"}), {"big": "1@big"}),
        (("exact", "this", NO_HEADERS), {"one": "1@one"}),
    ],
)
@pytest.mark.parametrize("delay", [0.0, 0.2])
async def test_an_exchange_hands_a_copy_to_each_queue_that_is_bound(
    broker: RabbitBroker,
    to: tuple[str, str, dict[str, str]],
    arrives: dict[str, str],
    delay: float,
) -> None:
    exchange, key, headers = to
    await broker.declare(QUEUES)
    eta = SystemClock().now() + delay if delay else None
    await broker.publish(
        [envelope("1", exchange=exchange, routing_key=key, headers=headers, eta=eta)]
    )

    for queue, id in arrives.items():
        async with broker.consume(QueueSpec(queue), Lease(new_id(), 15.0)) as consumer:
            assert (await next_of(consumer)).envelope.id == id


async def test_what_no_queue_is_bound_for_is_unroutable(broker: RabbitBroker) -> None:
    await broker.declare(QUEUES)

    with pytest.raises(Unroutable, match="nobody"):
        await broker.publish([envelope("1"), envelope("2", exchange="exact", routing_key="nobody")])
    await broker.publish([envelope("1")])  # as a publisher does with those that were not at fault

    async with broker.consume(MAIL, Lease(new_id(), 15.0)) as consumer:
        assert ids_of(await take(consumer, 1)) == ["1"]
        assert not await consumer.receive(10)


async def test_what_waits_too_long_is_a_dead_letter(broker: RabbitBroker) -> None:
    await broker.declare([Queue("mail", ttl=0.1)])
    await broker.publish([envelope("1")])

    [letter] = await letters_of(broker, 1)

    assert (letter.envelope.id, letter.reason) == ("1", "RabbitMQ: expired")


async def test_a_full_queue_refuses_the_new_one(broker: RabbitBroker) -> None:
    await broker.declare([Queue("mail", max_length=2)])

    with pytest.raises(QueueFull) as refusal:
        await publish_until_it_fails(broker)  # it counts a moment late

    assert (refusal.value.queue, refusal.value.limit) == ("mail", 2)


async def test_a_full_queue_may_bury_the_oldest_instead(broker: RabbitBroker) -> None:
    await broker.declare([Queue("mail", max_length=2, overflow="drop-head")])
    await broker.publish([envelope(str(n)) for n in range(5)])

    letters = await letters_of(broker, 3)

    assert [letter.envelope.id for letter in letters] == ["0", "1", "2"]
    assert {letter.reason for letter in letters} == {"RabbitMQ: maxlen"}


async def test_a_queue_with_one_active_worker_goes_to_the_next_when_that_leaves(
    broker: RabbitBroker,
) -> None:
    await broker.declare([Queue("mail", single_active=True)])
    await broker.publish([envelope(str(n)) for n in range(20)])
    async with broker.consume(MAIL, Lease(new_id(), 15.0)) as first:
        await take(first, 5)
        async with broker.consume(MAIL, Lease(new_id(), 15.0)) as second:
            assert not await second.receive(10)
            await first.settle([])
            async with anyio.create_task_group() as group:
                group.start_soon(broker.publish, [envelope("more")])
            assert not await second.receive(10)


@pytest.mark.parametrize("kind", ["quorum", "classic"])
async def test_a_queue_with_one_active_worker_is_purged_by_others(
    broker: RabbitBroker, rabbitmq_url: str, kind: Literal["quorum", "classic"]
) -> None:
    queue = Queue("mail", single_active=True, kind=kind)
    await broker.declare([queue])
    await broker.publish([envelope(str(n)) for n in range(30)])
    async with (
        broker.consume(QueueSpec("mail", prefetch=5), Lease(new_id(), 15.0)) as active,
        RabbitBroker(Url(rabbitmq_url), SystemClock()) as other,
    ):
        in_flight = await take(active, 5)
        with pytest.raises(BrokerUnavailable, match="another consumer"):
            await other.purge("mail")  # it does not know
        await other.declare([queue])
        assert await other.purge("mail") == 25
        assert not await active.settle([Ack(each) for each in in_flight])
        assert await other.purge("mail") == 0


@pytest.mark.parametrize("kind", ["quorum", "classic"])
async def test_parents_in_a_queue_with_one_active_worker_wait_for_children_in_it(
    rabbitmq_url: str, kind: Literal["quorum", "classic"]
) -> None:
    queue = Queue("mail", single_active=True, kind=kind)
    app = App(rabbitmq_url, backend=f"memory://{new_id()}", queues=[queue])

    @app.task(queue="mail")
    async def go_down(levels: int) -> int:
        if levels == 0:
            return 0
        return 1 + await (await go_down.enqueue(levels - 1))

    with anyio.fail_after(2 * PATIENCE):
        async with app, app.worker(queues=["mail"], concurrency=2):
            for _ in range(2):  # and once more when nothing waits
                results = await app.enqueue_many(go_down.s(3) for _ in range(5))
                assert await gather(*results, timeout=PATIENCE) == [3] * 5


async def test_a_worker_beside_the_active_one_keeps_its_lease_however_much_waits(
    broker: RabbitBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(consumer_module, "LONGEST_WAIT", 0.1)
    monkeypatch.setattr(consumer_module, "LOOK", 0.1)
    await broker.declare([Queue("mail", single_active=True)])
    await broker.publish([envelope(str(n)) for n in range(30)])
    async with broker.consume(MAIL, Lease(new_id(), 15.0)) as first:
        in_flight = await take(first, 5)
        async with broker.consume(MAIL, beside := Lease(new_id(), 15.0)) as second:
            for _ in range(5):
                assert not await second.receive(10)
                await second.wait()
            assert not beside.lost
        assert not await first.settle([Ack(each) for each in in_flight])


async def test_priorities_need_a_classic_queue(broker: RabbitBroker) -> None:
    with pytest.raises(ConfigurationError, match="classic"):
        await broker.declare([Queue("mail", max_priority=5)])


async def test_a_queue_that_others_made_otherwise_is_named(
    broker: RabbitBroker, publisher: Publisher
) -> None:
    await ask(publisher, amqp.Queue.Declare(queue="mail", durable=True))

    with pytest.raises(ConfigurationError, match=r"queue mail .* otherwise"):
        await broker.publish([envelope()])


async def test_a_message_that_is_not_confirmed_by_a_queue_without_a_bound_may_go_later(
    rabbitmq_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with RabbitBroker(Url(rabbitmq_url), SystemClock()) as broker:
        real = Sender.send

        async def refusing(self: Sender, parcels: Sequence[Parcel], kept: set[str]) -> Sent:
            await real(self, [each for each in parcels if each.id != "bad"], kept)
            return Sent(refused=["bad"])

        monkeypatch.setattr(Sender, "send", refusing)
        good, bad = (
            Envelope(id="good", queue="a", body=b""),
            Envelope(id="bad", queue="b", body=b""),
        )
        with pytest.raises(BrokerUnavailable, match="does not take messages for queue b") as away:
            await broker.publish([good, bad])
        assert away.value.envelope_ids == {"bad"}

        monkeypatch.setattr(Sender, "send", real)
        await broker.publish([good, bad])
        assert [(await broker.depth(name)).ready for name in ("a", "b")] == [1, 1]


async def test_a_queue_that_others_made_otherwise_does_not_stop_the_others(
    broker: RabbitBroker, publisher: Publisher, caplog: pytest.LogCaptureFixture
) -> None:
    await ask(publisher, amqp.Queue.Declare(queue="odd", durable=True))

    await broker.declare([Queue("odd", max_length=5), Queue("mail", max_length=5)])

    await broker.publish([envelope()])
    assert (await broker.depth("mail")).ready == 1
    assert "queue odd cannot be used" in caplog.text
    with pytest.raises(ConfigurationError, match=r"queue odd .* otherwise"):
        await broker.publish([Envelope(id="1", queue="odd", body=b"")])


SHOP = """
import asyncq

app = asyncq.App("{url}", backend="memory://", queues=[asyncq.Queue("bounded", max_length=5)])


@app.task(queue="mail")
async def send() -> None: ...


@app.task(queue="well")
async def do() -> None: ...
"""


async def test_queues_that_others_made_otherwise_are_shown_with_what_differs(
    rabbitmq_url: str, broker: RabbitBroker, publisher: Publisher, tmp_path: Path
) -> None:
    (tmp_path / "shop.py").write_text(SHOP.format(url=rabbitmq_url))
    shell = Shell(tmp_path, os.environ)
    for name in ("mail", "bounded"):
        await ask(publisher, amqp.Queue.Declare(queue=name, durable=True))
    await publisher.send([Parcel("", "mail", "1", b"")])
    await broker.publish([envelope(queue="well")])

    shown = await anyio.to_thread.run_sync(shell.asyncq, "queues", "shop:app")
    listed = await anyio.to_thread.run_sync(shell.asyncq, "queues", "shop:app", "--json")

    assert (shown.code, listed.code) == (0, 0), shown.err
    found = {each["queue"]: each for each in listed.data}
    assert {name: each["ready"] for name, each in found.items()} == {
        "bounded": 0, "mail": 1, "well": 1,
    }  # fmt: skip
    assert found["well"]["differs"] is None
    for name in ("mail", "bounded"):
        assert "inequivalent arg" in found[name]["differs"]
        assert f"queue {name} cannot be used by this app as it is: 406" in shown.err


async def test_a_queue_that_only_its_name_tells_of_is_looked_at_by_commands(
    rabbitmq_url: str, broker: RabbitBroker, tmp_path: Path
) -> None:
    shell = Shell(tmp_path, os.environ)
    await broker.publish([envelope()])

    async def run(*words: str) -> tuple[int, str]:
        ended = await anyio.to_thread.run_sync(shell.asyncq, *words)
        return ended.code, ended.out + ended.err

    assert await run("dead", "list", rabbitmq_url, "mail") == (0, "There are no dead letters.\n")
    assert "there is no queue 'male'" in (await run("dead", "list", rabbitmq_url, "male"))[1]
    assert "lists no queues: name one, or the app" in (await run("queues", rabbitmq_url))[1]
    assert await run("purge", rabbitmq_url, "mail", "--yes") == (
        0, "1 message removed from mail.\n",
    )  # fmt: skip
