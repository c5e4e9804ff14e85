"""What is pushed to a RabbitMQ consumer that ends: counted as taken, as long as it may be."""

import asyncio
import random
from collections.abc import Sequence
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint

from asyncq.drivers.rabbitmq import window as window_module
from asyncq.drivers.rabbitmq.broker import RabbitBroker
from asyncq.drivers.rabbitmq.consumer import RabbitConsumer
from asyncq.drivers.rabbitmq.parcels import Received
from asyncq.drivers.rabbitmq.window import Window
from asyncq.drivers.rabbitmq.wire import HEARD
from asyncq.language.topology import Queue
from asyncq.seams.broker import Ack, Consumer, Delivery, QueueSpec
from tests.contracts.rabbit_given import PATIENCE, broker, envelope, lease

__all__ = ["broker"]  # a fixture


BACKLOG = 400
WINDOW = QueueSpec("mail", prefetch=10)


async def test_a_push_that_a_slow_server_held_back_is_waited_for_before_the_consumer_ends() -> None:
    asked: list[str] = []
    unsettled: dict[int, Received] = {}
    window = Window(QueueSpec("mail", 10), lease(), unsettled, asyncio.Event(), is_single=False)

    async def ask(*methods: Any) -> list[Any]:
        asked.extend(method.name for method in methods)
        if methods == (HEARD,) and len(unsettled) < 2:  # its answer comes behind what was pushed
            tag = len(unsettled) + 1
            unsettled[tag] = Received(tag, False, envelope(), 0, False)
        return [None for _ in methods]

    async def hear_queue() -> None:
        asked.append("the queue")

    await window.open(ask)
    assert await window.close(ask, hear_queue)

    rounds = ["the queue", "Basic.Qos"] * 4  # two that bring a message, two that bring none
    assert asked == ["Basic.Qos", "Basic.Consume", *rounds, "Basic.Cancel"]


@pytest.mark.parametrize(
    "queue",
    [
        Queue("mail"),
        Queue("mail", kind="classic"),
        Queue("mail", single_active=True),
        Queue("mail", kind="classic", single_active=True),
    ],
    ids=["quorum", "classic", "single quorum", "single classic"],
)
async def test_whoever_leaves_a_backlog_while_its_tasks_end_leaves_no_suspects(
    broker: RabbitBroker, queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(window_module, "QUIET", 0)  # as if the server were slow
    await broker.declare([queue])
    await broker.publish([envelope(str(n)) for n in range(BACKLOG)])
    settled: list[str] = []
    chance = random.Random(7)

    async def settle(consumer: Consumer, deliveries: Sequence[Delivery]) -> None:
        for delivery in deliveries:
            await consumer.settle([Ack(delivery)])
            settled.append(delivery.envelope.id)
            await checkpoint()

    with anyio.fail_after(PATIENCE):
        while len(settled) < BACKLOG:
            async with broker.consume(WINDOW, lease()) as consumer:
                assert isinstance(consumer, RabbitConsumer)
                taken = await consumer.wait_and_receive(9)
                assert not [each for each in taken if each.crashes or each.suspect]
                async with anyio.create_task_group() as group:
                    group.start_soon(settle, consumer, taken)
                    await anyio.sleep(chance.uniform(0, 0.005))
                    await consumer.take_no_more()

    assert sorted(settled, key=int) == [str(n) for n in range(BACKLOG)]
