"""The Redis drivers keep the contracts."""

from collections.abc import Callable

import pytest

from asyncq.clock import Clock
from asyncq.config import Url
from asyncq.drivers.redis.backend import RedisBackend
from asyncq.drivers.redis.broker import RedisBroker
from asyncq.language.message import new_id
from asyncq.seams.backend import Backend
from asyncq.testing.contracts import (
    AdminContract,
    BackendContract,
    BrokerContract,
    ConsumerContract,
    DeadLetterContract,
    DoomedContract,
    DriverFixtures,
    EnvelopeContract,
    FeedContract,
    FullBroker,
    LeaseContract,
    LedgerContract,
    ModelContract,
    QuarantineContract,
    QueueContract,
    RegistryContract,
    TogetherContract,
    TopicsContract,
    UnifiedContract,
)

# Typed, so that a driver that misses a method fails the type check.
BROKER: Callable[[Url, Clock], FullBroker] = RedisBroker
BACKEND: Callable[[Url, Clock], Backend] = RedisBackend


class InRedis(DriverFixtures):
    scheme = "redis"

    @pytest.fixture
    def url(self, redis_url: str) -> Url:
        return Url(f"{redis_url}?prefix={new_id()}")


class TestBroker(InRedis, BrokerContract):
    pass


class TestConsumer(InRedis, ConsumerContract):
    pass


class TestLeases(InRedis, LeaseContract):
    pass


class TestQuarantine(InRedis, QuarantineContract):
    pass


class TestEnvelopes(InRedis, EnvelopeContract):
    pass


class TestDoomed(InRedis, DoomedContract):
    pass


class TestDeadLetters(InRedis, DeadLetterContract):
    pass


class TestAdmin(InRedis, AdminContract):
    pass


class TestBackend(InRedis, BackendContract):
    pass


class TestFeeds(InRedis, FeedContract):
    pass


class TestTopics(InRedis, TopicsContract):
    pass


class TestLedger(InRedis, LedgerContract):
    pass


class TestRegistry(InRedis, RegistryContract):
    pass


class TestQueues(InRedis, QueueContract):
    pass


class TestUnified(InRedis, UnifiedContract):
    pass


class TestModel(InRedis, ModelContract):
    pass


class TestTogether(InRedis, TogetherContract):
    pass
