"""What every consumer promises: waiting, claiming, leaving, and being cancelled at any point."""

import random
from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

import pytest
from anyio import CancelScope, create_task_group, current_time, fail_after, sleep
from anyio.lowlevel import checkpoint

from asyncq.errors import BrokerUnavailable
from asyncq.language.envelope import Envelope
from asyncq.seams.broker import MAX_BATCH, Ack, Broker, Consumer, Delivery, Nack
from asyncq.testing.contracts.given import (
    FAR,
    MAIL,
    NEWS,
    PATIENCE,
    DriverFixtures,
    envelope,
    envelopes,
    ids_of,
    new_lease,
    now,
    publish_all,
    take,
)

IDLE_LONGEST = 10.0  # seconds within which `wait` returns even if nothing happens
ROUNDS = 10
PROMPT = 0.5  # seconds, on average, from a publish to the worker that waited for it


class ConsumerContract(DriverFixtures):
    """Consumers, alone and many."""

    # Waiting

    async def test_waiting_ends_by_itself(self, broker: Broker) -> None:
        async with broker.consume(MAIL, new_lease()) as consumer:
            with fail_after(IDLE_LONGEST):
                await consumer.wait()
            assert list(await consumer.receive(10)) == []

    async def test_waiting_ends_when_something_is_there_already(self, broker: Broker) -> None:
        async with broker.consume(MAIL, new_lease()) as consumer:
            begun = current_time()
            for _ in range(ROUNDS):
                await broker.publish([envelope()])
                taken: list[Delivery] = []
                while not taken:
                    await consumer.wait()
                    taken += await consumer.receive(1)

        assert current_time() - begun < ROUNDS * PROMPT

    @pytest.mark.parametrize("publisher", ["broker", "other_broker"])
    async def test_a_waiting_consumer_is_woken_by_a_message(
        self, broker: Broker, other_broker: Broker, publisher: str
    ) -> None:
        sender = broker if publisher == "broker" else other_broker

        async with broker.consume(MAIL, new_lease()) as consumer:
            # Round after round: the turn of the clock alone would wake it too late too often.
            begun = current_time()
            for _ in range(ROUNDS):
                sent = envelope()
                async with create_task_group() as group:
                    group.start_soon(_publish_while_idle, sender, sent)
                    assert ids_of(await _wait_for(consumer, 1)) == [sent.id]

        assert current_time() - begun < ROUNDS * PROMPT

    async def test_a_waiting_consumer_is_woken_by_what_another_gives_back(
        self, broker: Broker
    ) -> None:
        self.needs(self.hands_out_what_is_asked_for, "to hand out what is asked for")
        async with (
            broker.consume(MAIL, new_lease()) as waiting,
            broker.consume(MAIL, new_lease()) as busy,
        ):
            begun = current_time()
            for _ in range(ROUNDS):
                await broker.publish([envelope()])
                [delivery] = await take(busy, 1)
                async with create_task_group() as group:
                    group.start_soon(_wait_and_acknowledge, waiting)
                    await checkpoint()
                    await busy.settle([Nack(delivery)])

        assert current_time() - begun < ROUNDS * PROMPT

    async def test_waiting_holds_nothing(self, broker: Broker) -> None:
        self.needs(self.hands_out_what_is_asked_for, "to hand out what is asked for")
        async with (
            broker.consume(MAIL, new_lease()) as idle,
            broker.consume(MAIL, new_lease()) as busy,
        ):
            await broker.publish(envelopes(3))
            await idle.wait()

            assert len(await busy.receive(10)) == 3

    async def test_waiting_says_nothing_of_other_queues(self, broker: Broker) -> None:
        async with broker.consume(NEWS, new_lease()) as consumer:
            await broker.publish(envelopes(3))

            assert list(await consumer.receive(10)) == []

    async def test_a_consumer_settles_while_it_waits(self, broker: Broker) -> None:
        await broker.publish(envelopes(2))
        async with broker.consume(MAIL, new_lease()) as consumer:
            in_flight = await take(consumer, 2)
            with fail_after(PATIENCE):
                async with create_task_group() as group:
                    group.start_soon(_wait_for, consumer, 1)
                    await checkpoint()
                    assert list(await consumer.settle([Ack(in_flight[0])])) == []
                    assert list(await consumer.settle([Nack(in_flight[1])])) == []

    # Claiming

    async def test_receiving_never_waits(self, broker: Broker) -> None:
        async with broker.consume(MAIL, new_lease()) as consumer:
            begun = current_time()
            for _ in range(ROUNDS):
                assert list(await consumer.receive(10)) == []

        assert current_time() - begun < ROUNDS * PROMPT

    async def test_no_more_is_received_than_asked_for(self, broker: Broker) -> None:
        await broker.publish(envelopes(20))
        async with broker.consume(MAIL, new_lease()) as consumer:
            sizes = [len(await consumer.receive(limit)) for limit in (1, 7, 2, MAX_BATCH)]

        assert sizes == [1, 7, 2, 10]

    async def test_two_consumers_never_hold_one_message(
        self, broker: Broker, other_broker: Broker
    ) -> None:
        sent = envelopes(50)
        await broker.publish(sent)
        async with (
            broker.consume(MAIL, new_lease()) as one,
            other_broker.consume(MAIL, new_lease()) as two,
        ):
            taken: list[Delivery] = []
            for _ in range(5):
                taken += await one.receive(5)
                taken += await two.receive(5)
            if not self.hands_out_what_is_asked_for:
                with fail_after(PATIENCE):
                    while len(taken) < len(sent):
                        taken += [*await one.receive(50), *await two.receive(50)]
                        await checkpoint()

        if self.hands_out_what_is_asked_for:
            assert ids_of(taken) == ids_of(sent)
        assert sorted(ids_of(taken)) == sorted(ids_of(sent))

    async def test_many_consumers_share_a_queue_without_overlap(
        self, broker: Broker, other_broker: Broker
    ) -> None:
        sent = envelopes(3000)
        taken: list[str] = []

        async def work(consumer: Consumer, done: CancelScope) -> None:
            while True:
                deliveries = await consumer.receive(random.randint(1, 40))  # noqa: S311 - a test
                taken.extend(ids_of(deliveries))
                if len(taken) >= len(sent):
                    done.cancel()
                # Some are settled at once and some stay in hand: neither may come twice.
                await consumer.settle([Ack(each) for each in deliveries if len(taken) % 2])
                if not deliveries:
                    await consumer.wait()

        with fail_after(PATIENCE * 2):
            async with AsyncExitStack() as stack:
                workers = [
                    await stack.enter_async_context(each.consume(MAIL, new_lease()))
                    for each in (broker, other_broker) * 10
                ]
                async with create_task_group() as group:
                    for worker in workers:
                        group.start_soon(work, worker, group.cancel_scope)
                    await publish_all(broker, sent)

        assert len(taken) == len(sent)
        assert set(taken) == set(ids_of(sent))

    async def test_a_message_wakes_an_idle_consumer_whoever_else_was_woken(
        self, broker: Broker
    ) -> None:
        async with AsyncExitStack() as stack:
            workers = [
                await stack.enter_async_context(broker.consume(MAIL, new_lease())) for _ in range(5)
            ]
            with fail_after(PATIENCE):
                async with create_task_group() as group:
                    for worker in workers:
                        group.start_soon(_wait_for, worker, 1)
                    await checkpoint()
                    await broker.publish(envelopes(5))

    # Leaving

    async def test_what_a_leaving_worker_holds_goes_back_uncounted(self, broker: Broker) -> None:
        sent = envelopes(10)
        await broker.publish(sent)
        async with broker.consume(MAIL, new_lease()) as consumer:
            await take(consumer, 6)

        async with broker.consume(MAIL, new_lease()) as consumer:
            taken = await consumer.receive(50)

        assert sorted(ids_of(taken)) == sorted(ids_of(sent))
        assert not any(delivery.crashes or delivery.suspect for delivery in taken)

    async def test_a_full_hand_goes_back(self, broker: Broker) -> None:
        sent = envelopes(1300)
        await publish_all(broker, sent)
        async with broker.consume(MAIL, new_lease()) as consumer:
            await take(consumer, 1300)

        async with broker.consume(MAIL, new_lease()) as consumer:
            taken = await take(consumer, 1300)

        assert sorted(ids_of(taken)) == sorted(ids_of(sent))

    async def test_a_worker_that_leaves_by_an_error_gives_back(self, broker: Broker) -> None:
        await broker.publish(envelopes(3))

        async def fail() -> None:
            async with broker.consume(MAIL, new_lease()) as consumer:
                await take(consumer, 3)
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            await fail()

        async with broker.consume(MAIL, new_lease()) as consumer:
            assert len(await consumer.receive(10)) == 3

    async def test_a_worker_that_is_cancelled_gives_back(self, broker: Broker) -> None:
        await broker.publish(envelopes(3))
        with CancelScope() as scope:
            async with broker.consume(MAIL, new_lease()) as consumer:
                await take(consumer, 3)
                scope.cancel()
                await checkpoint()

        async with broker.consume(MAIL, new_lease()) as consumer:
            assert len(await consumer.receive(10)) == 3

    async def test_leaving_keeps_what_was_settled(self, broker: Broker) -> None:
        await broker.publish(envelopes(3))
        async with broker.consume(MAIL, new_lease()) as consumer:
            [done, later, _in_flight] = await take(consumer, 3)
            await consumer.settle([Ack(done), Nack(later, delay=FAR)])

        async with broker.consume(MAIL, new_lease()) as consumer:
            assert len(await consumer.receive(10)) == 1

    # Cancellation, at any point

    async def test_cancelled_waiting_and_receiving_lose_nothing(self, broker: Broker) -> None:
        sent = envelopes(400)
        taken: list[str] = []
        with fail_after(PATIENCE * 2):
            async with broker.consume(MAIL, new_lease()) as consumer, create_task_group() as group:
                group.start_soon(_publish_in_pieces, broker, sent)
                while len(taken) < len(sent):
                    async with interrupted():
                        await consumer.wait()
                    # A wake-up may be lost with the call that got it, so we look in any case.
                    async with interrupted():
                        taken.extend(ids_of(await consumer.receive(random.randint(1, 4))))  # noqa: S311 - a test

        assert sorted(taken) == sorted(ids_of(sent))

    async def test_what_a_cancelled_receive_claimed_is_there_for_others(
        self, broker: Broker
    ) -> None:
        sent = envelopes(200)
        await broker.publish(sent)
        for _ in range(ROUNDS):
            async with broker.consume(MAIL, new_lease()) as consumer:
                for _ in range(ROUNDS):
                    async with interrupted():
                        await consumer.receive(random.randint(1, 20))  # noqa: S311 - a test

        async with broker.consume(MAIL, new_lease()) as consumer:
            taken = await take(consumer, 200)

        assert sorted(ids_of(taken)) == sorted(ids_of(sent))
        assert not any(delivery.crashes or delivery.suspect for delivery in taken)

    async def test_a_cancelled_publish_may_be_repeated(self, broker: Broker) -> None:
        sent = envelopes(300)
        for start in range(0, len(sent), 10):
            async with interrupted():
                await _publish_surely(broker, sent[start : start + 10])
        await _publish_surely(broker, sent)

        async with broker.consume(MAIL, new_lease()) as consumer:
            taken: list[str] = []
            with fail_after(PATIENCE):
                while set(taken) != set(ids_of(sent)):
                    taken += ids_of(await consumer.receive(MAX_BATCH))
                    await checkpoint()

        assert len(taken) == len(sent) or not self.knows_ids

    async def test_a_cancelled_settle_may_be_repeated(self, broker: Broker) -> None:
        await broker.publish(envelopes(300))
        async with broker.consume(MAIL, new_lease()) as consumer:
            in_flight = await take(consumer, 300)
            for start in range(0, len(in_flight), 10):
                batch = [Ack(delivery) for delivery in in_flight[start : start + 10]]
                async with interrupted():
                    await consumer.settle(batch)
                await consumer.settle(batch)

        async with broker.consume(MAIL, new_lease()) as consumer:
            assert list(await consumer.receive(10)) == []

    async def test_a_message_that_comes_due_wakes_who_waits(self, broker: Broker) -> None:
        late = 0.0
        async with broker.consume(MAIL, new_lease()) as consumer:
            for _ in range(ROUNDS):
                eta = now() + 0.05
                await broker.publish([envelope(eta=eta)])
                [delivery] = await _wait_for(consumer, 1)
                late += now() - eta
                await consumer.settle([Ack(delivery)])

        assert late < ROUNDS * PROMPT


@asynccontextmanager
async def interrupted() -> AsyncGenerator[None]:
    """What runs inside is cancelled early: after a few steps of the loop, or a moment."""
    async with create_task_group() as group:
        group.start_soon(_interrupt, group.cancel_scope)
        yield
        group.cancel_scope.cancel()


async def _publish_surely(broker: Broker, sent: Sequence[Envelope]) -> None:
    """Again where the broker is away for a moment, as on a connection that is new to it."""
    with fail_after(PATIENCE):
        while True:
            try:
                return await broker.publish(sent)
            except BrokerUnavailable:
                await sleep(0.1)


async def _interrupt(scope: CancelScope) -> None:
    if random.random() < 0.5:  # noqa: S311 - a test
        for _ in range(random.randrange(6)):  # noqa: S311 - a test
            await checkpoint()
    else:
        await sleep(random.choice((0.0005, 0.002, 0.02)) * random.random())  # noqa: S311 - a test
    scope.cancel()


async def _publish_while_idle(broker: Broker, sent: Envelope) -> None:
    for _ in range(10):  # the other side gets as far as it can, and waits
        await checkpoint()
    await broker.publish([sent])


async def _wait_for(consumer: Consumer, count: int) -> list[Delivery]:
    """As `take`, but it waits before it looks."""
    taken: list[Delivery] = []
    with fail_after(PATIENCE):
        while len(taken) < count:
            await consumer.wait()
            taken += await consumer.receive(count - len(taken))
    return taken


async def _wait_and_acknowledge(consumer: Consumer) -> None:
    await consumer.settle([Ack(delivery) for delivery in await _wait_for(consumer, 1)])


async def _publish_in_pieces(broker: Broker, sent: Sequence[Envelope]) -> None:
    for start in range(0, len(sent), 10):
        await broker.publish(sent[start : start + 10])
