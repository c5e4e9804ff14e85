"""A key of a queue that other hands made another type: nothing is lost by it, and it is named.

Every script is run against every key that it might meet so, with the queue's own key set aside.
When that is back, each message is where it was, or where the script was to bring it, and once.
"""

from collections import Counter
from collections.abc import AsyncGenerator, Awaitable
from contextlib import asynccontextmanager, suppress

import anyio
import pytest
from anyio import fail_after

from asyncq.clock import SystemClock
from asyncq.config import Url
from asyncq.drivers.redis.broker import RedisBroker
from asyncq.drivers.redis.connection import Link
from asyncq.errors import AsyncqError, QueueUnavailable
from asyncq.language.message import End, new_id
from asyncq.language.topology import Queue
from asyncq.seams.broker import Ack, Delivery, Lease, Nack, QueueSpec, Reject
from asyncq.seams.quarantine import Quarantine
from tests.contracts.rabbit_given import PATIENCE, envelope, lease
from tests.contracts.test_redis_refusals import asking

MAIL = QueueSpec("mail")
ENDS = (End("latch", "part"),)
BOUNDED = Queue("mail", ttl=1000.0, max_length=6, overflow="drop-head", max_priority=7)
KINDS = [
    "bodies", "ready:0", "ready:5", "ready:7", "suspects", "delayed", "quarantine", "crashes",
    "leases", "epochs", "wake", "declared", "until", "active", "standby", "dead", "dead:bodies",
    "dead:reasons", "dead:last", "dead:crashes", "in_flight", "doomed", "verdicts",
]  # fmt: skip


class Scene:
    """A queue with something in every place, and who looks at it from behind."""

    def __init__(
        self, broker: RedisBroker, link: Link, base: str, ends: tuple[End, ...] = ()
    ) -> None:
        self.broker = broker
        self.base = base
        self._ends = ends
        self._link = link
        self.sent: set[str] = set()
        self.odd: set[str] = set()  # of which it is not known whether they were sent

    async def send(self, *ids: str, priority: int = 0, eta: float | None = None) -> None:
        envelopes = [envelope(id, priority=priority, eta=eta, ends=self._ends) for id in ids]
        self.odd.update(ids)
        await self.broker.publish(envelopes)
        self.odd.difference_update(ids)
        self.sent.update(ids)

    @asynccontextmanager
    async def spoiled(self, key: str) -> AsyncGenerator[None]:
        """Other hands set the key aside and write their own, until the block ends."""
        was_there = await self._link("EXISTS", key)
        if was_there:
            await self._link("RENAME", key, f"{key}:aside")
        await self._link("SET", key, "by other hands")
        yield
        await self._link("DEL", key)
        if was_there:
            await self._link("RENAME", f"{key}:aside", key)

    async def places(self) -> Counter[str]:
        """How often each id is somewhere; of one that is nowhere its body is no help."""
        found: Counter[str] = Counter()
        for line in ("doomed", "suspects", *(f"ready:{priority}" for priority in range(10))):
            found.update(self._texts(await self._link("LRANGE", f"{self.base}:{line}", 0, -1)))
        for member in self._texts(await self._link("ZRANGE", f"{self.base}:delayed", 0, -1)):
            found[member[1:]] += 1
        found.update(self._texts(await self._link("ZRANGE", f"{self.base}:dead", 0, -1)))
        for key in self._texts(await self._link("KEYS", "*:in_flight:*")):
            if key.startswith(self.base):
                found.update(self._texts(await self._link("HKEYS", key)))
        return found

    @staticmethod
    def _texts(raws: list[bytes]) -> list[str]:
        return [raw.decode() for raw in raws]


async def whatever_comes_of(what: Awaitable[object]) -> None:
    """It may fail, in our words, and must not hang."""
    with suppress(AsyncqError), fail_after(PATIENCE):
        await what


@pytest.mark.parametrize(("bounded", "ends"), [(False, ()), (True, ()), (True, ENDS)])
@pytest.mark.parametrize("kind", KINDS)
async def test_no_script_loses_or_doubles_a_message_over_a_spoiled_key(
    redis_url: str, kind: str, ends: tuple[End, ...], *, bounded: bool
) -> None:
    prefix = new_id()
    base = f"{prefix}:{{mail}}"
    url = Url(f"{redis_url}?prefix={prefix}")
    worker = lease()
    dead = Lease(new_id(), 0.001, Quarantine(3))  # seconds
    clock = SystemClock()
    async with (
        asking(redis_url) as link,
        RedisBroker(url, clock) as broker,
        broker.consume(MAIL, dead) as lost,
    ):
        scene = Scene(broker, link, base, ends)
        if bounded:
            await broker.declare([BOUNDED])
        await scene.send("suspect-1", "suspect-2", "dying", "old")
        in_flight = await lost.receive(4)
        await lost.settle([Reject(in_flight[2], "no"), Reject(in_flight[3], "no")])
        await anyio.sleep(0.002)
        assert await broker.sweep("mail") == 2
        await scene.send("mine-1", "mine-2", "mine-3", "mine-4")
        async with broker.consume(MAIL, worker) as consumer:
            mine = await consumer.receive(6)
            await scene.send("first", "second")
            await scene.send("middle", priority=5)
            await scene.send("late", eta=clock.now() + 0.01)
            await scene.send("far", eta=clock.now() + 1000)
            if ends:
                await broker.purge("mail")
                await scene.send("third", "fourth")
            await anyio.sleep(0.02)
            again: list[Delivery] = []

            async def receive() -> None:
                again.extend(await consumer.receive(2))

            key = f"{base}:{kind}"
            if kind == "in_flight":
                key += f":{worker.incarnation}"
            async with scene.spoiled(key):
                await whatever_comes_of(receive())
                await whatever_comes_of(receive())
                await whatever_comes_of(consumer.settle([Nack(mine[0]), Nack(mine[1], delay=99.0)]))
                await whatever_comes_of(consumer.settle([Reject(mine[2], "no"), Nack(mine[3])]))
                await whatever_comes_of(broker.sweep("mail"))
                await whatever_comes_of(broker.replay("mail", ["dying"]))
                await whatever_comes_of(scene.send("new-1", "new-2", "new-3"))
                await whatever_comes_of(scene.send("new-4", eta=clock.now() + 99))
                if ends:
                    await whatever_comes_of(broker.purge("mail"))
                    await whatever_comes_of(receive())

            places = await scene.places()
        gave_back = await scene.places()

    # What was handed out is still in flight, or given back as the consumer left.
    for found in (places, gave_back):
        assert [id for id in scene.sent if found[id] != 1] == []
        assert [id for id in scene.odd if found[id] > 1] == []
    assert not [id for id, count in gave_back.items() if count and id not in scene.sent | scene.odd]
    assert len({delivery.envelope.id for delivery in again}) == len(again)


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("ready:5", "ready:5 is a string, not a list"),
        ("leases", "leases is a string, not a zset"),
        ("bodies", "bodies is a string, not a hash"),
    ],
)
async def test_the_key_is_named_with_what_it_is_and_what_it_should_be(
    redis_url: str, kind: str, text: str
) -> None:
    prefix = new_id()
    async with (
        asking(redis_url) as link,
        RedisBroker(Url(f"{redis_url}?prefix={prefix}"), SystemClock()) as broker,
    ):
        await link("SET", f"{prefix}:{{mail}}:{kind}", "by other hands")

        with pytest.raises(QueueUnavailable) as caught:
            async with broker.consume(MAIL, lease()) as consumer:
                await consumer.receive(10)

    assert f"{prefix}:{{mail}}:{text}" in str(caught.value)
    assert "rename or delete that key" in str(caught.value)


async def test_operators_are_told_as_well(redis_url: str) -> None:
    prefix = new_id()
    async with (
        asking(redis_url) as link,
        RedisBroker(Url(f"{redis_url}?prefix={prefix}"), SystemClock()) as broker,
    ):
        await broker.publish([envelope("one")])
        await link("SET", f"{prefix}:{{mail}}:dead", "by other hands")

        for asked in (
            broker.depth("mail"),
            broker.dead_letters("mail"),
            broker.replay("mail", ["a"]),
            broker.delete_dead("mail", ["a"]),
        ):
            with pytest.raises(QueueUnavailable, match="dead is a string, not a zset"):
                await asked


async def test_an_acknowledgement_that_ended_halfway_does_the_rest_when_it_is_sent_again(
    redis_url: str,
) -> None:
    prefix = new_id()
    async with (
        asking(redis_url) as link,
        RedisBroker(Url(f"{redis_url}?prefix={prefix}"), SystemClock()) as broker,
    ):
        scene = Scene(broker, link, f"{prefix}:{{mail}}")
        await scene.send("one", "two")
        async with broker.consume(MAIL, lease()) as consumer:
            done = [Ack(delivery) for delivery in await consumer.receive(2)]
            async with scene.spoiled(f"{scene.base}:bodies"):
                await whatever_comes_of(consumer.settle(done))

            assert not await consumer.settle(done)

        assert not await scene.places()
        assert await link("HLEN", f"{scene.base}:bodies") == 2  # the hash that was set aside


async def test_what_is_doomed_stays_in_hand_while_the_verdicts_are_spoiled(redis_url: str) -> None:
    prefix = new_id()
    async with (
        asking(redis_url) as link,
        RedisBroker(Url(f"{redis_url}?prefix={prefix}"), SystemClock()) as broker,
        broker.consume(MAIL, lease()) as consumer,
    ):
        scene = Scene(broker, link, f"{prefix}:{{mail}}", ENDS)
        await scene.send("done", "dying", "back")
        await broker.purge("mail")
        done, dying, back = await consumer.receive(3)
        batch = [Ack(done), Reject(dying, "no"), Nack(back)]
        async with scene.spoiled(f"{scene.base}:verdicts"):
            with pytest.raises(QueueUnavailable, match="verdicts is a string, not a hash"):
                await consumer.settle(batch)

        assert not await consumer.settle(batch)
        assert await scene.places() == {"dying": 1, "back": 1}
        assert await link("HKEYS", f"{scene.base}:verdicts") == [b"back"]
