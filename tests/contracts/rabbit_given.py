"""What the tests of RabbitMQ begin with: a broker, a connection behind its back, a dying worker."""

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager

import anyio
import pytest
from anyio.lowlevel import checkpoint

from asyncq.clock import SystemClock
from asyncq.config import Url
from asyncq.drivers.rabbitmq.broker import RabbitBroker
from asyncq.drivers.rabbitmq.connection import AmqpSettings, Connector
from asyncq.drivers.rabbitmq.publisher import Publisher
from asyncq.drivers.rabbitmq.topology import Topology
from asyncq.errors import BrokerUnavailable
from asyncq.language.envelope import Envelope
from asyncq.language.message import new_id
from asyncq.language.topology import Queue
from asyncq.seams.admin import DeadLetter
from asyncq.seams.broker import Consumer, Delivery, Lease, QueueSpec
from asyncq.seams.dead import DeadLimits
from asyncq.seams.quarantine import Quarantine
from asyncq.testing.contracts.given import take

MAIL = QueueSpec("mail", prefetch=10)
PATIENCE = 20.0  # seconds


def envelope(id: str = "", body: bytes = b"hello", queue: str = "mail", **more: object) -> Envelope:
    return Envelope(id=id or new_id(), queue=queue, body=body, **more)  # type: ignore[arg-type] # fields by name


def lease(*, alone_from: int = 1) -> Lease:
    return Lease(new_id(), 15.0, Quarantine(alone_from))


@pytest.fixture
async def broker(rabbitmq_url: str) -> AsyncIterator[RabbitBroker]:
    async with RabbitBroker(Url(rabbitmq_url), SystemClock()) as broker:
        yield broker


@pytest.fixture
async def publisher(rabbitmq_url: str) -> AsyncIterator[Publisher]:
    """A connection of our own, for what nobody but a test does."""
    settings = AmqpSettings(Url(rabbitmq_url))
    connector = Connector(settings, "tests", BrokerUnavailable)
    topology = Topology(settings, connector, DeadLimits())
    publisher = Publisher(connector, topology, SystemClock())
    yield publisher
    publisher.close()


async def ask(publisher: Publisher, *methods: object) -> list[object]:
    return await publisher.connector.call(*methods)


@asynccontextmanager
async def doomed(
    url: str, *declared: Queue, queue: QueueSpec = MAIL, alone_from: int = 1
) -> AsyncGenerator[Consumer]:
    """A consumer of a worker that dies when the block ends: its connection is gone."""
    async with RabbitBroker(Url(url), SystemClock()) as broker:
        await broker.declare(declared)
        async with broker.consume(queue, lease(alone_from=alone_from)) as consumer:
            yield consumer
            await broker.__aexit__(None, None, None)


async def next_of(consumer: Consumer) -> Delivery:
    [delivery] = await take(consumer, 1)
    return delivery


async def letters_of(broker: RabbitBroker, count: int) -> list[DeadLetter]:
    with anyio.fail_after(PATIENCE):
        while (await broker.depth("mail")).dead < count:
            await checkpoint()
    return list(await broker.dead_letters("mail"))


async def publish_until_it_fails(broker: RabbitBroker) -> None:
    while True:
        await broker.publish([envelope() for _ in range(5)])
        await checkpoint()
