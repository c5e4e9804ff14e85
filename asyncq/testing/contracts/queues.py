"""What every broker promises of declared queues: bounds that hold, and lose nothing."""

from collections.abc import Sequence

import pytest
from anyio import create_task_group, fail_after
from anyio.lowlevel import checkpoint

from asyncq.errors import QueueFull
from asyncq.language.envelope import Envelope
from asyncq.language.message import Status
from asyncq.language.topology import Queue
from asyncq.seams.admin import DeadLetter
from asyncq.seams.broker import (
    MAX_BATCH,
    OVERFLOWED,
    WAITED_TOO_LONG,
    Ack,
    Consumer,
    Delivery,
    Nack,
    Reject,
)
from asyncq.testing.contracts.given import (
    FAR,
    MAIL,
    NEWS,
    PATIENCE,
    DriverFixtures,
    FullBroker,
    bodies_of,
    end_lease,
    envelope,
    envelopes,
    ids_of,
    new_lease,
    now,
    publish_all,
    sweep,
    take,
)

TTL = 0.05  # seconds
SOON = 4.0  # seconds for many wake-ups; one that is missed alone may cost more


class QueueContract(DriverFixtures):
    """Time to wait, length, one active worker, priorities."""

    async def test_a_queue_without_bounds_is_as_one_that_is_not_declared(
        self, broker: FullBroker
    ) -> None:
        sent = [envelope(priority=priority) for priority in range(10)]

        await broker.declare([Queue(MAIL.name), Queue(NEWS.name)])
        await broker.publish(sent)
        async with broker.consume(MAIL, new_lease()) as consumer:
            assert ids_of(await take(consumer, 10)) == ids_of(sent)[::-1]

    async def test_what_is_declared_holds_for_every_client_until_it_is_declared_anew(
        self, broker: FullBroker, other_broker: FullBroker
    ) -> None:
        await broker.declare([Queue(MAIL.name, max_length=1)])
        await broker.publish(envelopes(1))

        with pytest.raises(QueueFull):
            await other_broker.publish(envelopes(1))
        await other_broker.declare([Queue(MAIL.name, max_length=2)])
        await broker.publish(envelopes(1))
        with pytest.raises(QueueFull):
            await broker.publish(envelopes(1))
        await broker.declare([Queue(MAIL.name)])
        await other_broker.publish(envelopes(5))
        assert (await broker.depth(MAIL.name)).ready == 7

    # Time to wait

    async def test_what_waits_too_long_is_a_dead_letter_with_the_reason(
        self, broker: FullBroker
    ) -> None:
        late = envelope(b"late", headers={"a": 1}, priority=3)
        await broker.declare([Queue(MAIL.name, ttl=TTL)])
        await broker.publish([late, envelope(b"elsewhere", queue=NEWS.name)])
        await _pass(TTL)

        async with (
            broker.consume(MAIL, new_lease()) as consumer,
            broker.consume(NEWS, new_lease()) as other,
        ):
            assert await _until_buried(broker, consumer, 1) == []
            assert bodies_of(await other.receive(10)) == [b"elsewhere"]
        [letter] = await broker.dead_letters(MAIL.name)
        assert letter.envelope == late
        assert letter.reason.startswith(f"{WAITED_TOO_LONG}: ")
        assert letter.crashes == 0
        assert list(await broker.find([late.id])) == [Status.FAILED]

    async def test_the_wait_begins_when_the_message_is_due(self, broker: FullBroker) -> None:
        await broker.declare([Queue(MAIL.name, ttl=FAR / 2)])
        await broker.publish([envelope(b"soon", eta=now() + 0.1), envelope(eta=now() + FAR)])

        async with broker.consume(MAIL, new_lease()) as consumer:
            assert bodies_of(await take(consumer, 1)) == [b"soon"]
        assert (await broker.depth(MAIL.name)).delayed == 1

    async def test_a_delayed_message_may_wait_too_long_as_well(self, broker: FullBroker) -> None:
        await broker.declare([Queue(MAIL.name, ttl=TTL)])
        await broker.publish([envelope(eta=now() + 0.1)])
        await _pass(0.1 + TTL)

        async with broker.consume(MAIL, new_lease()) as consumer:
            assert await _until_buried(broker, consumer, 1) == []

    async def test_what_a_worker_took_in_time_does_not_wait_too_long_any_more(
        self, broker: FullBroker
    ) -> None:
        await broker.declare([Queue(MAIL.name, ttl=1.0)])
        dying = new_lease()
        sent = envelopes(5)
        async with (
            broker.consume(MAIL, dying) as dead,
            broker.consume(MAIL, new_lease()) as consumer,
        ):
            await broker.publish(sent)
            await take(dead, 1)
            back, later, replaced, _ = await take(consumer, 4)
            await _pass(1.0)
            again = envelope(b"3", id=replaced.envelope.id)
            await consumer.settle(
                [Nack(back), Nack(later, delay=0.01), Nack(replaced, replacement=again)]
            )
            await end_lease(broker, dying)
            await sweep(broker, 1)
            # And it leaves with the last one in its hands.

        async with broker.consume(MAIL, new_lease()) as consumer:
            assert set(ids_of(await take(consumer, 5))) == set(ids_of(sent))

    async def test_many_that_waited_too_long_keep_no_other_waiting(
        self, broker: FullBroker
    ) -> None:
        await broker.declare([Queue(MAIL.name, ttl=TTL)])
        await publish_all(broker, envelopes(3 * MAX_BATCH))
        await _pass(TTL)
        await broker.declare([Queue(MAIL.name, ttl=FAR)])
        await broker.publish([envelope(b"fresh")])

        async with broker.consume(MAIL, new_lease()) as consumer:
            assert bodies_of(await take(consumer, 1)) == [b"fresh"]
            assert list(await consumer.receive(10)) == []
        assert (await broker.depth(MAIL.name)).dead == 3 * MAX_BATCH

    async def test_a_dead_letter_that_is_replayed_has_no_such_haste(
        self, broker: FullBroker
    ) -> None:
        await broker.declare([Queue(MAIL.name, ttl=TTL)])
        await broker.publish([envelope(id="1")])
        await _pass(TTL)
        async with broker.consume(MAIL, new_lease()) as consumer:
            await _until_buried(broker, consumer, 1)
            await broker.replay(MAIL.name, ["1"])
            await _pass(TTL)
            assert ids_of(await take(consumer, 1)) == ["1"]

    # Length

    async def test_a_full_queue_refuses_what_there_is_no_room_for(self, broker: FullBroker) -> None:
        sent = envelopes(10)
        await broker.declare([Queue(MAIL.name, max_length=4)])

        with pytest.raises(QueueFull, match=r"queue mail is full.*4") as caught:
            await broker.publish(sent)

        assert (caught.value.queue, caught.value.limit) == (MAIL.name, 4)
        assert caught.value.envelope_id == sent[4].id
        assert caught.value.envelope_ids == set(ids_of(sent[4:]))
        assert list(await broker.find(ids_of(sent))) == [Status.QUEUED] * 4 + [None] * 6
        async with broker.consume(MAIL, new_lease()) as consumer:
            assert ids_of(await take(consumer, 4)) == ids_of(sent[:4])

    async def test_a_full_queue_takes_again_what_it_has(self, broker: FullBroker) -> None:
        sent = envelopes(4)
        await broker.declare([Queue(MAIL.name, max_length=4)])
        await broker.publish(sent)

        await broker.publish(sent)
        new = envelope()
        with pytest.raises(QueueFull) as caught:
            await broker.publish([*sent, new, new, *sent])

        assert caught.value.envelope_ids == {new.id}
        assert (await broker.depth(MAIL.name)).ready == 4

    async def test_only_what_is_ready_takes_room(self, broker: FullBroker) -> None:
        await broker.declare([Queue(MAIL.name, max_length=2)])
        await broker.publish([envelope(eta=now() + FAR) for _ in range(5)])
        await broker.publish(envelopes(2))
        async with broker.consume(MAIL, new_lease()) as consumer:
            in_flight, dying = await take(consumer, 2)
            await consumer.settle([Reject(dying, "bad")])

            await broker.publish(envelopes(2))
            with pytest.raises(QueueFull):
                await broker.publish(envelopes(1))
            await consumer.settle([Nack(in_flight)])  # what was accepted has a place, full or not

        depth = await broker.depth(MAIL.name)
        assert (depth.ready, depth.delayed, depth.dead) == (3, 5, 1)

    async def test_other_queues_are_not_full(self, broker: FullBroker) -> None:
        await broker.declare([Queue(MAIL.name, max_length=1)])
        sent = [envelope(), envelope(), envelope(queue=NEWS.name)]

        with pytest.raises(QueueFull) as caught:
            await broker.publish(sent)
        left = [each for each in sent if each.id not in caught.value.envelope_ids]
        await broker.publish(left)  # as a client does

        assert list(await broker.find(ids_of(sent))) == [Status.QUEUED, None, Status.QUEUED]

    @pytest.mark.parametrize("at_once", [True, False])
    async def test_the_oldest_gives_way_to_the_new(
        self, broker: FullBroker, *, at_once: bool
    ) -> None:
        sent = envelopes(12)
        await broker.declare([Queue(MAIL.name, max_length=4, overflow="drop-head")])

        for batch in [sent] if at_once else [[each] for each in sent]:
            await broker.publish(batch)

        letters = await broker.dead_letters(MAIL.name)
        assert {letter.envelope.id for letter in letters} == set(ids_of(sent[:8]))
        assert all(letter.reason.startswith(f"{OVERFLOWED}: ") for letter in letters)
        assert _by_id(letters) == {each.id: each for each in sent[:8]}
        async with broker.consume(MAIL, new_lease()) as consumer:
            assert ids_of(await take(consumer, 4)) == ids_of(sent[8:])

    async def test_a_limit_that_is_lowered_holds_with_the_next_message(
        self, broker: FullBroker
    ) -> None:
        await broker.publish(envelopes(20))
        await broker.declare([Queue(MAIL.name, max_length=5, overflow="drop-head")])

        await broker.publish([envelope(b"new")])

        depth = await broker.depth(MAIL.name)
        assert (depth.ready, depth.dead) == (5, 16)

    # One active worker

    async def test_one_worker_at_a_time_is_handed_messages(self, broker: FullBroker) -> None:
        await broker.declare([Queue(MAIL.name, single_active=True)])
        await broker.publish(envelopes(6))
        async with broker.consume(MAIL, new_lease()) as other:
            async with broker.consume(MAIL, new_lease()) as active:
                assert bodies_of(await active.receive(2)) == [b"0", b"1"]
                assert list(await other.receive(10)) == []
                assert bodies_of(await active.receive(2)) == [b"2", b"3"]

            # It has left, and given back.
            assert sorted(bodies_of(await take(other, 6))) == [b"0", b"1", b"2", b"3", b"4", b"5"]

    async def test_another_takes_over_when_the_active_one_died(self, broker: FullBroker) -> None:
        await broker.declare([Queue(MAIL.name, single_active=True)])
        await broker.publish(envelopes(2))
        lease = new_lease()
        async with (
            broker.consume(MAIL, lease) as active,
            broker.consume(MAIL, new_lease()) as other,
        ):
            [in_flight] = await active.receive(1)
            assert list(await other.receive(10)) == []
            await end_lease(broker, lease)
            await sweep(broker, 1)

            assert {each.envelope.body for each in await take(other, 2)} == {b"0", b"1"}
            assert ids_of(await active.settle([Ack(in_flight)])) == [in_flight.envelope.id]

    async def test_who_stands_by_is_woken_when_the_active_one_leaves(
        self, broker: FullBroker
    ) -> None:
        await broker.declare([Queue(MAIL.name, single_active=True)])
        await broker.publish(envelopes(1))

        async def stand_by() -> None:
            async with broker.consume(MAIL, new_lease()) as other:
                assert list(await other.receive(1)) == []
                waiting.append(1)
                await take(other, 1)

        waiting: list[int] = []
        with fail_after(SOON):
            async with create_task_group() as group, broker.consume(MAIL, new_lease()) as active:
                await take(active, 1)
                group.start_soon(stand_by)
                while not waiting:
                    await checkpoint()

    async def test_who_stands_by_takes_no_wake_ups(self, broker: FullBroker) -> None:
        await broker.declare([Queue(MAIL.name, single_active=True)])
        async with (
            broker.consume(MAIL, new_lease()) as active,
            broker.consume(MAIL, new_lease()) as other,
        ):
            await active.receive(1)
            with fail_after(SOON):
                async with create_task_group() as group:
                    group.start_soon(_wait_on, other)
                    for _ in range(20):
                        [sent] = envelopes(1)
                        group.start_soon(broker.publish, [sent])
                        [delivery] = await take(active, 1)
                        await active.settle([Ack(delivery)])
                    group.cancel_scope.cancel()

    # Priorities

    async def test_a_priority_above_the_highest_counts_as_that(self, broker: FullBroker) -> None:
        await broker.declare([Queue(MAIL.name, max_priority=3)])
        await broker.publish(
            [
                envelope(b"low", priority=2),
                envelope(b"three", priority=3),
                envelope(b"nine", priority=9),
                envelope(b"last", priority=3),
            ]
        )

        async with broker.consume(MAIL, new_lease()) as consumer:
            taken = await take(consumer, 4)
            assert bodies_of(taken) == [b"three", b"nine", b"last", b"low"]
            nine = taken[1]
            again = envelope(b"again", id=nine.envelope.id, priority=9)
            await consumer.settle([Nack(nine, replacement=again), *map(Ack, _others(taken, nine))])
            await broker.publish([envelope(b"new", priority=3), envelope(b"newer", priority=9)])
            assert bodies_of(await take(consumer, 3)) == [b"again", b"new", b"newer"]


async def _pass(seconds: float) -> None:
    """Return when the moment is over for every broker: theirs may be whole milliseconds."""
    end = now() + seconds + 0.01
    while now() < end:
        await checkpoint()


async def _until_buried(broker: FullBroker, consumer: Consumer, count: int) -> list[Delivery]:
    """Look for messages until there are so many dead letters; those that were handed out."""
    received: list[Delivery] = []
    with fail_after(PATIENCE):
        while (await broker.depth(MAIL.name)).dead < count:
            received += await consumer.receive(10)
    return received


async def _wait_on(consumer: Consumer) -> None:
    while True:
        assert list(await consumer.receive(10)) == []
        await consumer.wait()


def _others(deliveries: list[Delivery], but: Delivery) -> list[Delivery]:
    return [delivery for delivery in deliveries if delivery is not but]


def _by_id(letters: Sequence[DeadLetter]) -> dict[str, Envelope]:
    return {letter.envelope.id: letter.envelope for letter in letters}
