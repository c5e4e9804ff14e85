"""The RabbitMQ driver keeps the contracts, as far as RabbitMQ can."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import pytest

from asyncq.clock import SystemClock
from asyncq.config import Url
from asyncq.drivers.rabbitmq.broker import RabbitBroker
from asyncq.language.topology import Queue
from asyncq.seams.broker import Broker
from asyncq.testing.contracts import (
    BrokerContract,
    ConsumerContract,
    DeadLetterContract,
    DoomedContract,
    DriverFixtures,
    EnvelopeContract,
    FeedContract,
)


class InRabbit(DriverFixtures):
    scheme = "amqp"
    knows_ids = False
    has_priorities = False  # of a quorum queue
    gives_back_to_the_head = False
    hands_out_what_is_asked_for = False
    bounds_may_change = False

    @pytest.fixture
    def url(self, rabbitmq_url: str) -> Url:
        return Url(f"{rabbitmq_url}?prefetch=1500")


class TestBroker(InRabbit, BrokerContract):
    pass


class TestConsumer(InRabbit, ConsumerContract):
    pass


class TestEnvelopes(InRabbit, EnvelopeContract):
    pass


class TestFeeds(InRabbit, FeedContract):
    pass


class TestDoomed(InRabbit, DoomedContract):
    pass


class TestDeadLetters(InRabbit, DeadLetterContract):
    @pytest.fixture(autouse=True)
    def _counted_each_time(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("asyncq.drivers.rabbitmq.topology.COUNT_EVERY", 0.0)


class TestClassicQueue(InRabbit, BrokerContract):
    """As quorum queues, and with priorities."""

    has_priorities = True

    @pytest.fixture
    async def broker(self, url: Url) -> AsyncGenerator[Broker]:
        async with open_classic(url) as broker:
            yield broker

    @pytest.fixture
    async def other_broker(self, url: Url) -> AsyncGenerator[Broker]:
        async with open_classic(url) as broker:
            yield broker


@asynccontextmanager
async def open_classic(url: Url) -> AsyncGenerator[Broker]:
    async with RabbitBroker(url, SystemClock()) as broker:
        await broker.declare([Queue("mail", kind="classic", max_priority=9)])
        yield broker
