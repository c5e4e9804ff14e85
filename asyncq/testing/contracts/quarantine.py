"""What a broker with `Leased` promises of suspects: each worker has one quarantine for them."""

from collections.abc import Sequence

import pytest
from anyio import create_memory_object_stream, create_task_group, fail_after

from asyncq.language.envelope import Envelope
from asyncq.seams.broker import Ack, Delivery, Nack, Reject
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
    make_suspects,
    new_lease,
    sweep,
    take,
)

SOON = 4.0  # seconds; one missed wake-up alone may cost more


class QuarantineContract(DriverFixtures):
    """Suspects run together while they have few crashes, and alone with as many as are told."""

    async def test_a_worker_gets_one_suspect_at_a_time(self, broker: FullBroker) -> None:
        await make_suspects(broker, envelopes(3))
        await broker.publish([envelope(b"new"), envelope(b"newer")])
        async with broker.consume(MAIL, new_lease()) as consumer:
            first = await consumer.receive(10)
            assert [delivery.suspect for delivery in first].count(True) == 1
            assert len(first) == 3
            assert list(await consumer.receive(10)) == []

            await consumer.settle([Ack(delivery) for delivery in first])
            [second] = await consumer.receive(10)
            assert second.suspect

    async def test_new_messages_pass_while_a_suspect_runs(self, broker: FullBroker) -> None:
        await make_suspects(broker, envelopes(2))
        async with broker.consume(MAIL, new_lease()) as consumer:
            await take(consumer, 1)
            await broker.publish([envelope(b"new")])

            assert bodies_of(await take(consumer, 1)) == [b"new"]

    async def test_suspects_with_few_crashes_come_together(self, broker: FullBroker) -> None:
        await make_suspects(broker, envelopes(5))
        await broker.publish([envelope(b"new")])
        async with broker.consume(MAIL, new_lease(alone_from=2)) as consumer:
            in_flight = list(await consumer.receive(10))

            assert [delivery.suspect for delivery in in_flight] == [True] * 5 + [False]
            assert {delivery.crashes for delivery in in_flight[:5]} == {1}

    async def test_no_more_come_than_are_asked_for(self, broker: FullBroker) -> None:
        await make_suspects(broker, envelopes(5))
        await broker.publish([envelope(b"new")])
        async with broker.consume(MAIL, new_lease(alone_from=2)) as consumer:
            assert list(await consumer.receive(0)) == []
            first = await consumer.receive(3)
            assert [delivery.suspect for delivery in first] == [True] * 3
            rest = await consumer.receive(10)
            assert [delivery.suspect for delivery in rest] == [True, True, False]
            assert len({*ids_of(first), *ids_of(rest)}) == 6

    async def test_who_is_to_be_alone_waits_until_all_the_others_are_settled(
        self, broker: FullBroker
    ) -> None:
        await make_suspects(broker, envelopes(2))
        lease = new_lease(alone_from=2)
        async with broker.consume(MAIL, lease) as consumer:
            one, two = await consumer.receive(2)
            await _make_twice_suspect(broker, [envelope(b"bad")])
            assert list(await consumer.receive(10)) == []
            await broker.publish([envelope(b"new")])
            assert bodies_of(await take(consumer, 1)) == [b"new"]
            await consumer.settle([Ack(one)])
            assert list(await consumer.receive(10)) == []

            await consumer.settle([Reject(two, "bad")])
            assert bodies_of(await take(consumer, 1)) == [b"bad"]

    async def test_what_one_queue_brought_to_the_quarantine_counts_in_another(
        self, broker: FullBroker
    ) -> None:
        await make_suspects(broker, envelopes(2))
        await make_suspects(broker, envelopes(1, queue=NEWS.name))
        lease = new_lease(alone_from=2)
        async with (
            broker.consume(MAIL, lease) as of_mail,
            broker.consume(NEWS, lease) as of_news,
        ):
            mail = await of_mail.receive(10)
            news = await of_news.receive(10)
            assert (len(mail), len(news)) == (2, 1)

            await of_mail.settle([Ack(delivery) for delivery in mail])
            assert not lease.quarantine.is_empty
            await of_news.settle([Ack(delivery) for delivery in news])
            assert lease.quarantine.is_empty

    @pytest.mark.parametrize("behind", [False, True])
    async def test_a_suspect_at_its_last_chance_is_alone(
        self, broker: FullBroker, behind: bool
    ) -> None:
        both = [make_suspects, _make_twice_suspect]
        for make in both if behind else reversed(both):
            await make(broker, envelopes(2))
        groups: list[list[int]] = []
        async with broker.consume(MAIL, new_lease(alone_from=2)) as consumer:
            for _ in range(3):
                group = await consumer.receive(10)
                groups.append([delivery.crashes for delivery in group])
                await consumer.settle([Ack(delivery) for delivery in group])

        assert groups == ([[1, 1], [2], [2]] if behind else [[2], [2], [1, 1]])

    async def test_a_crash_is_charged_to_all_suspects_in_the_quarantine_and_to_nobody_else(
        self, broker: FullBroker
    ) -> None:
        await make_suspects(broker, [envelope(b"one"), envelope(b"two"), envelope(b"done")])
        await broker.publish([envelope(b"new")])
        lease = new_lease(alone_from=2)
        async with broker.consume(MAIL, lease) as consumer:
            in_flight = {each.envelope.body: each for each in await consumer.receive(10)}
            await consumer.settle([Ack(in_flight[b"done"])])
            await end_lease(broker, lease)
            await sweep(broker, 3)

        found: dict[bytes, int] = {}
        async with broker.consume(MAIL, new_lease()) as consumer:
            for _ in range(3):
                [delivery] = await take(consumer, 1)
                found[delivery.envelope.body] = delivery.crashes
                await consumer.settle([Ack(delivery)])
        assert found == {b"one": 2, b"two": 2, b"new": 0}

    async def test_a_crash_after_the_last_suspect_left_is_charged_to_all(
        self, broker: FullBroker
    ) -> None:
        await make_suspects(broker, [envelope(b"one"), envelope(b"two")])
        await broker.publish([envelope(b"new")])
        lease = new_lease(alone_from=2)
        async with broker.consume(MAIL, lease) as consumer:
            one, two, _ = await consumer.receive(10)
            await consumer.settle([Ack(one)])
            await consumer.settle([Nack(two, delay=FAR)])
            await end_lease(broker, lease)
            await sweep(broker, 1)

        async with broker.consume(MAIL, new_lease()) as consumer:
            [delivery] = await take(consumer, 1)
        assert (delivery.envelope.body, delivery.crashes) == (b"new", 1)

    async def test_each_worker_has_a_quarantine_of_its_own(self, broker: FullBroker) -> None:
        await make_suspects(broker, envelopes(3))
        async with (
            broker.consume(MAIL, new_lease()) as one,
            broker.consume(MAIL, new_lease()) as two,
        ):
            in_flight = [*await one.receive(10), *await two.receive(10)]

        assert len(set(ids_of(in_flight))) == 2

    async def test_a_worker_has_one_quarantine_for_all_its_queues(self, broker: FullBroker) -> None:
        await make_suspects(broker, envelopes(2))
        await make_suspects(broker, envelopes(2, queue=NEWS.name))
        lease = new_lease()
        async with (
            broker.consume(MAIL, lease) as of_mail,
            broker.consume(NEWS, lease) as of_news,
        ):
            [suspect] = await of_mail.receive(10)
            assert list(await of_news.receive(10)) == []

            await of_mail.settle([Nack(suspect, delay=FAR)])
            assert len(await of_news.receive(10)) == 1
            assert list(await of_mail.receive(10)) == []

    async def test_no_suspect_comes_while_the_quarantine_is_taken(self, broker: FullBroker) -> None:
        await make_suspects(broker, envelopes(1))
        lease = new_lease()
        async with broker.consume(MAIL, lease) as consumer:
            admission = lease.quarantine.reserve()
            assert list(await consumer.receive(10)) == []

            lease.quarantine.occupy(admission)
            assert len(await consumer.receive(10)) == 1

    async def test_the_quarantine_stays_free_when_no_suspect_came(self, broker: FullBroker) -> None:
        lease = new_lease()
        async with broker.consume(MAIL, lease) as consumer:
            await consumer.receive(10)
            assert lease.quarantine.is_empty

            await broker.publish(envelopes(2))
            await consumer.receive(10)
            assert lease.quarantine.is_empty

    async def test_leaving_does_not_free_a_quarantine_that_another_queue_has(
        self, broker: FullBroker
    ) -> None:
        lease = new_lease()
        lease.quarantine.reserve()
        async with broker.consume(MAIL, lease) as consumer:
            await consumer.receive(10)

        assert not lease.quarantine.is_empty

    @pytest.mark.parametrize("way", ["ack", "nack", "delay", "replace", "reject", "fenced"])
    async def test_the_quarantine_is_free_once_the_suspect_is_settled(
        self, broker: FullBroker, way: str
    ) -> None:
        await make_suspects(broker, envelopes(1))
        lease = new_lease()
        async with broker.consume(MAIL, lease) as consumer:
            [suspect] = await take(consumer, 1)
            assert not lease.quarantine.is_empty
            if way == "fenced":
                await end_lease(broker, lease)
                await sweep(broker, 1)
            replacement = envelope(id=suspect.envelope.id)
            settlement = {
                "nack": Nack(suspect),
                "delay": Nack(suspect, delay=FAR),
                "replace": Nack(suspect, replacement=replacement),
                "reject": Reject(suspect, "bad"),
            }.get(way, Ack(suspect))

            fenced = await consumer.settle([settlement])

            assert len(fenced) == (1 if way == "fenced" else 0)
            assert lease.quarantine.is_empty

    async def test_the_quarantine_is_free_once_the_worker_has_left_the_queue(
        self, broker: FullBroker
    ) -> None:
        await make_suspects(broker, envelopes(1))
        lease = new_lease()
        async with broker.consume(MAIL, lease) as consumer:
            await take(consumer, 1)
            assert not lease.quarantine.is_empty

        assert lease.quarantine.is_empty

    async def test_a_suspect_that_is_given_back_stays_a_suspect(self, broker: FullBroker) -> None:
        await make_suspects(broker, [envelope()])
        async with broker.consume(MAIL, new_lease()) as consumer:
            [given_back] = await take(consumer, 1)
            await consumer.settle([Nack(given_back)])
            [delayed] = await take(consumer, 1)
            await consumer.settle([Nack(delayed, delay=0.01)])
            await take(consumer, 1)  # and it leaves with the suspect in its hands

        async with broker.consume(MAIL, new_lease()) as consumer:
            [again] = await take(consumer, 1)
        for delivery in (given_back, delayed, again):
            assert (delivery.crashes, delivery.suspect) == (1, True)

    async def test_a_worker_that_waits_is_told_of_a_suspect(self, broker: FullBroker) -> None:
        await make_suspects(broker, envelopes(1))
        async with broker.consume(MAIL, new_lease()) as consumer:
            with fail_after(PATIENCE):
                await consumer.wait()
            assert len(await take(consumer, 1)) == 1

    async def test_a_settled_suspect_makes_room_for_the_next_at_once(
        self, broker: FullBroker
    ) -> None:
        await make_suspects(broker, envelopes(40))
        done: list[str] = []
        async with broker.consume(MAIL, new_lease()) as consumer, create_task_group() as group:
            ends, ended = create_memory_object_stream[Delivery](40)

            async def settle_them() -> None:
                async with ended:
                    async for delivery in ended:
                        await consumer.settle([Ack(delivery)])
                        done.append(delivery.envelope.id)

            group.start_soon(settle_them)
            # As a worker does: it waits for more while what it has is being settled. A wake-up
            # that is missed costs seconds each time.
            with ends, fail_after(SOON):
                for _ in range(40):
                    [suspect] = await take(consumer, 1)
                    await ends.send(suspect)

        assert len(set(done)) == 40


async def _make_twice_suspect(broker: FullBroker, batch: Sequence[Envelope]) -> None:
    """Publish messages that two workers die with, one after the other."""
    await make_suspects(broker, batch)
    lease = new_lease(alone_from=2)
    async with broker.consume(MAIL, lease) as consumer:
        assert len(await take(consumer, len(batch))) == len(batch)
        await end_lease(broker, lease)
        await sweep(broker, len(batch))
