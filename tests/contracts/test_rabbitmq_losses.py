"""A connection that is lost while its worker lives: no message is charged with a crash for it."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Literal

import anyio
import pamqp.commands as amqp
import pytest
from anyio.lowlevel import checkpoint

from asyncq.clock import SystemClock
from asyncq.config import Url
from asyncq.drivers.rabbitmq.broker import RabbitBroker
from asyncq.drivers.rabbitmq.publisher import Publisher
from asyncq.language.message import new_id
from asyncq.language.topology import Queue
from asyncq.seams.broker import Ack, Consumer, Delivery, Lease, Nack, QueueSpec
from asyncq.seams.losses import MOST_IN_A_ROW
from asyncq.seams.quarantine import Quarantine
from asyncq.testing.contracts.given import ids_of, take
from tests.contracts.rabbit_given import MAIL, PATIENCE, broker, doomed, envelope, publisher

__all__ = ["broker", "publisher"]  # fixtures


class Living:
    """A worker that lives on, whatever becomes of its connections."""

    def __init__(self, url: str, *declared: Queue, alone_from: int = 2) -> None:
        self._url = url
        self._declared = declared
        self._quarantine = Quarantine(alone_from)

    @asynccontextmanager
    async def consuming(self, queue: QueueSpec = MAIL) -> AsyncGenerator[Consumer]:
        """Under its next lease, on a connection of its own that is cut at the end."""
        async with RabbitBroker(Url(self._url), SystemClock()) as broker:
            await broker.declare(self._declared)
            async with broker.consume(queue, Lease(new_id(), 15.0, self._quarantine)) as consumer:
                yield consumer
                await broker.__aexit__(None, None, None)


def charges(deliveries: list[Delivery]) -> dict[str, tuple[int, bool]]:
    return {each.envelope.id: (each.crashes, each.suspect) for each in deliveries}


@pytest.mark.parametrize("kind", ["quorum", "classic"])
async def test_what_a_living_worker_held_comes_to_it_again_as_if_nothing_had_been(
    broker: RabbitBroker, rabbitmq_url: str, kind: Literal["quorum", "classic"]
) -> None:
    worker = Living(rabbitmq_url, Queue("mail", kind=kind))
    await broker.declare([Queue("mail", kind=kind)])
    ids = ["1", "2", "3"]
    await broker.publish([envelope(id) for id in ids])

    for loss in range(6):
        async with worker.consuming() as consumer:
            in_flight = await take(consumer, 3)
            assert charges(in_flight) == dict.fromkeys(ids, (0, False))
            assert {each.again for each in in_flight} == {loss > 0}  # they may have an outcome


async def test_what_it_did_not_know_that_it_held_is_not_charged_either(
    broker: RabbitBroker, rabbitmq_url: str
) -> None:
    worker = Living(rabbitmq_url)
    async with worker.consuming() as consumer:
        vars(consumer)["_channel"].on_delivery = unheard  # on its way when it is cut
        await broker.publish([envelope("1")])
        await until_ready(broker, 0)

    async with worker.consuming() as consumer:
        assert charges(await take(consumer, 1)) == {"1": (0, False)}


async def test_who_was_cut_off_as_well_charges_nobody_for_what_another_held(
    broker: RabbitBroker, publisher: Publisher, rabbitmq_url: str
) -> None:
    one, other = Living(rabbitmq_url), Living(rabbitmq_url)
    await broker.publish([envelope("1")])
    async with one.consuming(QueueSpec("mail", prefetch=1)) as holding:
        await take(holding, 1)
        async with other.consuming():
            pass
        with anyio.fail_after(PATIENCE):
            while await consumers_of(publisher) > 1:
                await checkpoint()
    await until_ready(broker, 1)

    async with other.consuming() as consumer:
        assert charges(await take(consumer, 1)) == {"1": (0, False)}


async def test_who_was_not_cut_off_charges_what_another_held(
    broker: RabbitBroker, rabbitmq_url: str
) -> None:
    cut = Living(rabbitmq_url)
    async with cut.consuming() as holding:
        await broker.publish([envelope("1")])
        await take(holding, 1)

    async with Living(rabbitmq_url).consuming() as consumer:
        assert charges(await take(consumer, 1)) == {"1": (1, True)}


async def test_a_message_whose_worker_died_is_spared_once_for_each_loss_that_a_witness_saw(
    broker: RabbitBroker, rabbitmq_url: str
) -> None:
    witnesses = [Living(rabbitmq_url) for _ in range(2)]
    for witness in witnesses:
        async with witness.consuming():
            pass
    await broker.publish([envelope("bad")])
    async with doomed(rabbitmq_url) as dying:
        await take(dying, 1)

    charged: list[tuple[int, bool]] = []
    for witness in witnesses:
        async with witness.consuming() as consumer:
            charged += charges(await take(consumer, 1)).values()

    assert charged == [(0, False), (1, True)]


async def test_suspects_that_a_living_worker_held_keep_their_crashes_and_get_no_more(
    broker: RabbitBroker, rabbitmq_url: str
) -> None:
    ids = ["1", "2"]
    await broker.publish([envelope(id) for id in ids])
    async with doomed(rabbitmq_url, alone_from=2) as dying:
        await take(dying, 2)
    worker = Living(rabbitmq_url)

    for _ in range(4):
        async with worker.consuming() as consumer:
            assert charges(await take(consumer, 2)) == dict.fromkeys(ids, (1, True))
    async with Living(rabbitmq_url).consuming() as consumer:
        assert charges(await take(consumer, 1)).popitem()[1] == (2, True)


async def test_what_is_spared_is_given_back_as_what_it_was(
    broker: RabbitBroker, rabbitmq_url: str
) -> None:
    worker = Living(rabbitmq_url)
    await broker.publish([envelope(id) for id in ("seen", "nacked", "unseen")])
    async with worker.consuming() as consumer:
        await take(consumer, 3)

    quarantine = vars(worker)["_quarantine"]
    async with broker.consume(MAIL, Lease(new_id(), 15.0, quarantine)) as consumer:
        [_, nacked] = await take(consumer, 2)
        await consumer.settle([Nack(nacked)])
    async with Living(rabbitmq_url).consuming() as consumer:
        in_flight = await take(consumer, 3)
        assert {each.suspect for each in in_flight} == {False}
        assert {each.crashes for each in in_flight} == {0}
        await consumer.settle([Ack(each) for each in in_flight])


async def test_a_message_that_ends_every_connection_is_charged_in_the_end(
    broker: RabbitBroker, rabbitmq_url: str
) -> None:
    worker = Living(rabbitmq_url)
    await broker.publish([envelope("bad")])

    charged: list[tuple[int, bool]] = []
    for _ in range(MOST_IN_A_ROW + 2):
        async with worker.consuming() as consumer:
            charged += charges(await take(consumer, 1)).values()

    assert charged == [(0, False)] * (MOST_IN_A_ROW + 1) + [(1, True)]


async def test_what_a_worker_knows_that_it_held_is_bounded_by_its_prefetch(
    broker: RabbitBroker, rabbitmq_url: str
) -> None:
    worker = Living(rabbitmq_url)
    few = QueueSpec("mail", prefetch=2)
    sent = [envelope() for _ in range(20)]
    await broker.publish(sent)
    for _ in range(8):
        async with worker.consuming(few) as consumer:
            in_flight = await take(consumer, 2)
            assert not await consumer.settle([Ack(each) for each in in_flight])
            left = await take(consumer, 2)
        assert set(ids_of(left)) <= remembered(worker).keys()
        assert len(remembered(worker)) <= 4


async def until_ready(broker: RabbitBroker, count: int) -> None:
    with anyio.fail_after(PATIENCE):
        while (await broker.depth("mail")).ready != count:
            await checkpoint()


async def consumers_of(publisher: Publisher) -> int:
    """How many the queue has, as the server sees it."""
    channel = await publisher.connector.open_channel()
    answers = await channel.call(amqp.Queue.Declare(queue="mail", passive=True))
    channel.close()
    return int(answers[0].consumer_count)


def remembered(worker: Living) -> dict[str, int]:
    """What it knows that it held in the queue."""
    quarantine: Quarantine = vars(worker)["_quarantine"]
    in_flight: dict[str, int] = vars(quarantine.losses("mail"))["_in_flight"]
    return in_flight


def unheard(content: object) -> None:
    del content
