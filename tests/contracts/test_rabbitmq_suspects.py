"""What RabbitMQ does with what a lost worker had, and whom we charge for it."""

from typing import Literal

import anyio
import pytest
from anyio.lowlevel import checkpoint

from asyncq.clock import SystemClock
from asyncq.config import Url
from asyncq.drivers.rabbitmq.broker import RabbitBroker
from asyncq.drivers.rabbitmq.consumer import LONGEST_WAIT
from asyncq.drivers.rabbitmq.wire import Channel, Content
from asyncq.errors import (
    LeaseLost,
)
from asyncq.language.message import new_id
from asyncq.language.topology import Queue
from asyncq.seams.broker import Ack, Lease, Nack, QueueSpec, Reject
from asyncq.testing.contracts.given import ids_of, take
from tests.contracts.rabbit_given import (
    MAIL,
    PATIENCE,
    broker,
    doomed,
    envelope,
    lease,
    letters_of,
    next_of,
    publisher,
)

__all__ = ["broker", "publisher"]  # fixtures


async def test_what_a_dead_worker_held_comes_back_one_at_a_time(
    broker: RabbitBroker, rabbitmq_url: str
) -> None:
    sent = [envelope(body=str(n).encode()) for n in range(3)]
    await broker.publish(sent)
    async with doomed(rabbitmq_url) as dying:
        await take(dying, 3)

    seen: list[str] = []
    async with broker.consume(MAIL, Lease(new_id(), 15.0)) as consumer:
        for _ in sent:
            delivery = await next_of(consumer)
            assert (delivery.suspect, delivery.crashes) == (True, 1)
            assert not await consumer.receive(10), "the quarantine is taken"
            seen.append(delivery.envelope.id)
            assert not await consumer.settle([Ack(delivery)])

    assert sorted(seen) == sorted(ids_of(sent))


async def test_new_messages_pass_while_a_suspect_runs(
    broker: RabbitBroker, rabbitmq_url: str
) -> None:
    await broker.publish([envelope("old")])
    async with doomed(rabbitmq_url) as dying:
        await take(dying, 1)

    async with broker.consume(MAIL, Lease(new_id(), 15.0)) as consumer:
        suspect = await next_of(consumer)
        await broker.publish([envelope("new")])
        new = await next_of(consumer)

    assert (suspect.envelope.id, suspect.suspect) == ("old", True)
    assert (new.envelope.id, new.suspect) == ("new", False)


async def test_who_finds_the_quarantine_taken_for_a_moment_looks_again_soon(
    broker: RabbitBroker, rabbitmq_url: str
) -> None:
    """Another consumer of its worker looks for suspects just then, and has none."""
    await broker.publish([envelope()])
    async with doomed(rabbitmq_url) as dying:
        await take(dying, 1)
    held = lease()
    async with broker.consume(MAIL, held) as consumer:
        await consumer.receive(0)
        admission = held.quarantine.reserve()
        assert not await consumer.receive(1)
        with anyio.fail_after(LONGEST_WAIT - 1.0):
            await consumer.wait()
            held.quarantine.occupy(admission)
            assert (await next_of(consumer)).suspect


async def test_acknowledging_what_was_pushed_behind_a_suspect_leaves_it_in_hand(
    broker: RabbitBroker, rabbitmq_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await broker.publish([envelope("old")])
    async with doomed(rabbitmq_url) as dying:
        await take(dying, 1)

    async with doomed(rabbitmq_url) as busy:
        channel: Channel = vars(busy)["_channel"]
        call = channel.call

        async def hear_late(*methods: object) -> list[object]:
            """An answer that is heard when what was pushed after it is there."""
            answers = await call(*methods)
            if isinstance(answers[0], Content):
                await broker.publish([envelope(str(number)) for number in range(3)])
                with anyio.fail_after(PATIENCE):
                    while len(vars(busy)["_buffer"]) < 3:
                        await checkpoint()
            return answers

        monkeypatch.setattr(channel, "call", hear_late)
        suspect, *others = await take(busy, 4)
        assert suspect.suspect
        assert not await busy.settle([Ack(delivery) for delivery in others[:2]])

    crashes: dict[str, int] = {}
    async with broker.consume(MAIL, Lease(new_id(), 15.0)) as consumer:
        for _ in range(2):
            delivery = await next_of(consumer)
            crashes[delivery.envelope.id] = delivery.crashes
            await consumer.settle([Ack(delivery)])
    assert crashes == {"old": 2, "2": 1}


async def test_a_crash_in_the_quarantine_is_charged_to_the_suspect_alone(
    broker: RabbitBroker, rabbitmq_url: str
) -> None:
    await broker.publish([envelope("1"), envelope("2")])
    async with doomed(rabbitmq_url) as first:
        await take(first, 2)
    async with doomed(rabbitmq_url) as second:
        guilty = await next_of(second)

    crashes: dict[str, int] = {}
    async with broker.consume(MAIL, Lease(new_id(), 15.0)) as consumer:
        for _ in range(2):
            delivery = await next_of(consumer)
            crashes[delivery.envelope.id] = delivery.crashes
            await consumer.settle([Ack(delivery)])

    assert crashes.pop(guilty.envelope.id) == 2
    assert list(crashes.values()) == [1]


@pytest.mark.parametrize("kind", ["quorum", "classic"])
async def test_suspects_come_together_until_their_last_chance(
    broker: RabbitBroker, rabbitmq_url: str, kind: Literal["quorum", "classic"]
) -> None:
    declared = Queue("mail", kind=kind)
    await broker.declare([declared])
    ids = ["1", "2", "3"]
    await broker.publish([envelope(id) for id in ids])
    for crashes in (0, 1):
        async with doomed(rabbitmq_url, declared, alone_from=2) as dying:
            in_flight = await take(dying, 3)
            assert sorted(ids_of(in_flight)) == ids
            assert {(each.suspect, each.crashes) for each in in_flight} == {(crashes > 0, crashes)}
            assert {each.again for each in in_flight} == {crashes > 0}

    async with broker.consume(MAIL, lease(alone_from=2)) as consumer:
        seen: list[str] = []
        for _ in ids:
            delivery = await next_of(consumer)
            assert (delivery.suspect, delivery.crashes) == (True, 2)
            assert not await consumer.receive(10), "the quarantine is taken"
            seen.append(delivery.envelope.id)
            assert not await consumer.settle([Ack(delivery)])
    assert sorted(seen) == ids


async def test_a_group_of_suspects_leaves_whom_it_has_no_room_for_uncharged(
    broker: RabbitBroker, rabbitmq_url: str
) -> None:
    await broker.publish([envelope("bad")])
    async with doomed(rabbitmq_url, alone_from=2) as dying:
        await take(dying, 1)
    async with doomed(rabbitmq_url, alone_from=2) as dying:
        await take(dying, 1)
        await broker.publish([envelope(str(number)) for number in range(8)])
        await take(dying, 8)

    crashes: dict[str, list[int]] = {}
    async with broker.consume(MAIL, lease(alone_from=2)) as consumer:
        while len(crashes) < 9:
            [first] = await take(consumer, 1)
            in_flight = [first, *await consumer.receive(10)]
            for each in in_flight:
                crashes.setdefault(each.envelope.id, []).append(each.crashes)
            assert first.crashes < 2 or len(in_flight) == 1
            await consumer.settle([Ack(each) for each in in_flight])
    assert crashes == {"bad": [2]} | {str(number): [1] for number in range(8)}


async def test_many_suspects_are_shared_by_those_who_look_at_once_each_charged_once(
    broker: RabbitBroker, rabbitmq_url: str
) -> None:
    sent = [envelope() for _ in range(100)]
    await broker.publish(sent)
    async with doomed(rabbitmq_url, queue=QueueSpec("mail", 100)) as dying:
        await take(dying, len(sent))

    crashes: dict[str, int] = {}
    rounds = 3  # of giving all back, so that each was pushed to several
    for _ in range(rounds):
        came: dict[str, int] = {}

        async def look(came: dict[str, int] = came) -> None:
            async with broker.consume(MAIL, lease(alone_from=5)) as consumer:
                while len(came) < len(sent):
                    for delivery in await consumer.receive(40):
                        assert delivery.suspect
                        assert delivery.envelope.id not in came
                        came[delivery.envelope.id] = delivery.crashes
                    await anyio.sleep(0.01)

        with anyio.fail_after(PATIENCE):
            async with anyio.create_task_group() as looking:
                for _ in range(3):
                    looking.start_soon(look)
        assert set(came) == set(ids_of(sent))
        crashes |= came

    assert set(crashes.values()) == {1}


async def test_a_loss_stays_known_however_a_delivery_goes_on(
    broker: RabbitBroker, rabbitmq_url: str
) -> None:
    await broker.publish([envelope(id) for id in ("later", "never", "untouched")])
    async with doomed(rabbitmq_url, alone_from=2) as dying:
        await take(dying, 3)

    async with broker.consume(MAIL, lease(alone_from=2)) as consumer:
        in_flight = {each.envelope.id: each for each in await take(consumer, 3)}
        await consumer.settle([Nack(in_flight["later"], 0.05), Reject(in_flight["never"], "bad")])
    [letter] = await letters_of(broker, 1)
    async with broker.consume(MAIL, lease(alone_from=2)) as consumer:
        again = {each.envelope.id: each for each in await take(consumer, 2)}

    assert letter.crashes == 1
    assert {id: (each.crashes, each.suspect) for id, each in again.items()} == {
        "later": (1, True),
        "untouched": (1, True),
    }


@pytest.mark.parametrize("delay", [0.0, 0.2])
async def test_a_suspect_that_is_given_back_stays_one_and_is_not_charged(
    broker: RabbitBroker, rabbitmq_url: str, delay: float
) -> None:
    await broker.publish([envelope("1")])
    async with doomed(rabbitmq_url) as dying:
        await take(dying, 1)

    async with broker.consume(MAIL, Lease(new_id(), 15.0)) as consumer:
        suspect = await next_of(consumer)
        await consumer.settle([Nack(suspect, delay, envelope("1", b"again"))])
        again = await next_of(consumer)
    async with broker.consume(MAIL, Lease(new_id(), 15.0)) as consumer:
        last = await next_of(consumer)

    for delivery in (again, last):
        assert (delivery.suspect, delivery.crashes) == (True, 1)
        assert delivery.envelope.body == b"again"


async def test_a_copy_of_what_a_lost_worker_may_have_had_is_a_suspect_from_the_start(
    broker: RabbitBroker, rabbitmq_url: str
) -> None:
    await broker.publish([envelope("at its last chance")])
    async with doomed(rabbitmq_url) as dying:
        await take(dying, 1)
    eta = SystemClock().now() + 0.2
    await broker.publish([envelope("now", suspect=True), envelope("later", suspect=True, eta=eta)])

    crashes: dict[str, int] = {}
    async with broker.consume(MAIL, lease()) as consumer:
        while len(crashes) < 3:
            first = await next_of(consumer)
            in_flight = [first, *await consumer.receive(10)]
            assert all(each.suspect and each.again for each in in_flight)
            assert first.crashes == 0 or len(in_flight) == 1, "it is alone"
            crashes |= {each.envelope.id: each.crashes for each in in_flight}
            assert not await consumer.settle([Ack(each) for each in in_flight])

    assert crashes == {"at its last chance": 1, "now": 0, "later": 0}


async def test_a_worker_whose_connection_ends_has_lost_its_lease(
    broker: RabbitBroker, rabbitmq_url: str
) -> None:
    await broker.publish([envelope()])
    lease = Lease(new_id(), 15.0)
    told = anyio.Event()
    lease.watch(told.set)
    async with (
        RabbitBroker(Url(rabbitmq_url), SystemClock()) as cut,
        cut.consume(MAIL, lease) as consumer,
    ):
        delivery = await next_of(consumer)
        await cut.__aexit__(None, None, None)

        with anyio.fail_after(PATIENCE):
            await told.wait()
        with pytest.raises(LeaseLost):
            await consumer.settle([Ack(delivery)])
        with pytest.raises(LeaseLost):
            await consumer.receive(1)
