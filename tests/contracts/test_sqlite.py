"""The SQLite drivers keep the contracts."""

from collections.abc import Callable
from pathlib import Path

import pytest

from asyncq.clock import Clock
from asyncq.config import Url
from asyncq.drivers.sqlite.backend import SqliteBackend
from asyncq.drivers.sqlite.broker import SqliteBroker
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
BROKER: Callable[[Url, Clock], FullBroker] = SqliteBroker
BACKEND: Callable[[Url, Clock], Backend] = SqliteBackend


class InSqlite(DriverFixtures):
    scheme = "sqlite"

    @pytest.fixture
    def url(self, tmp_path: Path) -> Url:
        return Url(f"sqlite:///{tmp_path}/asyncq.db")


class TestBroker(InSqlite, BrokerContract):
    pass


class TestConsumer(InSqlite, ConsumerContract):
    pass


class TestLeases(InSqlite, LeaseContract):
    pass


class TestQuarantine(InSqlite, QuarantineContract):
    pass


class TestEnvelopes(InSqlite, EnvelopeContract):
    pass


class TestDoomed(InSqlite, DoomedContract):
    pass


class TestDeadLetters(InSqlite, DeadLetterContract):
    pass


class TestAdmin(InSqlite, AdminContract):
    pass


class TestBackend(InSqlite, BackendContract):
    pass


class TestFeeds(InSqlite, FeedContract):
    pass


class TestTopics(InSqlite, TopicsContract):
    pass


class TestLedger(InSqlite, LedgerContract):
    pass


class TestRegistry(InSqlite, RegistryContract):
    pass


class TestQueues(InSqlite, QueueContract):
    pass


class TestUnified(InSqlite, UnifiedContract):
    pass


class TestModel(InSqlite, ModelContract):
    pass


class TestTogether(InSqlite, TogetherContract):
    pass
