"""What broker and backend promise together where they are one store: one step ends a run."""

from collections.abc import Sequence

import pytest
from anyio import fail_after

from asyncq.language.effects import Send
from asyncq.language.message import Status
from asyncq.seams.backend import Backend
from asyncq.seams.broker import (
    MAX_BATCH,
    Ack,
    Completed,
    Completion,
    Consumer,
    Delivery,
    Nack,
    Reject,
)
from asyncq.seams.feeds import replies_to
from asyncq.testing.contracts.given import (
    FAR,
    MAIL,
    PATIENCE,
    DriverFixtures,
    FullBroker,
    bodies_of,
    end_lease,
    envelope,
    envelopes,
    full_envelope,
    hear,
    ids_of,
    make_suspects,
    new_lease,
    record,
    sweep,
    take,
)


class UnifiedContract(DriverFixtures):
    """Completions, and ids that are kept out because their outcome is known."""

    async def test_broker_and_backend_are_one_store(
        self, broker: FullBroker, other_broker: FullBroker, backend: Backend
    ) -> None:
        assert broker.store == backend.store == other_broker.store
        assert hash(broker.store) == hash(backend.store)
        async with broker.consume(MAIL, new_lease()) as consumer:
            assert consumer.offers.complete is not None

    # Completions

    async def test_a_completion_settles_and_stores_and_tells(
        self, broker: FullBroker, backend: Backend
    ) -> None:
        sent = envelope()
        kept = record(sent.id, 5, reply_to="me", keep=60.5)
        await broker.publish([sent])
        async with (
            backend.subscribe(replies_to("me")) as replies,
            broker.consume(MAIL, new_lease()) as consumer,
        ):
            [delivery] = await take(consumer, 1)
            fenced = await complete(consumer, [Completion(Ack(delivery), kept)])

            assert list(fenced) == []
            assert await hear(replies, 1) == [kept]
        assert list(await backend.fetch([sent.id])) == [kept]
        assert list(await broker.find([sent.id])) == [None]

    async def test_a_completion_without_a_record_only_settles(
        self, broker: FullBroker, backend: Backend
    ) -> None:
        sent = envelopes(3)
        await broker.publish(sent)
        async with broker.consume(MAIL, new_lease()) as consumer:
            done, later, dead = await take(consumer, 3)
            again = envelope(b"again", id=later.envelope.id)
            fenced = await complete(
                consumer,
                [
                    Completion(Ack(done)),
                    Completion(Nack(later, delay=FAR, replacement=again)),
                    Completion(Reject(dead, "bad")),
                ],
            )

            assert list(fenced) == []
        assert list(await broker.find(ids_of(sent))) == [None, Status.SCHEDULED, Status.FAILED]
        assert list(await backend.fetch(ids_of(sent))) == [None, None, None]

    async def test_a_dead_letter_may_have_a_record(
        self, broker: FullBroker, backend: Backend
    ) -> None:
        sent = envelope()
        await broker.publish([sent])
        async with broker.consume(MAIL, new_lease()) as consumer:
            [delivery] = await take(consumer, 1)
            kept = record(sent.id)
            await complete(consumer, [Completion(Reject(delivery, "bad"), kept)])

        assert list(await broker.find([sent.id])) == [Status.FAILED]
        assert list(await backend.fetch([sent.id])) == [kept]

    async def test_the_first_record_stands_and_the_delivery_is_settled(
        self, broker: FullBroker, backend: Backend
    ) -> None:
        sent = envelope()
        first = record(sent.id, "first")
        await broker.publish([sent])
        async with broker.consume(MAIL, new_lease()) as consumer:
            [delivery] = await take(consumer, 1)
            await backend.store_records([first])
            second = record(sent.id, "second")
            fenced = await complete(consumer, [Completion(Ack(delivery), second)])

            assert list(fenced) == []
        assert list(await backend.fetch([sent.id])) == [first]
        assert list(await broker.find([sent.id])) == [None]

    async def test_a_record_with_nothing_to_keep_is_told_and_not_kept(
        self, broker: FullBroker, backend: Backend
    ) -> None:
        sent = envelope()
        told = record(sent.id, keep=0.0, reply_to="me")
        await broker.publish([sent])
        async with (
            backend.subscribe(replies_to("me")) as replies,
            broker.consume(MAIL, new_lease()) as consumer,
        ):
            [delivery] = await take(consumer, 1)
            await complete(consumer, [Completion(Ack(delivery), told)])

            assert await hear(replies, 1) == [told]
        assert list(await backend.fetch([sent.id])) == [None]

    @pytest.mark.parametrize("keep", [1e-9, 0.0005, 1e9])
    async def test_a_completion_may_be_kept_for_any_time_at_all(
        self, broker: FullBroker, backend: Backend, keep: float
    ) -> None:
        sent = envelope()
        kept = record(sent.id, keep=keep, reply_to="me")
        await broker.publish([sent])
        async with (
            backend.subscribe(replies_to("me")) as replies,
            broker.consume(MAIL, new_lease()) as consumer,
        ):
            [delivery] = await take(consumer, 1)
            assert list(await complete(consumer, [Completion(Ack(delivery), kept)])) == []

            assert await hear(replies, 1) == [kept]
        assert list(await broker.find([sent.id])) == [None]

    async def test_a_completed_record_is_kept_for_its_time(
        self, broker: FullBroker, backend: Backend
    ) -> None:
        await broker.publish([envelope(id="1")])
        async with broker.consume(MAIL, new_lease()) as consumer:
            [delivery] = await take(consumer, 1)
            kept = record("1", keep=0.3)
            await complete(consumer, [Completion(Ack(delivery), kept)])

        assert list(await backend.fetch(["1"])) == [kept]
        with fail_after(PATIENCE):
            while list(await backend.fetch(["1"])) != [None]:
                pass

    async def test_a_full_batch_is_completed_in_order(
        self, broker: FullBroker, backend: Backend
    ) -> None:
        sent = envelopes(MAX_BATCH)
        kept = [record(message_id, reply_to="me") for message_id in ids_of(sent)]
        await broker.publish(sent)
        async with (
            backend.subscribe(replies_to("me")) as replies,
            broker.consume(MAIL, new_lease()) as consumer,
        ):
            in_flight = await take(consumer, MAX_BATCH)
            batch = [Completion(Ack(each), of) for each, of in zip(in_flight, kept, strict=True)]
            assert list(await complete(consumer, batch)) == []

            assert await hear(replies, MAX_BATCH) == kept
        assert list(await backend.fetch(ids_of(sent))) == kept

    async def test_nothing_to_complete_is_fine(self, broker: FullBroker) -> None:
        async with broker.consume(MAIL, new_lease()) as consumer:
            assert list(await complete(consumer, [])) == []

    async def test_concluding_a_suspect_frees_the_quarantine(self, broker: FullBroker) -> None:
        await make_suspects(broker, envelopes(1))
        lease = new_lease()
        async with broker.consume(MAIL, lease) as consumer:
            [suspect] = await take(consumer, 1)
            kept = record(suspect.envelope.id)
            await complete(consumer, [Completion(Ack(suspect), kept)])

            assert lease.quarantine.is_empty

    # Fenced

    async def test_a_fenced_completion_changes_nothing(
        self, broker: FullBroker, backend: Backend
    ) -> None:
        sent = envelopes(3)
        lease = new_lease()
        last = record("last", reply_to="me")
        await broker.publish(sent)
        async with (
            backend.subscribe(replies_to("me")) as replies,
            broker.consume(MAIL, lease) as consumer,
        ):
            in_flight = await take(consumer, 3)
            await end_lease(broker, lease)
            await sweep(broker, 3)
            one, two, three = (record(message_id, reply_to="me") for message_id in ids_of(sent))
            fenced = await complete(
                consumer,
                [
                    Completion(Ack(in_flight[0]), one),
                    Completion(Nack(in_flight[1], delay=FAR), two),
                    Completion(Reject(in_flight[2], "bad"), three),
                ],
            )
            await backend.store_records([last])

            assert ids_of(fenced) == ids_of(sent)
            assert await hear(replies, 1) == [last]
        assert list(await backend.fetch(ids_of(sent))) == [None, None, None]
        assert list(await broker.find(ids_of(sent))) == [Status.QUEUED] * 3

    async def test_one_fenced_delivery_leaves_the_others_of_its_batch(
        self, broker: FullBroker, backend: Backend
    ) -> None:
        sent = envelopes(3)
        await broker.publish(sent)
        async with (
            broker.consume(MAIL, new_lease()) as owner,
            broker.consume(MAIL, new_lease()) as other,
        ):
            mine, theirs = await take(owner, 2), await take(other, 1)
            batch = [mine[0], theirs[0], mine[1]]
            fenced = await complete(
                owner, [Completion(Ack(each), record(each.envelope.id)) for each in batch]
            )

            assert ids_of(fenced) == ids_of(theirs)
            found = await backend.fetch(ids_of(sent))
            assert [each is not None for each in found] == [True, True, False]

    async def test_concluding_again_is_safe(self, broker: FullBroker, backend: Backend) -> None:
        await broker.publish([envelope(id="1")])
        async with broker.consume(MAIL, new_lease()) as consumer:
            [delivery] = await take(consumer, 1)
            kept = record("1", "first")
            await complete(consumer, [Completion(Ack(delivery), kept)])
            await complete(consumer, [Completion(Ack(delivery), record("1", "second"))])

        assert list(await backend.fetch(["1"])) == [kept]

    # Records whose deliveries are settled later

    async def test_a_record_may_be_kept_and_told_of_while_its_delivery_stays_in_hand(
        self, broker: FullBroker, backend: Backend
    ) -> None:
        sent = envelopes(4)
        records = [record(each.id, reply_to="me", effects=sends()) for each in sent]
        await broker.publish(sent)
        async with (
            backend.subscribe(replies_to("me")) as replies,
            broker.consume(MAIL, new_lease()) as consumer,
        ):
            taken = await take(consumer, 4)
            ends = [Ack(taken[0]), Ack(taken[1]), Reject(taken[2], "bad"), Ack(taken[3])]
            batch = [Completion(*each, True) for each in zip(ends, records, strict=True)]
            batch[3] = Completion(ends[3], records[3])

            done = await completed(consumer, [batch[0], batch[3]])
            assert (list(done.fenced), list(done.standing)) == ([], [])
            assert await hear(replies, 2) == [records[0], records[3]]
            assert list(await broker.find(ids_of(sent))) == [Status.RUNNING] * 3 + [None]
            done = await completed(consumer, batch[:3])
            assert (list(done.fenced), list(done.standing)) == ([], records[:1])
            assert await hear(replies, 2) == records[1:3]

            assert not await consumer.settle(ends[:3])
        assert list(await backend.fetch(ids_of(sent))) == records
        assert list(await broker.find(ids_of(sent))) == [None, None, Status.FAILED, None]

    async def test_suspects_stay_in_the_quarantine_while_something_follows_from_them(
        self, broker: FullBroker, backend: Backend
    ) -> None:
        sent = envelopes(2)
        await make_suspects(broker, sent)
        async with broker.consume(MAIL, new_lease()) as consumer:
            [first] = await take(consumer, 1)
            kept = record(first.envelope.id, effects=sends())
            await completed(consumer, [Completion(Ack(first), kept, True)])
            assert not await consumer.receive(10)

            assert not await consumer.settle([Ack(first)])
            assert ids_of(await take(consumer, 1)) == ids_of(sent[1:])
        assert list(await backend.fetch([first.envelope.id])) == [kept]

    async def test_who_keeps_a_record_is_told_which_one_stands(
        self, broker: FullBroker, backend: Backend
    ) -> None:
        sent = envelope()
        first = record(sent.id, "first", effects=sends())
        await broker.publish([sent])
        async with broker.consume(MAIL, new_lease()) as consumer:
            [delivery] = await take(consumer, 1)
            await backend.store_records([first])
            second = record(sent.id, "second")
            done = await completed(consumer, [Completion(Ack(delivery), second, True)])

            assert (list(done.fenced), list(done.standing)) == ([], [first])
        assert list(await backend.fetch([sent.id])) == [first]

    async def test_no_record_is_kept_of_what_belongs_to_others(
        self, broker: FullBroker, other_broker: FullBroker, backend: Backend
    ) -> None:
        sent = envelopes(2)
        await broker.publish(sent)
        async with broker.consume(MAIL, lease := new_lease()) as consumer:
            settled, lost = await take(consumer, 2)
            assert not await consumer.settle([Ack(settled)])
            await end_lease(other_broker, lease)
            await sweep(other_broker, 1)

            done = await completed(consumer, [
                Completion(Ack(each), record(each.envelope.id), True) for each in (settled, lost)
            ])  # fmt: skip

            assert lost in done.fenced
            assert list(done.standing) == []
        assert list(await backend.fetch(ids_of(sent))) == [None, None]

    # What is known to have ended is not taken in again

    @pytest.mark.parametrize("way", ["completed", "stored"])
    async def test_an_id_whose_outcome_is_recorded_is_kept_out(
        self, broker: FullBroker, other_broker: FullBroker, backend: Backend, way: str
    ) -> None:
        sent = envelope(b"ended")
        if way == "completed":
            await broker.publish([sent])
            async with broker.consume(MAIL, new_lease()) as consumer:
                [delivery] = await take(consumer, 1)
                await complete(consumer, [Completion(Ack(delivery), record(sent.id))])
        else:
            await backend.store_records([record(sent.id)])

        await broker.publish([sent, envelope(b"new")])
        await other_broker.publish([sent])
        async with broker.consume(MAIL, new_lease()) as consumer:
            assert bodies_of(await consumer.receive(10)) == [b"new"]

    async def test_a_forgotten_id_is_taken_in_again(
        self, broker: FullBroker, backend: Backend
    ) -> None:
        sent = envelope()
        await backend.store_records([record(sent.id)])
        await backend.forget([sent.id])

        await broker.publish([sent])
        assert list(await broker.find([sent.id])) == [Status.QUEUED]

    async def test_an_id_whose_record_is_over_is_taken_in_again(
        self, broker: FullBroker, backend: Backend
    ) -> None:
        sent = envelope()
        await backend.store_records([record(sent.id, keep=0.05)])

        with fail_after(PATIENCE):
            while list(await broker.find([sent.id])) != [Status.QUEUED]:
                await broker.publish([sent])

    async def test_a_dead_letter_is_replayed_whatever_is_recorded(
        self, broker: FullBroker, backend: Backend
    ) -> None:
        sent = envelope()
        await broker.publish([sent])
        async with broker.consume(MAIL, new_lease()) as consumer:
            [delivery] = await take(consumer, 1)
            kept = record(sent.id)
            await complete(consumer, [Completion(Reject(delivery, "bad"), kept)])

            assert list(await broker.replay(MAIL.name, [sent.id])) == [sent.id]
            assert ids_of(await take(consumer, 1)) == [sent.id]


def sends() -> tuple[Send]:
    """What follows from a record."""
    return (Send(full_envelope(queue="other"), "default"),)


async def complete(consumer: Consumer, batch: Sequence[Completion]) -> Sequence[Delivery]:
    """End these by what the consumer offers for it; what was not ours any more."""
    return (await completed(consumer, batch)).fenced


async def completed(consumer: Consumer, batch: Sequence[Completion]) -> Completed:
    assert consumer.offers.complete is not None
    return await consumer.offers.complete(batch)
