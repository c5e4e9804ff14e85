"""What a broker with `Leased` promises of suspects: each worker runs one at a time."""

import pytest
from anyio import create_memory_object_stream, create_task_group, fail_after

from asyncq.brokers.base import Ack, Delivery, Nack, Reject
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


class LaneContract(DriverFixtures):
    """Suspects run one at a time for each worker."""

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

    async def test_each_worker_has_a_lane_of_its_own(self, broker: FullBroker) -> None:
        await make_suspects(broker, envelopes(3))
        async with (
            broker.consume(MAIL, new_lease()) as one,
            broker.consume(MAIL, new_lease()) as two,
        ):
            held = [*await one.receive(10), *await two.receive(10)]

        assert len(set(ids_of(held))) == 2

    async def test_a_worker_has_one_lane_for_all_its_queues(self, broker: FullBroker) -> None:
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

    async def test_no_suspect_comes_while_the_lane_is_taken(self, broker: FullBroker) -> None:
        await make_suspects(broker, envelopes(1))
        lease = new_lease()
        async with broker.consume(MAIL, lease) as consumer:
            assert lease.take_lane()
            assert list(await consumer.receive(10)) == []

            lease.free_lane()
            assert len(await consumer.receive(10)) == 1

    async def test_the_lane_stays_free_when_no_suspect_came(self, broker: FullBroker) -> None:
        lease = new_lease()
        async with broker.consume(MAIL, lease) as consumer:
            await consumer.receive(10)
            assert lease.take_lane()
            lease.free_lane()

            await broker.publish(envelopes(2))
            await consumer.receive(10)
            assert lease.take_lane()

    async def test_leaving_does_not_free_a_lane_that_another_queue_has(
        self, broker: FullBroker
    ) -> None:
        lease = new_lease()
        assert lease.take_lane()
        async with broker.consume(MAIL, lease) as consumer:
            await consumer.receive(10)

        assert not lease.take_lane()

    @pytest.mark.parametrize("way", ["ack", "nack", "delay", "replace", "reject", "fenced"])
    async def test_the_lane_is_free_once_the_suspect_is_settled(
        self, broker: FullBroker, way: str
    ) -> None:
        await make_suspects(broker, envelopes(1))
        lease = new_lease()
        async with broker.consume(MAIL, lease) as consumer:
            [suspect] = await take(consumer, 1)
            assert not lease.take_lane()
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
            assert lease.take_lane()

    async def test_the_lane_is_free_once_the_worker_has_left_the_queue(
        self, broker: FullBroker
    ) -> None:
        await make_suspects(broker, envelopes(1))
        lease = new_lease()
        async with broker.consume(MAIL, lease) as consumer:
            await take(consumer, 1)
            assert not lease.take_lane()

        assert lease.take_lane()

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
