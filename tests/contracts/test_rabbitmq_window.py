"""What is pushed to a RabbitMQ consumer that ends: counted as taken, as long as it may be."""

import asyncio
from typing import Any

from asyncq.drivers.rabbitmq.parcels import Received
from asyncq.drivers.rabbitmq.window import Window
from asyncq.drivers.rabbitmq.wire import HEARD
from asyncq.seams.broker import QueueSpec
from tests.contracts.rabbit_given import envelope, lease


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

    await window.open(ask)
    assert await window.close(ask)

    assert asked == ["Basic.Qos", "Basic.Consume", *["Basic.Qos"] * 3, "Basic.Cancel"]
