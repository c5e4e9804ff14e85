"""The RabbitMQ broker (3.10 or newer): durable quorum queues, confirms, a ladder of delays.

RabbitMQ does not know ids: a message that is published again after a lost confirm is stored twice.
It is marked, and a worker that gets it looks first whether it has an outcome.
"""

from collections.abc import AsyncGenerator, Hashable, Sequence
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Self

import msgspec

from asyncq.brokers.admin import DeadLetter, Depth
from asyncq.brokers.base import Consumer, Envelope, Lease, QueueSpec
from asyncq.brokers.rabbitmq.admin import RabbitQueueAdmin
from asyncq.brokers.rabbitmq.consumer import RabbitConsumer
from asyncq.brokers.rabbitmq.post import Post
from asyncq.clock import Clock
from asyncq.config import Url
from asyncq.errors import BrokerUnavailable, Refused
from asyncq.stores.amqp import AmqpSettings, Connector

MOST_UNSURE = 100_000  # ids remembered whose confirm was lost


class RabbitBroker:
    """Queues in one RabbitMQ."""

    def __init__(self, url: Url, clock: Clock) -> None:
        self._settings = AmqpSettings(url)
        sending = Connector(self._settings, "sends", BrokerUnavailable)
        self._post = Post(self._settings, sending, clock)
        self._admin = RabbitQueueAdmin(self._post)
        self._consuming = Connector(self._settings, "consumes", BrokerUnavailable)
        self._unsure: dict[str, None] = {}  # sent, and whether it arrived is not known

    @property
    def store(self) -> Hashable:
        return self._settings.identity

    async def __aenter__(self) -> Self:
        channel = await self._post.open_channel()
        channel.close()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
        /,
    ) -> None:
        self._post.close()
        self._consuming.close()

    async def publish(self, envelopes: Sequence[Envelope]) -> None:
        for queue in {envelope.queue for envelope in envelopes}:
            await self._post.declare(queue)
        unsure, parcel = self._unsure, self._post.parcel
        parcels = [
            parcel(envelope, envelope.queue, eta=envelope.eta, again=envelope.id in unsure)
            for envelope in envelopes
        ]
        try:
            returned = await self._post.send(parcels)
        except BaseException:
            if len(unsure) > MOST_UNSURE:
                unsure.clear()
            unsure.update(dict.fromkeys(envelope.id for envelope in envelopes))
            raise
        if unsure:
            for envelope in envelopes:
                unsure.pop(envelope.id, None)
        if returned:
            raise Refused(returned[0], "RabbitMQ has no queue that takes it")

    async def queues(self) -> Sequence[str]:
        return await self._admin.queues()

    async def depth(self, queue: str) -> Depth:
        return await self._admin.depth(queue)

    async def purge(self, queue: str) -> int:
        return await self._admin.purge(queue)

    async def dead_letters(
        self, queue: str, *, limit: int = 100, offset: int = 0
    ) -> Sequence[DeadLetter]:
        return await self._admin.dead_letters(queue, limit=limit, offset=offset)

    async def replay(self, queue: str, ids: Sequence[str]) -> Sequence[str]:
        return await self._admin.replay(queue, ids)

    async def delete_dead(self, queue: str, ids: Sequence[str]) -> int:
        return await self._admin.delete_dead(queue, ids)

    @asynccontextmanager
    async def consume(self, queue: QueueSpec, lease: Lease) -> AsyncGenerator[Consumer]:
        if self._settings.prefetch is not None:
            queue = msgspec.structs.replace(queue, prefetch=self._settings.prefetch)
        consumer = RabbitConsumer(self._consuming, self._post, queue, lease)
        try:
            await consumer.enter()
            yield consumer
        finally:
            await consumer.leave()
