"""Fetching as many messages of a RabbitMQ queue as are asked for, and no others, in their order.

They are pushed to a consumer whose window is as large, which ends when it is full; to get them one
by one takes thirty times as long. On our own wire, like all that messages pass: aiormq ends the
connection over properties that it cannot read.
"""

import asyncio
from collections import deque
from typing import Any

import anyio
import pamqp.commands as amqp

from asyncq.drivers.rabbitmq.connection import Connector
from asyncq.drivers.rabbitmq.wire import Channel, ChannelClosed, Content

STRIDE = 500  # messages that are fetched at a time
SILENCE = 1.0  # seconds; what should have come by then has died meanwhile, or went to others


class Fetching:
    """What is fetched from one queue, on a channel of its own, which holds it until it is settled.

    Used by one task at a time.
    """

    def __init__(self, connector: Connector, queue: str, channel: Channel) -> None:
        self.ahead: deque[Content] = deque()
        """What came, until somebody takes it out of here."""
        self.was_shown_nothing = False
        """There were some the last time, and none came: others have them, or always get all."""
        self._connector = connector
        self._queue = queue
        self._channel = channel
        self._came = asyncio.Event()
        self._consumers = 0
        channel.on_delivery = self._on_delivery

    @property
    def is_open(self) -> bool:
        return self._channel.closed is None

    async def fetch(self, count: int) -> int:
        """Have the next so many, or all there are; returns how many came."""
        self.was_shown_nothing = False
        [queue] = await self.ask(self.count())
        count = min(count, queue.message_count)
        if not count:
            return 0
        self._consumers += 1
        tag, before = f"fetch.{self._consumers}", len(self.ahead)
        # Shielded: a consumer that is cancelled before the server has said that it has one takes
        # RabbitMQ's channel down (3.10.8). It ends: what is asked has a deadline.
        with anyio.CancelScope(shield=True):
            await self.ask(
                amqp.Basic.Qos(0, count, False),
                amqp.Basic.Consume(queue=self._queue, consumer_tag=tag),
            )
        while len(self.ahead) < before + count and self.is_open:
            self._came.clear()
            with anyio.move_on_after(SILENCE) as patience:
                await self._came.wait()
            if patience.cancelled_caught:
                self.was_shown_nothing = len(self.ahead) == before
                break
        # Its window is full: nothing more is on its way to it.
        await self.ask(amqp.Basic.Cancel(consumer_tag=tag))
        return len(self.ahead) - before

    def count(self) -> amqp.Queue.Declare:
        """What asks how many there are."""
        return amqp.Queue.Declare(queue=self._queue, passive=True)

    async def ask(self, *methods: Any) -> list[Any]:
        """The answers of the channel.

        Raises:
            BrokerUnavailable: it gave none, or was closed over it.
        """
        try:
            async with self._connector.asking():
                return await self._channel.call(*methods)
        except ChannelClosed as error:
            raise self._connector.gone(error) from error

    def close(self) -> None:
        """Let the server put back what is held, soon."""
        self._channel.close()

    def _on_delivery(self, content: Content) -> None:
        self.ahead.append(content)
        self._came.set()
