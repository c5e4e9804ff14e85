"""What a broker with `QueueAdmin` promises an operator: to see, to stop, to repeat."""

import msgspec
import pytest

from asyncq.language.message import Status, new_id
from asyncq.seams.admin import Depth
from asyncq.seams.broker import MAX_BATCH, Ack, Nack, Reject
from asyncq.testing.contracts.given import (
    FAR,
    MAIL,
    NEWS,
    DriverFixtures,
    FullBroker,
    envelope,
    envelopes,
    ids_of,
    make_suspects,
    new_lease,
    now,
    take,
)


class AdminContract(DriverFixtures):
    """Queues, depths, finding and purging."""

    # Seeing

    async def test_queues_are_listed_by_name(self, broker: FullBroker) -> None:
        assert list(await broker.queues()) == []

        await broker.publish([envelope(queue=name) for name in ("b.c", "a-1", "B", "a-1")])
        async with broker.consume(NEWS, new_lease()) as consumer:
            await consumer.receive(1)

        names = [name for name in await broker.queues() if name != NEWS.name]
        assert names == ["B", "a-1", "b.c"]

    async def test_a_queue_is_listed_when_it_is_empty_again(self, broker: FullBroker) -> None:
        await broker.publish([envelope()])
        await broker.purge(MAIL.name)

        assert list(await broker.queues()) == [MAIL.name]

    async def test_an_unknown_queue_is_empty(self, broker: FullBroker) -> None:
        assert await broker.depth("nowhere") == Depth()
        assert await broker.purge("nowhere") == 0
        assert list(await broker.dead_letters("nowhere")) == []
        assert list(await broker.replay("nowhere", ["1"])) == []
        assert await broker.delete_dead("nowhere", ["1"]) == 0

    async def test_depth_counts_messages_by_where_they_are(self, broker: FullBroker) -> None:
        await make_suspects(broker, envelopes(1))
        await broker.publish([*envelopes(5), *envelopes(2, eta=now() + FAR)])
        lease = new_lease()
        lease.quarantine.reserve()  # so that the suspect stays where it is
        async with broker.consume(MAIL, lease) as consumer:
            [_, later, dying] = await take(consumer, 3)
            await consumer.settle([Nack(later, delay=FAR), Reject(dying, "bad")])
            depth = await broker.depth(MAIL.name)

        assert (depth.ready, depth.delayed, depth.in_flight, depth.dead) == (3, 3, 1, 1)
        assert await broker.depth(NEWS.name) == Depth()

    async def test_the_age_is_that_of_the_first_message_waiting(self, broker: FullBroker) -> None:
        await broker.publish(
            [
                envelope(sent_at=now() - 500, eta=now() + FAR),
                envelope(sent_at=now() - 100),
                envelope(sent_at=now() - 50),
            ]
        )
        ages = [(await broker.depth(MAIL.name)).oldest_age]
        async with broker.consume(MAIL, new_lease()) as consumer:
            for _ in range(2):
                await take(consumer, 1)
                ages.append((await broker.depth(MAIL.name)).oldest_age)

        assert ages == [pytest.approx(100, abs=10), pytest.approx(50, abs=10), None]

    async def test_every_message_is_found_where_it_is(self, broker: FullBroker) -> None:
        ready, delayed = envelope(), envelope(queue=NEWS.name, eta=now() + FAR)
        in_flight, dead, done = (envelope(priority=9) for _ in range(3))
        await broker.publish([ready, delayed, in_flight, dead, done])
        async with broker.consume(MAIL, new_lease()) as consumer:
            [_, dying, doing] = await take(consumer, 3)
            await consumer.settle([Reject(dying, "bad"), Ack(doing)])

            sought = [*ids_of([ready, delayed, in_flight, dead, done]), new_id()]
            found = await broker.find(sought)
            looked_at = await broker.envelopes(sought)

        assert list(found) == [
            Status.QUEUED,
            Status.SCHEDULED,
            Status.RUNNING,
            Status.FAILED,
            None,
            None,
        ]
        assert list(looked_at) == [ready, delayed, in_flight, None, None, None]

    async def test_what_was_given_back_for_later_says_when_it_is_due(
        self, broker: FullBroker
    ) -> None:
        sent = [envelope(priority=7), envelope(), envelope()]
        await broker.publish(sent)
        async with broker.consume(MAIL, new_lease()) as consumer:
            later, again, _ = await take(consumer, 3)
            due = now() + FAR
            asked = msgspec.structs.replace(again.envelope, eta=due + FAR)
            await consumer.settle([Nack(later, delay=FAR), Nack(again, 0.0, asked)])

            looked_at = await broker.envelopes(ids_of(sent))

        etas = [None if each is None else each.eta for each in looked_at]
        assert etas == [pytest.approx(due, abs=5), pytest.approx(due + FAR, abs=5), None]
        assert looked_at[0] == msgspec.structs.replace(sent[0], eta=etas[0])

    async def test_a_suspect_is_found_in_the_queue(self, broker: FullBroker) -> None:
        sent = envelopes(2)
        await make_suspects(broker, sent)

        assert list(await broker.find(ids_of(sent))) == [Status.QUEUED, Status.QUEUED]

    async def test_a_full_batch_is_found(self, broker: FullBroker) -> None:
        sent = envelopes(MAX_BATCH)
        await broker.publish(sent)

        assert list(await broker.find(ids_of(sent))) == [Status.QUEUED] * MAX_BATCH
        assert list(await broker.find([])) == []

    # Peeking

    async def test_what_waits_is_shown_in_its_order_and_not_taken(self, broker: FullBroker) -> None:
        suspect, later = envelope(b"suspect"), envelope(b"later", eta=now() + FAR)
        sooner = envelope(b"sooner", eta=now() + FAR / 2)
        low, high = envelope(b"low", headers={"a": 1}), envelope(b"high", priority=9)
        last = envelope(b"last")
        await make_suspects(broker, [suspect])
        await broker.publish([later, low, high, sooner, last, envelope(queue=NEWS.name)])

        seen = await broker.peek(MAIL.name)
        pages = [await broker.peek(MAIL.name, limit=2, offset=at) for at in (0, 2, 4, 6)]

        expected = [suspect, high, low, last, sooner, later]
        assert [each.envelope for each in seen] == expected
        assert [each.crashes for each in seen] == [1, 0, 0, 0, 0, 0]
        assert [each.due for each in seen[:4]] == [None] * 4
        assert [each.due for each in seen[4:]] == [
            pytest.approx(sooner.eta, abs=0.01),
            pytest.approx(later.eta, abs=0.01),
        ]
        assert [each for page in pages for each in page] == list(seen)
        assert [len(page) for page in pages] == [2, 2, 2, 0]
        async with broker.consume(MAIL, new_lease()) as consumer:
            taken = await take(consumer, 4)
            assert ids_of(taken) == ids_of(expected[:4])
            assert taken[0].crashes == 1
            assert not any(each.suspect for each in taken[1:])
            assert [each.envelope for each in await broker.peek(MAIL.name)] == [sooner, later]

    async def test_nothing_waits_in_an_unknown_queue(self, broker: FullBroker) -> None:
        assert list(await broker.peek("nowhere")) == []
        assert list(await broker.peek("nowhere", limit=5, offset=5)) == []

    # Purging

    async def test_purging_removes_what_waits_and_nothing_else(self, broker: FullBroker) -> None:
        await broker.publish(envelopes(2, priority=9))
        async with broker.consume(MAIL, new_lease()) as consumer:
            [in_flight, dying] = await take(consumer, 2)
            await consumer.settle([Reject(dying, "bad")])
            await make_suspects(broker, envelopes(2))
            await broker.publish([*envelopes(3), *envelopes(3, eta=now() + FAR)])
            await broker.publish([envelope(queue=NEWS.name)])

            assert await broker.purge(MAIL.name) == 8
            depth = await broker.depth(MAIL.name)
            assert (depth.ready, depth.delayed, depth.in_flight, depth.dead) == (0, 0, 1, 1)
            assert list(await consumer.receive(10)) == []
            assert list(await consumer.settle([Ack(in_flight)])) == []

        assert (await broker.depth(NEWS.name)).ready == 1

    async def test_what_was_purged_may_be_published_again(self, broker: FullBroker) -> None:
        sent = envelopes(3)
        await make_suspects(broker, sent)
        await broker.purge(MAIL.name)

        await broker.publish(sent)
        async with broker.consume(MAIL, new_lease()) as consumer:
            taken = await consumer.receive(10)

        assert ids_of(taken) == ids_of(sent)
        assert not any(delivery.crashes or delivery.suspect for delivery in taken)

    async def test_a_large_queue_is_purged_whole(self, broker: FullBroker) -> None:
        for _ in range(4):
            await broker.publish([*envelopes(300), *envelopes(200, eta=now() + FAR)])

        assert await broker.purge(MAIL.name) == 2000
        assert await broker.depth(MAIL.name) == Depth()
