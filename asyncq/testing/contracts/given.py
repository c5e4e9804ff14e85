"""What the suites start from: a driver's fixtures, and envelopes, leases and crashes."""

from collections.abc import AsyncGenerator, Sequence
from typing import Any, Protocol, TypeVar

import msgspec
import pytest
from anyio import fail_after, to_thread
from anyio.lowlevel import checkpoint

from asyncq.clock import SystemClock
from asyncq.config import Url
from asyncq.drivers.table import make_backend, make_broker
from asyncq.language.envelope import Envelope
from asyncq.language.message import End, Succeeded, new_id
from asyncq.language.record import Record
from asyncq.seams.admin import MessageFinder, QueueAdmin
from asyncq.seams.backend import Backend
from asyncq.seams.broker import MAX_BATCH, Broker, Consumer, Delivery, Lease, Leased, QueueSpec
from asyncq.seams.feeds import Subscription
from asyncq.seams.quarantine import Quarantine

T = TypeVar("T")
PATIENCE = 20.0  # seconds after which a test gives up
FAR = 3600.0  # seconds; longer than any test

FOR_PUBLISHING = {"exchange", "routing_key", "suspect"}  # of an envelope; no driver keeps them

MAIL = QueueSpec("mail")
NEWS = QueueSpec("news")


class FullBroker(Broker, Leased, QueueAdmin, MessageFinder, Protocol):
    """A broker that does all that a broker can."""


class DriverFixtures:
    """The fixtures of every suite: a driver says ``url``, and the rest follows.

    ``other_broker`` and ``other_backend`` are second connections to the same store, as another
    process would have them. What a broker cannot do by its nature, it says here
    or in its `Offers`.
    """

    scheme = ""
    """Of its URL. A driver that has several runs its suites by each of them."""

    knows_ids = True
    """It keeps an id once. Else whoever publishes twice has it twice."""
    has_priorities = True
    gives_back_to_the_head = True
    """Else to the end of the queue."""

    hands_out_what_is_asked_for = True
    """Else it pushes: a worker may hold what it has not asked for yet."""
    bounds_may_change = True
    """Of dead letters that are there already."""

    def needs(self, ability: bool, what: str) -> None:
        """Skip a test of what this broker cannot do by its nature."""
        if not ability:
            pytest.skip(f"it needs a broker that is made for it: {what}")

    @pytest.fixture
    def url(self) -> Url:
        raise NotImplementedError("a driver's suite says where its store is")

    @pytest.fixture
    async def broker(self, url: Url) -> AsyncGenerator[Broker]:
        async with make_broker(url, SystemClock()) as broker:
            yield broker

    @pytest.fixture
    async def other_broker(self, url: Url) -> AsyncGenerator[Broker]:
        async with make_broker(url, SystemClock()) as broker:
            yield broker

    @pytest.fixture
    async def backend(self, url: Url) -> AsyncGenerator[Backend]:
        async with make_backend(url, SystemClock()) as backend:
            yield backend

    @pytest.fixture
    async def other_backend(self, url: Url) -> AsyncGenerator[Backend]:
        async with make_backend(url, SystemClock()) as backend:
            yield backend


def now() -> float:
    """The moment, as the drivers under test see it."""
    return SystemClock().now()


def envelope(body: bytes = b"hello", **changes: Any) -> Envelope:
    """An envelope for `MAIL` with an id of its own."""
    fields: dict[str, Any] = {"id": new_id(), "queue": MAIL.name, "body": body, "sent_at": now()}
    return Envelope(**(fields | changes))


def full_envelope(**changes: Any) -> Envelope:
    """An envelope with a value in every field, that no driver loses one unseen."""
    moment = now()
    values: dict[str, Any] = {
        "body": b"\x93\x01\x02\x03",
        "priority": 7,
        "eta": moment - 1.5,
        "expires": moment + 30.25,
        "reply_to": "client-1",
        "sent_at": moment - 3.125,
        "headers": {"a": [1, None]},
        "again": True,
        "ends": (End("latch", "part"), End("größer 🙂", "7")),
    }
    sent = envelope(**(values | changes))
    untested = set(left_out(sent)) - FOR_PUBLISHING
    assert not untested, (
        f"{', '.join(untested)}: no test of a driver has a value for it; say one in "
        "full_envelope in asyncq/testing/contracts/given.py"
    )
    return sent


def left_out(record: msgspec.Struct) -> list[str]:
    """The fields that have no value but their default."""
    return [
        field.name
        for field in msgspec.structs.fields(record)
        if getattr(record, field.name) == field.default
        or (
            field.default_factory is not msgspec.NODEFAULT
            and getattr(record, field.name) == field.default_factory()
        )
    ]


def envelopes(count: int, **changes: Any) -> list[Envelope]:
    """Envelopes whose bodies say their place, from 0."""
    return [envelope(str(number).encode(), **changes) for number in range(count)]


def new_lease(seconds: float = FAR, *, alone_from: int = 1) -> Lease:
    return Lease(new_id(), seconds, Quarantine(alone_from))


def record(message_id: str, value: Any = None, **changes: Any) -> Record:
    """The record of a task that returned ``value``."""
    outcome = Succeeded(msgspec.Raw(msgspec.msgpack.encode(value)))
    fields: dict[str, Any] = {
        "id": message_id,
        "outcome": outcome,
        "task": "shop.add",
        "worker": "w1",
    }
    return Record(**(fields | changes))


def ids_of(items: Sequence[Delivery | Envelope]) -> list[str]:
    return [item.envelope.id if isinstance(item, Delivery) else item.id for item in items]


def bodies_of(deliveries: Sequence[Delivery]) -> list[bytes]:
    return [delivery.envelope.body for delivery in deliveries]


async def publish_all(broker: Broker, batch: Sequence[Envelope]) -> None:
    """Publish any number of envelopes."""
    for start in range(0, len(batch), MAX_BATCH):
        await broker.publish(batch[start : start + MAX_BATCH])


async def take(consumer: Consumer, count: int) -> list[Delivery]:
    """Receive until ``count`` deliveries have come."""
    taken: list[Delivery] = []
    with fail_after(PATIENCE):
        while len(taken) < count:
            taken += await consumer.receive(min(count - len(taken), MAX_BATCH))
            if len(taken) < count:
                await consumer.wait()
    return taken


async def hear(subscription: Subscription[T], count: int) -> list[T]:
    """Receive until ``count`` items have come."""
    heard: list[T] = []
    with fail_after(PATIENCE):
        while len(heard) < count:
            heard += await subscription.receive()
    return heard


async def end_lease(broker: Leased, lease: Lease, *queues: str) -> None:
    """Let a lease end at once, as if nobody had renewed it."""
    renewer = broker.renewer()
    try:
        await to_thread.run_sync(renewer.renew, lease.incarnation, queues or (MAIL.name,), 0.0)
    finally:
        renewer.close()


async def release(broker: Leased, lease: Lease, *queues: str) -> int:
    """End the lease of a worker that is dead, and recover what it held."""
    renewer = broker.renewer()
    try:
        return await to_thread.run_sync(renewer.release, lease.incarnation, queues or (MAIL.name,))
    finally:
        renewer.close()


async def sweep(broker: Leased, count: int, queue: str = MAIL.name) -> None:
    """Sweep until ``count`` messages are recovered, and no more are found."""
    recovered = 0
    with fail_after(PATIENCE):
        while recovered < count:
            recovered += await broker.sweep(queue)
            await checkpoint()
    assert recovered == count
    assert await broker.sweep(queue) == 0


async def make_suspects(broker: FullBroker, batch: Sequence[Envelope]) -> None:
    """Publish messages to one queue and have a worker die with all of them in its hands."""
    await publish_all(broker, batch)
    queue = QueueSpec(batch[0].queue)
    lease = new_lease()
    lease.quarantine.reserve()  # so that those of another time stay where they are
    async with broker.consume(queue, lease) as consumer:
        await take(consumer, len(batch))
        await end_lease(broker, lease, queue.name)
        await sweep(broker, len(batch), queue.name)
