"""What is doomed in Redis, beyond the contract: odd bytes, a full server, suspects."""

from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import pytest
import redis
from anyio import create_task_group, fail_after, sleep
from hypothesis import given
from hypothesis import strategies as st

from asyncq.clock import SystemClock
from asyncq.config import Url
from asyncq.drivers.redis.broker import RedisBroker
from asyncq.drivers.redis.connection import Link, Script
from asyncq.language.message import MAX_PRIORITY, End, Status, new_id
from asyncq.language.topology import Queue
from asyncq.seams.broker import (
    MAX_BATCH,
    PURGED,
    WAITED_TOO_LONG,
    Ack,
    Consumer,
    Delivery,
    Nack,
    Reject,
)
from asyncq.seams.packing import has_ends, pack
from asyncq.testing.contracts.given import (
    FAR,
    MAIL,
    PATIENCE,
    envelope,
    envelopes,
    ids_of,
    make_suspects,
    new_lease,
    now,
    publish_all,
    take,
)
from tests.contracts.test_redis_refusals import asking
from tests.servers import start_redis

ENDS = (End("latch", "part"),)
TTL = 0.02  # seconds

values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.text(max_size=300)
    | st.binary(max_size=300)
    | st.just(datetime(2026, 1, 2, tzinfo=UTC)),
    lambda inner: st.lists(inner, max_size=20) | st.dictionaries(st.text(), inner, max_size=20),
    max_leaves=50,
)
names = st.text(max_size=40) | st.just("Ð")  # whose last byte is that of an empty array
ends_of_all_kinds = st.lists(st.builds(End, names, names), max_size=20).map(tuple)


class EndsReader:
    """What the scripts make of a blob."""

    def __init__(self, url: str) -> None:
        self._client: Any = cast("Any", redis.Redis).from_url(url)
        self._text = Script("ends").text + "\nreturn has_ends(ARGV[1]) and 1 or 0"

    def has_ends(self, blob: bytes) -> bool:
        return self._client.eval(self._text, 1, "queue", blob) == 1

    def close(self) -> None:
        self._client.close()


@pytest.fixture(scope="module")
def reader(redis_url: str) -> Iterator[EndsReader]:
    reader = EndsReader(redis_url)
    yield reader
    reader.close()


@pytest.fixture
async def broker(redis_url: str) -> AsyncIterator[RedisBroker]:
    async with RedisBroker(Url(f"{redis_url}?prefix={new_id()}"), SystemClock()) as broker:
        yield broker


@pytest.fixture
async def link(redis_url: str) -> AsyncIterator[Link]:
    async with asking(redis_url) as link:
        yield link


def base_of(broker: RedisBroker) -> str:
    return f"{broker.store[0][3]}:{{{MAIL.name}}}"  # type: ignore[index] # the prefix is the last part of its address


async def purge_one(broker: RedisBroker, consumer: Consumer) -> Delivery:
    """A delivery that comes with the verdict."""
    await broker.publish([envelope(ends=ENDS)])
    await broker.purge(MAIL.name)
    [delivery] = await take(consumer, 1)
    assert delivery.verdict
    return delivery


@given(values=st.dictionaries(st.text(), values, max_size=20), ends=ends_of_all_kinds,
       body=st.binary(max_size=300), eta=st.none() | st.floats(0, 2**40))  # fmt: skip
def test_the_scripts_find_the_ends_behind_whatever_comes_before(
    reader: EndsReader,
    values: dict[str, Any],
    ends: tuple[End, ...],
    body: bytes,
    eta: float | None,
) -> None:
    blob = pack(envelope(body, headers=values, ends=ends, eta=eta, priority=len(ends) % 10))

    assert reader.has_ends(blob) == bool(ends)


@pytest.mark.parametrize("size", [0, 255, 256, 65_535, 65_536, 1_000_000])
def test_the_scripts_find_the_ends_behind_a_body_of_any_size(reader: EndsReader, size: int) -> None:
    assert reader.has_ends(pack(envelope(b"x" * size, ends=ENDS)))
    assert not reader.has_ends(pack(envelope(b"x" * size)))


@given(st.binary() | st.binary().map(lambda rest: b"\x99\x00\xc4" + rest))
def test_the_scripts_read_the_bytes_of_other_hands(reader: EndsReader, blob: bytes) -> None:
    found = reader.has_ends(blob)

    assert found or not has_ends(blob)


@pytest.mark.parametrize("odd", [b"", b"\xff\x00 not a message", b"\x99", b"\x99\x00\xc6\xff"])
async def test_what_cannot_be_read_is_buried_and_removed_as_before(
    broker: RedisBroker, link: Link, odd: bytes
) -> None:
    base = base_of(broker)
    await broker.declare([Queue(MAIL.name, max_length=1, overflow="drop-head")])
    await link("HSET", f"{base}:bodies", "overflows", odd, "purged", odd)
    await link("RPUSH", f"{base}:ready:0", "overflows", "purged")

    await broker.publish([envelope()])
    assert await broker.purge(MAIL.name) == 1

    assert {each.envelope.body for each in await broker.dead_letters(MAIL.name)} == {odd}
    assert (await broker.depth(MAIL.name)).ready == 0


async def test_an_id_without_a_body_is_purged(broker: RedisBroker, link: Link) -> None:
    await link("RPUSH", f"{base_of(broker)}:ready:0", "gone")

    assert await broker.purge(MAIL.name) == 1
    assert (await broker.depth(MAIL.name)).ready == 0


async def test_a_full_server_dooms_what_is_late_and_what_is_purged(tmp_path: Path) -> None:
    with start_redis(tmp_path) as server:
        async with (
            RedisBroker(Url(server.url), SystemClock()) as broker,
            asking(server.url) as link,
            broker.consume(MAIL, new_lease()) as consumer,
        ):
            await broker.declare([Queue(MAIL.name, ttl=TTL)])
            late = envelopes(3, ends=ENDS)
            await broker.publish(late)
            await sleep(2 * TTL)
            await broker.publish([envelope(ends=ENDS, eta=now() + FAR)])
            await link("CONFIG", "SET", "maxmemory", "1")

            first = await take(consumer, 3)
            assert ids_of(first) == ids_of(late)
            assert await broker.purge(MAIL.name) == 1
            [second] = await take(consumer, 1)
            assert not await consumer.settle([Ack(second), *map(Ack, first)])

            assert all(each.verdict.startswith(WAITED_TOO_LONG) for each in first)
            assert second.verdict.startswith(PURGED)
            assert not await link("EXISTS", "asyncq:{mail}:doomed", "asyncq:{mail}:verdicts")


async def test_a_full_server_takes_back_what_is_doomed(tmp_path: Path) -> None:
    with start_redis(tmp_path) as server:
        async with (
            RedisBroker(Url(server.url), SystemClock()) as broker,
            asking(server.url) as link,
            broker.consume(MAIL, new_lease()) as consumer,
        ):
            delivery = await purge_one(broker, consumer)
            await link("CONFIG", "SET", "maxmemory", "1")

            assert not await consumer.settle([Nack(delivery)])
            [again] = await take(consumer, 1)
            assert again.verdict == delivery.verdict


@pytest.mark.parametrize("dies", [True, False])
async def test_a_verdict_is_gone_with_the_message_it_was_on(
    broker: RedisBroker, link: Link, *, dies: bool
) -> None:
    async with broker.consume(MAIL, new_lease()) as consumer:
        first = await purge_one(broker, consumer)
        await consumer.settle([Nack(first)])
        [second] = await take(consumer, 1)
        assert await link("HLEN", f"{base_of(broker)}:verdicts") == 1

        await consumer.settle([Reject(second, second.verdict) if dies else Ack(second)])

    assert not await link("EXISTS", f"{base_of(broker)}:doomed", f"{base_of(broker)}:verdicts")


async def test_a_claim_without_room_for_suspects_takes_the_doomed(broker: RedisBroker) -> None:
    await make_suspects(broker, envelopes(2, ends=ENDS))
    await broker.publish([envelope(b"doomed", ends=ENDS, eta=now() + FAR)])
    await broker.publish([envelope(b"ready")])

    async with broker.consume(MAIL, new_lease()) as consumer:
        await broker.purge(MAIL.name)
        await broker.publish([envelope(b"new")])
        [first] = await consumer.receive(1)
        second = await take(consumer, 2)

    assert first.envelope.body == b"doomed"
    assert not first.suspect
    assert [(each.envelope.body, each.suspect) for each in second] == [
        (b"0", True),
        (b"new", False),
    ]
    assert second[0].verdict.startswith(PURGED)


async def test_suspects_that_are_purged_stay_suspects_in_their_order(broker: RedisBroker) -> None:
    many = MAX_BATCH + 100
    sent = envelopes(many, ends=ENDS)
    await make_suspects(broker, [*sent, envelope(b"plain")])

    assert await broker.purge(MAIL.name) == many + 1
    assert await broker.purge(MAIL.name) == 0
    before = await broker.peek(MAIL.name, limit=2 * many)
    async with broker.consume(MAIL, new_lease(alone_from=5)) as consumer:
        taken = await take(consumer, many)

    assert {each.envelope.id for each in before} == set(ids_of(sent))
    assert ids_of(taken) == [each.envelope.id for each in before]
    assert all(each.suspect and each.crashes == 1 and each.verdict for each in taken)


async def test_what_is_doomed_and_delayed_is_not_purged_again(broker: RedisBroker) -> None:
    async with broker.consume(MAIL, new_lease()) as consumer:
        delivery = await purge_one(broker, consumer)
        await consumer.settle([Nack(delivery, FAR)])
        assert await broker.find([delivery.envelope.id]) == [Status.SCHEDULED]

        assert await broker.purge(MAIL.name) == 0
        [again] = await take(consumer, 1)

    assert again.verdict == delivery.verdict


async def test_who_waits_for_something_to_do_is_woken_by_a_purge(
    broker: RedisBroker, link: Link, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("asyncq.drivers.redis.consumer.LONGEST_WAIT", FAR)
    await broker.publish([envelope(ends=ENDS, eta=now() + FAR)])
    async with broker.consume(MAIL, new_lease()) as consumer:
        assert not await consumer.receive(1)
        await link("DEL", f"{base_of(broker)}:wake")

        with fail_after(PATIENCE):
            async with create_task_group() as group:
                group.start_soon(consumer.wait)
                await broker.purge(MAIL.name)
        [delivery] = await consumer.receive(1)

    assert delivery.verdict


@pytest.mark.parametrize("ends", [(), ENDS])
async def test_however_many_are_late_none_is_lost(
    broker: RedisBroker, ends: tuple[End, ...]
) -> None:
    count = 2 * MAX_BATCH * (MAX_PRIORITY + 1)
    await broker.declare([Queue(MAIL.name, ttl=TTL)])
    for priority in range(MAX_PRIORITY + 1):
        await publish_all(broker, envelopes(2 * MAX_BATCH, priority=priority, ends=ends))
    await sleep(2 * TTL)

    taken: list[Delivery] = []
    async with broker.consume(MAIL, new_lease()) as consumer:
        with fail_after(PATIENCE):
            while (await broker.depth(MAIL.name)).ready:
                taken += await consumer.receive(MAX_BATCH)

        assert all(each.verdict for each in taken)
        assert len(set(ids_of(taken))) == (count if ends else 0)
        assert (await broker.depth(MAIL.name)).dead == (0 if ends else count)
