"""The memory drivers keep the contracts, and what they add to them."""

import threading
from collections.abc import Callable
from typing import Any

import anyio
import pytest

from asyncq.clock import Clock, SystemClock
from asyncq.config import Url
from asyncq.drivers.memory.backend import MemoryBackend
from asyncq.drivers.memory.broker import MemoryBroker
from asyncq.drivers.memory.store import open_store
from asyncq.drivers.subscriptions import SUBSCRIPTION_SIZE
from asyncq.errors import Refused
from asyncq.language.message import new_id
from asyncq.seams.backend import Backend
from asyncq.seams.broker import Ack, Broker, Consumer, Nack
from asyncq.seams.feeds import replies_to
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
from asyncq.testing.contracts.entries import KIND, put
from asyncq.testing.contracts.given import (
    FAR,
    MAIL,
    bodies_of,
    end_lease,
    envelope,
    envelopes,
    new_lease,
    now,
    record,
    take,
)

# Typed, so that a driver that misses a method fails the type check.
BROKER: Callable[[Url, Clock], FullBroker] = MemoryBroker
BACKEND: Callable[[Url, Clock], Backend] = MemoryBackend


class InMemory(DriverFixtures):
    scheme = "memory"

    @pytest.fixture
    def url(self) -> Url:
        return Url(f"memory://{new_id()}")


class TestBroker(InMemory, BrokerContract):
    pass


class TestConsumer(InMemory, ConsumerContract):
    pass


class TestLeases(InMemory, LeaseContract):
    pass


class TestQuarantine(InMemory, QuarantineContract):
    pass


class TestEnvelopes(InMemory, EnvelopeContract):
    pass


class TestDoomed(InMemory, DoomedContract):
    pass


class TestDeadLetters(InMemory, DeadLetterContract):
    pass


class TestAdmin(InMemory, AdminContract):
    pass


class TestBackend(InMemory, BackendContract):
    pass


class TestFeeds(InMemory, FeedContract):
    pass


class TestTopics(InMemory, TopicsContract):
    pass


class TestLedger(InMemory, LedgerContract):
    pass


class TestRegistry(InMemory, RegistryContract):
    pass


class TestQueues(InMemory, QueueContract):
    pass


class TestUnified(InMemory, UnifiedContract):
    pass


class TestModel(InMemory, ModelContract):
    pass


class TestTogether(InMemory, TogetherContract):
    pass


class Hands:
    """A clock that a test moves."""

    def __init__(self, at: float) -> None:
        self.at = at

    def now(self) -> float:
        return self.at


class TestMemory(InMemory):
    """What only the memory drivers promise."""

    async def test_one_name_is_one_store(self) -> None:
        async with MemoryBroker(Url("memory://one"), SystemClock()) as broker:
            backend = MemoryBackend(Url("memory://one"), SystemClock())
            stranger = MemoryBroker(Url("memory://another"), SystemClock())
            assert broker.store == backend.store != stranger.store

    async def test_time_is_the_clocks(self, url: Url) -> None:
        clock = Hands(1000.0)
        lease = new_lease(15.0)
        async with MemoryBroker(url, clock) as broker:
            await broker.publish([envelope(b"now"), envelope(b"later", eta=2000.0)])
            async with broker.consume(MAIL, lease) as consumer:
                assert bodies_of(await consumer.receive(10)) == [b"now"]

                clock.at = 1015.0
                assert await broker.sweep(MAIL.name) == 1

            clock.at = 2000.0
            async with broker.consume(MAIL, new_lease()) as consumer:
                assert bodies_of(await consumer.receive(10)) == [b"now", b"later"]

    async def test_what_is_published_cannot_be_changed_afterwards(self, broker: Broker) -> None:
        headers = {"list": [1]}
        await broker.publish([envelope(headers=headers)])
        headers["list"].append(2)

        async with broker.consume(MAIL, new_lease()) as consumer:
            [first] = await take(consumer, 1)
            first.envelope.headers["list"].append(3)
            await consumer.settle([Nack(first)])
            [again] = await take(consumer, 1)

        assert again.envelope.headers == {"list": [1]}

    @pytest.mark.parametrize(
        "changes", [{"headers": {"x": object()}}, {"priority": 10}, {"priority": -1}]
    )
    async def test_what_no_network_could_carry_is_refused(
        self, broker: FullBroker, changes: dict[str, Any]
    ) -> None:
        bad = envelope(**changes)

        with pytest.raises(Refused) as caught:
            await broker.publish([envelope(), bad])

        assert caught.value.envelope_id == bad.id
        assert (await broker.depth(MAIL.name)).ready == 0

    async def test_an_old_claim_does_not_settle_a_new_one(self, broker: Broker) -> None:
        await broker.publish([envelope()])
        async with broker.consume(MAIL, new_lease()) as consumer:
            [old] = await take(consumer, 1)
            await consumer.settle([Nack(old)])
            [new] = await take(consumer, 1)

            assert list(await consumer.settle([Nack(old)])) == [old]
            assert list(await consumer.settle([Ack(new)])) == []

    async def test_a_lease_that_ended_is_not_renewed_nor_claims(self, broker: FullBroker) -> None:
        lease = new_lease()
        await broker.publish(envelopes(2))
        async with broker.consume(MAIL, lease) as consumer:
            await take(consumer, 1)
            await end_lease(broker, lease)

            assert not broker.renewer().renew(lease.incarnation, [MAIL.name], FAR)

    async def test_a_publish_in_another_thread_wakes_who_waits_in_this_one(
        self, broker: Broker
    ) -> None:
        sent = envelopes(100)

        async def publish_one_by_one() -> None:
            for each in sent:
                await broker.publish([each])

        thread = threading.Thread(target=anyio.run, args=(publish_one_by_one,))
        async with broker.consume(MAIL, new_lease()) as consumer:
            thread.start()
            taken = await take(consumer, len(sent))
            await anyio.to_thread.run_sync(thread.join)

        assert [delivery.envelope for delivery in taken] == sent

    async def test_a_wake_up_that_a_cancelled_consumer_got_goes_to_another(
        self, url: Url, broker: Broker
    ) -> None:
        cancelled = anyio.CancelScope()

        async def wait_in_scope(consumer: Consumer) -> None:
            with cancelled:
                await consumer.wait()

        async with (
            broker.consume(MAIL, new_lease()) as leaving,
            broker.consume(MAIL, new_lease()) as staying,
        ):
            with anyio.fail_after(0.5):  # less than the turn after which it looks for itself
                async with anyio.create_task_group() as group:
                    group.start_soon(wait_in_scope, leaving)
                    group.start_soon(staying.wait)
                    await anyio.wait_all_tasks_blocked()

                    open_store(url).queue(MAIL.name).wake()
                    cancelled.cancel()

        assert cancelled.cancelled_caught

    async def test_a_watch_that_nobody_reads_says_that_it_missed_some(
        self, backend: Backend
    ) -> None:
        async with backend.subscribe(replies_to("me")) as replies:
            await backend.store_records(
                [record(str(n), keep=0.0, reply_to="me") for n in range(SUBSCRIPTION_SIZE + 1)]
            )

            assert list(await replies.receive()) == []
            await backend.store_records([record("next", reply_to="me")])
            assert [each.id for each in await replies.receive()] == ["next"]

    async def test_expired_records_take_no_room(self, url: Url) -> None:
        clock = Hands(now())
        async with MemoryBackend(url, clock) as backend:
            for _ in range(100):
                await backend.store_records([record(new_id(), keep=5.0)])
                clock.at += 1.0

        assert len(open_store(url).records) < 10

    async def test_entries_that_change_or_have_ended_take_no_more_room(self, url: Url) -> None:
        clock = Hands(now())
        async with MemoryBackend(url, clock) as backend:
            registry = backend.offers.registry
            assert registry is not None
            versions = dict.fromkeys("abc", 0)
            for _ in range(100):
                clock.at += 1.0
                await put(registry, new_id(), keep=5.0)
                removed = await put(registry, new_id(), keep=FAR)
                await registry.remove(removed.kind, removed.name, version=None)
                for name, version in versions.items():
                    entry = await put(registry, name, version=version, keep=FAR)
                    versions[name] = entry.version

        stored = open_store(url).registry
        assert len(stored.kind(KIND).entries) == len(stored.kind(KIND).names) < 10
        assert stored.noted < 100
