"""What a broker with `Leased` promises: deaths are noticed, the dead fenced, the guilty found."""

import threading
import time

import pytest
from anyio import current_time, fail_after, sleep, to_thread

from asyncq.errors import LeaseLost
from asyncq.seams.broker import Ack, Nack, Reject
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
    release,
    sweep,
    take,
)

SHORT = 0.4  # seconds


class LeaseContract(DriverFixtures):
    """Leases: renewed, ended, swept; and what a sweep leaves behind."""

    # How a lease ends

    async def test_what_a_living_worker_holds_is_left_alone(self, broker: FullBroker) -> None:
        await broker.publish(envelopes(3))
        async with broker.consume(MAIL, new_lease()) as consumer:
            in_flight = await take(consumer, 3)

            assert await broker.sweep(MAIL.name) == 0
            assert list(await consumer.settle([Ack(delivery) for delivery in in_flight])) == []

    async def test_sweeping_an_unknown_queue_finds_nothing(self, broker: FullBroker) -> None:
        assert await broker.sweep("nowhere") == 0

    async def test_a_lease_that_nobody_renews_runs_out(self, broker: FullBroker) -> None:
        await broker.publish(envelopes(2))
        async with (
            broker.consume(MAIL, new_lease(SHORT)),
            broker.consume(MAIL, new_lease(SHORT)) as dying,
        ):
            begun = current_time()
            await take(dying, 2)
            await sweep(broker, 2)

        assert current_time() - begun > SHORT * 0.9

    async def test_a_renewed_lease_lasts(self, broker: FullBroker) -> None:
        lease = new_lease(SHORT)
        await broker.publish(envelopes(2))
        async with broker.consume(MAIL, lease) as consumer:
            in_flight = await take(consumer, 2)
            renewer = broker.renewer()
            try:
                assert await to_thread.run_sync(renewer.renew, lease.incarnation, [MAIL.name], FAR)
            finally:
                renewer.close()

            await _nothing_is_swept_for(broker, SHORT * 2)
            assert list(await consumer.settle([Ack(delivery) for delivery in in_flight])) == []

    async def test_a_thread_keeps_a_lease_while_the_loop_stands_still(
        self, broker: FullBroker
    ) -> None:
        lease = new_lease(SHORT)
        renewed: list[bool] = []

        def renew_for_a_while() -> None:
            renewer = broker.renewer()
            for _ in range(8):
                renewed.append(renewer.renew(lease.incarnation, [MAIL.name], SHORT))
                time.sleep(SHORT / 4)
            renewed.append(renewer.renew(lease.incarnation, [MAIL.name], FAR))
            renewer.close()

        await broker.publish(envelopes(2))
        async with broker.consume(MAIL, lease) as consumer:
            in_flight = await take(consumer, 2)
            thread = threading.Thread(target=renew_for_a_while)
            thread.start()
            thread.join()  # the loop turns no more until the thread is done

            assert all(renewed)
            assert await broker.sweep(MAIL.name) == 0
            assert list(await consumer.settle([Ack(delivery) for delivery in in_flight])) == []

    async def test_one_renewal_covers_every_queue(self, broker: FullBroker) -> None:
        lease = new_lease(SHORT)
        await broker.publish([envelope(), envelope(queue=NEWS.name)])
        async with (
            broker.consume(MAIL, lease) as of_mail,
            broker.consume(NEWS, lease) as of_news,
        ):
            in_flight = [*await take(of_mail, 1), *await take(of_news, 1)]
            renewer = broker.renewer()
            queues = [MAIL.name, NEWS.name]
            try:
                assert await to_thread.run_sync(renewer.renew, lease.incarnation, queues, FAR)
            finally:
                renewer.close()

            await _nothing_is_swept_for(broker, SHORT * 2)
            assert list(await of_mail.settle([Ack(in_flight[0])])) == []
            assert list(await of_news.settle([Ack(in_flight[1])])) == []

    async def test_a_lease_that_was_swept_stays_ended(self, broker: FullBroker) -> None:
        lease = new_lease()
        await broker.publish([envelope()])
        async with broker.consume(MAIL, lease) as consumer:
            await take(consumer, 1)
            await end_lease(broker, lease)
            await sweep(broker, 1)
            renewer = broker.renewer()
            try:
                for _ in range(2):
                    assert not await to_thread.run_sync(
                        renewer.renew, lease.incarnation, [MAIL.name], FAR
                    )
            finally:
                renewer.close()

            with pytest.raises(LeaseLost) as caught:
                await consumer.receive(1)
            assert caught.value.incarnation == lease.incarnation

    # Fencing

    async def test_what_was_swept_cannot_be_settled(self, broker: FullBroker) -> None:
        lease = new_lease()
        await broker.publish(envelopes(4))
        async with broker.consume(MAIL, lease) as consumer:
            in_flight = await take(consumer, 4)
            await end_lease(broker, lease)
            await sweep(broker, 4)
            batch = [
                Ack(in_flight[0]),
                Nack(in_flight[1], delay=FAR),
                Nack(in_flight[2], replacement=envelope(b"mine", id=in_flight[2].envelope.id)),
                Reject(in_flight[3], "bad"),
            ]

            assert ids_of(await consumer.settle(batch)) == ids_of(in_flight)

        depth = await broker.depth(MAIL.name)
        assert (depth.ready, depth.delayed, depth.in_flight, depth.dead) == (4, 0, 0, 0)
        assert sorted(await _crashes(broker)) == [b"0", b"1", b"2", b"3"]

    async def test_what_another_worker_took_over_is_that_workers(self, broker: FullBroker) -> None:
        lost, taker = new_lease(), new_lease()
        await broker.publish([envelope()])
        async with (
            broker.consume(MAIL, lost) as before,
            broker.consume(MAIL, taker) as after,
        ):
            [old] = await take(before, 1)
            await end_lease(broker, lost)
            await sweep(broker, 1)
            [new] = await take(after, 1)

            assert ids_of(await before.settle([Ack(old)])) == [old.envelope.id]
            assert list(await after.settle([Ack(new)])) == []

    async def test_a_lease_that_ended_may_settle_until_it_is_swept(
        self, broker: FullBroker
    ) -> None:
        lease = new_lease()
        await broker.publish(envelopes(2))
        async with broker.consume(MAIL, lease) as consumer:
            in_flight = await take(consumer, 2)
            await end_lease(broker, lease)

            assert list(await consumer.settle([Ack(in_flight[0])])) == []
            await sweep(broker, 1)
            assert ids_of(await consumer.settle([Ack(in_flight[1])])) == [in_flight[1].envelope.id]

    async def test_a_swept_worker_that_leaves_gives_nothing_back(self, broker: FullBroker) -> None:
        lease = new_lease()
        await broker.publish(envelopes(2))
        async with broker.consume(MAIL, lease) as consumer:
            await take(consumer, 2)
            await end_lease(broker, lease)
            await sweep(broker, 2)

        assert (await broker.depth(MAIL.name)).ready == 2
        assert sorted(await _crashes(broker)) == [b"0", b"1"]

    async def test_one_death_leaves_other_workers_and_queues_alone(
        self, broker: FullBroker
    ) -> None:
        lease, other = new_lease(), new_lease()
        await broker.publish([*envelopes(2), envelope(queue=NEWS.name)])
        async with (
            broker.consume(MAIL, lease) as dying,
            broker.consume(MAIL, other) as living,
            broker.consume(NEWS, other) as elsewhere,
        ):
            await take(dying, 1)
            in_flight, news = await take(living, 1), await take(elsewhere, 1)
            await end_lease(broker, lease)
            await sweep(broker, 1)

            assert await broker.sweep(NEWS.name) == 0
            assert list(await living.settle([Ack(in_flight[0])])) == []
            assert list(await elsewhere.settle([Ack(news[0])])) == []

    async def test_a_worker_may_take_a_new_incarnation(self, broker: FullBroker) -> None:
        lease = new_lease()
        await broker.publish([envelope()])
        async with broker.consume(MAIL, lease) as consumer:
            await take(consumer, 1)
            await end_lease(broker, lease)
            await sweep(broker, 1)

        async with broker.consume(MAIL, new_lease()) as consumer:
            assert len(await take(consumer, 1)) == 1

    # Releasing the dead

    async def test_what_a_released_worker_held_is_there_at_once(self, broker: FullBroker) -> None:
        dead, other = new_lease(), new_lease()
        await broker.publish([*envelopes(3), envelope(queue=NEWS.name)])
        async with (
            broker.consume(MAIL, dead) as of_mail,
            broker.consume(NEWS, dead) as of_news,
            broker.consume(MAIL, other) as survivor,
        ):
            in_flight = [*await take(of_mail, 2), *await take(of_news, 1)]
            [kept] = await take(survivor, 1)

            assert await release(broker, dead, MAIL.name, NEWS.name) == 3
            assert await release(broker, dead, MAIL.name, NEWS.name) == 0
            assert ids_of(await of_mail.settle([Ack(in_flight[0])])) == [in_flight[0].envelope.id]
            with pytest.raises(LeaseLost):
                await of_mail.receive(1)
            assert list(await survivor.settle([Ack(kept)])) == []
            [suspect] = await take(survivor, 1)
            assert (suspect.suspect, suspect.crashes) == (True, 1)
            assert suspect.envelope.id in ids_of(in_flight)

        assert (await broker.depth(MAIL.name)).ready == 2
        assert (await broker.depth(NEWS.name)).ready == 1

    async def test_a_released_lease_stays_ended(self, broker: FullBroker) -> None:
        lease = new_lease()
        async with broker.consume(MAIL, lease):
            assert await release(broker, lease) == 0
            renewer = broker.renewer()
            try:
                assert not await to_thread.run_sync(
                    renewer.renew, lease.incarnation, [MAIL.name], FAR
                )
            finally:
                renewer.close()

    async def test_releasing_blames_as_sweeping_does(self, broker: FullBroker) -> None:
        await make_suspects(broker, [envelope(b"poison")])
        await broker.publish(envelopes(2))
        lease = new_lease()
        async with broker.consume(MAIL, lease) as consumer:
            await take(consumer, 3)

            assert await release(broker, lease) == 3

        assert await _crashes(broker) == {b"poison": 2, b"0": 0, b"1": 0}

    async def test_a_release_recovers_however_much_was_held(self, broker: FullBroker) -> None:
        for _ in range(3):
            await broker.publish(envelopes(500))
        lease = new_lease()
        async with broker.consume(MAIL, lease) as consumer:
            await take(consumer, 1500)

            assert await release(broker, lease) == 1500

        assert (await broker.depth(MAIL.name)).ready == 1500

    async def test_a_release_leaves_a_worker_that_has_left_alone(self, broker: FullBroker) -> None:
        lease = new_lease()
        await broker.publish([envelope()])
        async with broker.consume(MAIL, lease) as consumer:
            await take(consumer, 1)

        assert await release(broker, lease) == 0
        async with broker.consume(MAIL, new_lease()) as consumer:
            [delivery] = await take(consumer, 1)
        assert not delivery.suspect

    # Blame

    async def test_every_message_in_a_first_crash_is_a_suspect(self, broker: FullBroker) -> None:
        await make_suspects(broker, envelopes(3))

        assert await _crashes(broker) == {b"0": 1, b"1": 1, b"2": 1}

    async def test_a_crash_with_a_suspect_running_is_charged_to_it_alone(
        self, broker: FullBroker
    ) -> None:
        await make_suspects(broker, [envelope(b"poison")])
        await broker.publish([envelope(b"a"), envelope(b"b")])
        lease = new_lease()
        async with broker.consume(MAIL, lease) as consumer:
            await take(consumer, 3)
            await end_lease(broker, lease)
            await sweep(broker, 3)

        assert await _crashes(broker) == {b"poison": 2, b"a": 0, b"b": 0}

    async def test_the_guilty_is_found_however_much_was_held(self, broker: FullBroker) -> None:
        await make_suspects(broker, [envelope(b"poison")])
        for _ in range(3):
            await broker.publish(envelopes(500))
        lease = new_lease()
        async with broker.consume(MAIL, lease) as consumer:
            await take(consumer, 1501)
            await end_lease(broker, lease)
            await sweep(broker, 1501)

        async with broker.consume(MAIL, new_lease()) as consumer:
            crashes: dict[bytes, int] = {}
            for _ in range(1501):
                [suspect] = await take(consumer, 1)
                crashes.setdefault(suspect.envelope.body, suspect.crashes)
                await consumer.settle([Ack(suspect)])
        assert crashes.pop(b"poison") == 2
        assert set(crashes.values()) == {0}

    async def test_the_poison_is_found_and_its_neighbours_finish(self, broker: FullBroker) -> None:
        await broker.publish([envelope(b"a"), envelope(b"poison"), envelope(b"b")])
        finished: list[bytes] = []
        deaths = 0
        with fail_after(PATIENCE):
            while await _waiting(broker):
                lease = new_lease()
                async with broker.consume(MAIL, lease) as worker:
                    in_flight = await worker.receive(10)
                    if b"poison" not in bodies_of(in_flight):
                        finished += bodies_of(in_flight)
                        await worker.settle([Ack(delivery) for delivery in in_flight])
                    elif any(delivery.crashes >= 3 for delivery in in_flight):
                        await worker.settle([Reject(in_flight[0], "it killed three workers")])
                    else:
                        deaths += 1
                        await end_lease(broker, lease)
                        await sweep(broker, len(in_flight))

        assert deaths == 3
        assert sorted(finished) == [b"a", b"b"]
        [letter] = await broker.dead_letters(MAIL.name)
        assert (letter.envelope.body, letter.crashes) == (b"poison", 3)

    async def test_crashes_survive_a_retry(self, broker: FullBroker) -> None:
        await make_suspects(broker, [envelope(id="1")])
        async with broker.consume(MAIL, new_lease()) as consumer:
            for number in range(3):
                [suspect] = await take(consumer, 1)
                replacement = envelope(str(number).encode(), id="1", priority=number)
                await consumer.settle([Nack(suspect, delay=0.01, replacement=replacement)])
            [suspect] = await take(consumer, 1)

        assert suspect.envelope.body == b"2"
        assert (suspect.crashes, suspect.suspect) == (1, True)

    async def test_an_acknowledged_suspect_is_forgotten(self, broker: FullBroker) -> None:
        await make_suspects(broker, [envelope(id="1")])
        async with broker.consume(MAIL, new_lease()) as consumer:
            await consumer.settle([Ack(delivery) for delivery in await take(consumer, 1)])
            await broker.publish([envelope(id="1")])
            [delivery] = await take(consumer, 1)

        assert (delivery.crashes, delivery.suspect) == (0, False)


async def _nothing_is_swept_for(broker: FullBroker, seconds: float) -> None:
    until = current_time() + seconds
    while current_time() < until:
        assert await broker.sweep(MAIL.name) == 0
        assert await broker.sweep(NEWS.name) == 0
        await sleep(seconds / 20)


async def _waiting(broker: FullBroker) -> int:
    return (await broker.depth(MAIL.name)).ready


async def _crashes(broker: FullBroker) -> dict[bytes, int]:
    """Finish every suspect and return its crashes, by body."""
    crashes: dict[bytes, int] = {}
    async with broker.consume(MAIL, new_lease()) as consumer:
        while await _waiting(broker):
            [suspect] = await take(consumer, 1)
            assert suspect.suspect
            crashes[suspect.envelope.body] = suspect.crashes
            await consumer.settle([Ack(suspect)])
    return crashes
