"""What every broker promises: what is published is kept, and delivered in order, until it ends."""

from typing import Any

import pytest
from anyio import create_task_group, fail_after

from asyncq.seams.broker import MAX_BATCH, Ack, Broker, Nack, Reject
from asyncq.testing.contracts.given import (
    FAR,
    MAIL,
    NEWS,
    PATIENCE,
    DriverFixtures,
    bodies_of,
    envelope,
    envelopes,
    ids_of,
    new_lease,
    now,
    publish_all,
    take,
)

LATEST = 3.0  # seconds after its eta by which a message must have come
MIB = 1024 * 1024
HEADERS: dict[str, Any] = {
    "trace": "00-4bf92f",
    "größe": "ÿ\x00\n🙂",
    "count": -(2**63),
    "big": 2**63,
    "ratio": 0.1,
    "nothing": None,
    "yes": True,
    "list": [1, "two", [3.0, {"four": b"\x00\xff"}]],
    "": {},
}


class BrokerContract(DriverFixtures):
    """Publishing, order, delays, and how deliveries end."""

    async def test_what_is_published_is_delivered_whole(self, broker: Broker) -> None:
        sent = envelope(
            b"\x93\x01\x02\x03",
            priority=7,
            eta=now() - 1.5,
            expires=now() + 30.25,
            reply_to="client-1",
            sent_at=now() - 3.125,
            headers=HEADERS,
        )

        await broker.publish([sent])
        async with broker.consume(MAIL, new_lease()) as consumer:
            [delivery] = await take(consumer, 1)

        assert delivery.envelope == sent
        assert delivery.crashes == 0
        assert not delivery.suspect

    async def test_a_bare_envelope_is_delivered_whole(self, broker: Broker) -> None:
        sent = envelope(b"", sent_at=0.0)

        await broker.publish([sent])
        async with broker.consume(MAIL, new_lease()) as consumer:
            [delivery] = await take(consumer, 1)

        assert delivery.envelope == sent

    @pytest.mark.parametrize(
        "body",
        [
            b"",
            b"\x00",
            bytes(range(256)),
            b"\r\n\r\n",
            b"\xff" * 17,
            bytes(range(256)) * (MIB >> 8),
        ],
        ids=["empty", "nul", "every byte", "newlines", "no text", "1 MiB"],
    )
    async def test_any_bytes_are_a_body(self, broker: Broker, body: bytes) -> None:
        await broker.publish([envelope(body)])
        async with broker.consume(MAIL, new_lease()) as consumer:
            [delivery] = await take(consumer, 1)

        assert delivery.envelope.body == body

    async def test_an_id_may_be_any_printable_text(self, broker: Broker) -> None:
        sent = [envelope(id=text) for text in ("beat:a:17", "{a}:*?[]", "'; DROP --", "~" * 128)]

        await broker.publish(sent)
        async with broker.consume(MAIL, new_lease()) as consumer:
            taken = await take(consumer, len(sent))
            fenced = await consumer.settle([Ack(delivery) for delivery in taken])

        assert ids_of(taken) == ids_of(sent)
        assert list(fenced) == []

    async def test_batches_may_be_empty(self, broker: Broker) -> None:
        await broker.publish([])
        async with broker.consume(MAIL, new_lease()) as consumer:
            assert list(await consumer.settle([])) == []

    async def test_a_full_batch_goes_through_each_call(self, broker: Broker) -> None:
        sent = envelopes(MAX_BATCH)

        await broker.publish(sent)
        async with broker.consume(MAIL, new_lease()) as consumer:
            if self.hands_out_what_is_asked_for:
                taken = list(await consumer.receive(MAX_BATCH))
            else:
                taken = await take(consumer, MAX_BATCH)
            fenced = await consumer.settle([Ack(delivery) for delivery in taken])

        assert ids_of(taken) == ids_of(sent)
        assert list(fenced) == []

    async def test_one_call_publishes_to_many_queues(self, broker: Broker) -> None:
        mail, news = envelope(), envelope(queue=NEWS.name)

        await broker.publish([mail, news])
        async with (
            broker.consume(MAIL, new_lease()) as of_mail,
            broker.consume(NEWS, new_lease()) as of_news,
        ):
            from_mail, from_news = await of_mail.receive(10), await of_news.receive(10)

        assert ids_of(from_mail) == [mail.id]
        assert ids_of(from_news) == [news.id]

    # One id, one message

    async def test_an_id_published_twice_is_kept_as_it_was(self, broker: Broker) -> None:
        self.needs(self.knows_ids, "to know ids")
        first, again = envelope(b"first", id="1"), envelope(b"again", id="1", priority=9)

        await broker.publish([first, again])
        await broker.publish([again])
        async with broker.consume(MAIL, new_lease()) as consumer:
            taken = await consumer.receive(10)

        assert bodies_of(taken) == [b"first"]

    async def test_an_id_is_stored_once_whoever_publishes_it(
        self, broker: Broker, other_broker: Broker
    ) -> None:
        self.needs(self.knows_ids, "to know ids")
        sent = envelopes(100)

        async with create_task_group() as group:
            for each in (broker, other_broker, broker):
                group.start_soon(each.publish, sent)
        async with broker.consume(MAIL, new_lease()) as consumer:
            taken = await consumer.receive(MAX_BATCH)

        assert sorted(ids_of(taken)) == sorted(ids_of(sent))

    async def test_an_id_in_a_workers_hands_is_not_stored_again(self, broker: Broker) -> None:
        self.needs(self.knows_ids, "to know ids")
        sent = envelope()

        await broker.publish([sent])
        async with broker.consume(MAIL, new_lease()) as consumer:
            [in_flight] = await take(consumer, 1)
            await broker.publish([sent])
            assert list(await consumer.receive(10)) == []
            await consumer.settle([Ack(in_flight)])
            assert list(await consumer.receive(10)) == []

    async def test_a_delayed_id_is_not_stored_again(self, broker: Broker) -> None:
        self.needs(self.knows_ids, "to know ids")
        await broker.publish([envelope(id="1", eta=now() + FAR)])
        await broker.publish([envelope(id="1")])

        async with broker.consume(MAIL, new_lease()) as consumer:
            assert list(await consumer.receive(10)) == []

    async def test_a_dead_id_is_not_stored_again(self, broker: Broker) -> None:
        self.needs(self.knows_ids, "to know ids")
        await broker.publish([envelope(id="1")])
        async with broker.consume(MAIL, new_lease()) as consumer:
            [dying] = await take(consumer, 1)
            await consumer.settle([Reject(dying, "no such task")])

            await broker.publish([envelope(id="1")])
            assert list(await consumer.receive(10)) == []

    async def test_an_id_that_was_acknowledged_is_forgotten(self, broker: Broker) -> None:
        async with broker.consume(MAIL, new_lease()) as consumer:
            for body in (b"first", b"second"):
                await broker.publish([envelope(body, id="1")])
                [delivery] = await take(consumer, 1)
                await consumer.settle([Ack(delivery)])
                assert delivery.envelope.body == body

    # Order

    async def test_messages_come_in_the_order_they_were_published(
        self, broker: Broker, other_broker: Broker
    ) -> None:
        sent = envelopes(1200)

        await publish_all(broker, sent[:700])
        await publish_all(other_broker, sent[700:])
        async with broker.consume(MAIL, new_lease()) as consumer:
            taken = [*await take(consumer, 7), *await take(consumer, 1193)]

        assert ids_of(taken) == ids_of(sent)

    async def test_a_higher_priority_comes_first(self, broker: Broker) -> None:
        self.needs(self.has_priorities, "priorities")
        priorities = [0, 9, 3, 1, 8, 5, 2, 7, 4, 6, 9, 0]
        sent = [envelope(str(at).encode(), priority=at) for at in priorities]

        await broker.publish(sent)
        async with broker.consume(MAIL, new_lease()) as consumer:
            taken = [*await consumer.receive(5), *await consumer.receive(50)]

        # Sorting is stable: within a priority the order stays.
        expected = sorted(sent, key=lambda each: each.priority, reverse=True)
        assert ids_of(taken) == ids_of(expected)

    # Delays

    @pytest.mark.parametrize("how", ["waiting", "looking"])
    async def test_no_message_comes_before_its_eta_nor_much_later(
        self, broker: Broker, how: str
    ) -> None:
        start = now()
        etas = {str(tenths): start + tenths / 10 for tenths in (7, 2, 9, 4, 1, 5)}
        await broker.publish([envelope(id=name, eta=eta) for name, eta in etas.items()])

        came: dict[str, float] = {}
        with fail_after(PATIENCE):
            async with broker.consume(MAIL, new_lease()) as consumer:
                while len(came) < len(etas):
                    came |= {name: now() for name in ids_of(await consumer.receive(10))}
                    if how == "waiting" and len(came) < len(etas):
                        await consumer.wait()

        for name, eta in etas.items():
            assert eta <= came[name] < eta + LATEST

    async def test_a_distant_eta_holds_nobody_up(self, broker: Broker) -> None:
        await broker.publish([envelope(b"later", eta=now() + FAR, priority=9), envelope(b"now")])

        async with broker.consume(MAIL, new_lease()) as consumer:
            assert bodies_of(await consumer.receive(10)) == [b"now"]

    async def test_an_expired_message_is_delivered_even_so(self, broker: Broker) -> None:
        await broker.publish([envelope(b"too late", expires=now() - 1)])

        async with broker.consume(MAIL, new_lease()) as consumer:
            assert bodies_of(await take(consumer, 1)) == [b"too late"]

    # How deliveries end

    async def test_what_is_acknowledged_never_comes_back(self, broker: Broker) -> None:
        await broker.publish(envelopes(3))
        async with broker.consume(MAIL, new_lease()) as consumer:
            await consumer.settle([Ack(delivery) for delivery in await take(consumer, 3)])

        async with broker.consume(MAIL, new_lease()) as consumer:
            assert list(await consumer.receive(10)) == []

    async def test_what_is_given_back_is_the_next_to_come(self, broker: Broker) -> None:
        await broker.publish(envelopes(3))
        async with broker.consume(MAIL, new_lease()) as consumer:
            [first] = await take(consumer, 1)
            await consumer.settle([Nack(first)])
            taken = await take(consumer, 3)

        bodies = [b"0", b"1", b"2"] if self.gives_back_to_the_head else [b"1", b"2", b"0"]
        assert bodies_of(taken) == bodies
        again = taken[bodies.index(b"0")]
        assert again.envelope == first.envelope
        assert again.crashes == 0
        assert not again.suspect

    async def test_what_is_given_back_with_a_delay_comes_after_it(self, broker: Broker) -> None:
        await broker.publish([envelope(b"delayed"), envelope(b"other")])
        async with broker.consume(MAIL, new_lease()) as consumer:
            [first] = await take(consumer, 1)
            start = now()
            await consumer.settle([Nack(first, delay=0.3)])
            [other, again] = await take(consumer, 2)
            waited = now() - start

        assert other.envelope.body == b"other"
        assert again.envelope == first.envelope
        assert 0.3 <= waited < 0.3 + LATEST

    async def test_a_replacement_takes_the_messages_place(self, broker: Broker) -> None:
        replacement = envelope(b"attempt 2", id="1", priority=4, headers={"n": 2})
        await broker.publish([envelope(b"attempt 1", id="1", priority=4), envelope(priority=4)])
        async with broker.consume(MAIL, new_lease()) as consumer:
            [first] = await take(consumer, 1)
            await consumer.settle([Nack(first, replacement=replacement)])
            taken = await take(consumer, 2)

            assert taken[0 if self.gives_back_to_the_head else 1].envelope == replacement
            await consumer.settle([Ack(delivery) for delivery in taken])
            assert list(await consumer.receive(10)) == []

    @pytest.mark.parametrize("how", ["delay", "eta"])
    async def test_a_replacement_may_be_delayed(self, broker: Broker, how: str) -> None:
        await broker.publish([envelope(id="1")])
        async with broker.consume(MAIL, new_lease()) as consumer:
            [first] = await take(consumer, 1)
            due = now() + 0.3
            replacement = envelope(b"attempt 2", id="1", eta=due if how == "eta" else None)
            delay = 0.3 if how == "delay" else 0.0
            await consumer.settle([Nack(first, delay=delay, replacement=replacement)])

            early = await consumer.receive(10)
            assert not early or now() >= due  # a busy machine may have been so slow
            [again] = early or await take(consumer, 1)

        assert due <= now() < due + LATEST
        assert again.envelope == replacement

    async def test_what_is_rejected_is_not_delivered_again(self, broker: Broker) -> None:
        await broker.publish([envelope(b"bad"), envelope(b"good")])
        async with broker.consume(MAIL, new_lease()) as consumer:
            [bad] = await take(consumer, 1)
            assert list(await consumer.settle([Reject(bad, "no such task")])) == []

        async with broker.consume(MAIL, new_lease()) as consumer:
            assert bodies_of(await consumer.receive(10)) == [b"good"]

    async def test_one_batch_settles_in_every_way(self, broker: Broker) -> None:
        await broker.publish(envelopes(5))
        async with broker.consume(MAIL, new_lease()) as consumer:
            done, back, later, retried, dead = await take(consumer, 5)
            replacement = envelope(b"again", id=retried.envelope.id, eta=now() + FAR)
            fenced = await consumer.settle(
                [
                    Ack(done),
                    Nack(back),
                    Nack(later, delay=FAR),
                    Nack(retried, replacement=replacement),
                    Reject(dead, "no such task"),
                ]
            )

            assert list(fenced) == []
            assert ids_of(await consumer.receive(10)) == [back.envelope.id]

    async def test_settling_again_is_safe(self, broker: Broker) -> None:
        await broker.publish(envelopes(4))
        async with broker.consume(MAIL, new_lease()) as consumer:
            [done, back, later, dead] = await take(consumer, 4)
            batch = [Ack(done), Nack(back), Nack(later, delay=FAR), Reject(dead, "bad")]
            await consumer.settle(batch)
            await consumer.settle(batch)

            assert ids_of(await consumer.receive(10)) == [back.envelope.id]

    async def test_what_another_worker_holds_cannot_be_settled(self, broker: Broker) -> None:
        await broker.publish(envelopes(3))
        async with (
            broker.consume(MAIL, new_lease()) as owner,
            broker.consume(MAIL, new_lease()) as stranger,
        ):
            in_flight = await take(owner, 3)
            batch = [Ack(in_flight[0]), Nack(in_flight[1]), Reject(in_flight[2], "not mine")]
            fenced = await stranger.settle(batch)

            assert ids_of(fenced) == ids_of(in_flight)
            assert list(await stranger.receive(10)) == []
            assert list(await owner.settle([Ack(delivery) for delivery in in_flight])) == []
