"""What every broker promises of messages whose end others wait for: none dies unseen."""

import pytest
from anyio import fail_after
from anyio.lowlevel import checkpoint

from asyncq.language.message import End, Status
from asyncq.language.topology import Queue
from asyncq.seams.broker import (
    MAX_BATCH,
    OVERFLOWED,
    PURGED,
    WAITED_TOO_LONG,
    Ack,
    Nack,
    Reject,
)
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
    ids_of,
    new_lease,
    now,
    publish_all,
    sweep,
    take,
)

TTL = 0.05  # seconds
ENDS = (End("latch", "part"),)
MANY = 2 * MAX_BATCH + 100


class DoomedContract(DriverFixtures):
    """What a broker would bury or remove by itself comes with a verdict, if it has ``ends``."""

    async def test_what_waited_too_long_is_handed_out_with_the_verdict(
        self, broker: FullBroker
    ) -> None:
        late = envelope(b"late", headers={"a": 1}, ends=ENDS)
        await broker.declare([Queue(MAIL.name, ttl=TTL)])
        await broker.publish([late, envelope(b"plain")])
        await _pass(TTL)

        async with broker.consume(MAIL, new_lease()) as consumer:
            [delivery] = await take(consumer, 1)
            assert delivery.envelope == late
            assert delivery.verdict.startswith(f"{WAITED_TOO_LONG}: ")
            await consumer.settle([Reject(delivery, delivery.verdict)])
            assert list(await consumer.receive(10)) == []
            letters = await broker.dead_letters(MAIL.name)
        assert {letter.envelope.body for letter in letters} == {b"late", b"plain"}
        assert len(letters) == 2
        assert (await broker.depth(MAIL.name)).ready == 0

    async def test_what_comes_in_time_has_no_verdict(self, broker: FullBroker) -> None:
        await broker.declare([Queue(MAIL.name, ttl=FAR, max_length=10, overflow="drop-head")])
        await broker.publish(envelopes(3, ends=ENDS))

        async with broker.consume(MAIL, new_lease()) as consumer:
            assert [each.verdict for each in await take(consumer, 3)] == ["", "", ""]

    @pytest.mark.parametrize("at_once", [True, False])
    async def test_what_gives_way_is_handed_out_with_the_verdict(
        self, broker: FullBroker, *, at_once: bool
    ) -> None:
        sent = envelopes(12, ends=ENDS)
        await broker.declare([Queue(MAIL.name, max_length=4, overflow="drop-head")])

        for batch in [sent] if at_once else [[each] for each in sent]:
            await broker.publish(batch)

        async with broker.consume(MAIL, new_lease()) as consumer:
            taken = await take(consumer, 12)
            doomed = [each for each in taken if each.verdict]
            assert all(each.verdict.startswith(f"{OVERFLOWED}: ") for each in doomed)
            assert sorted(ids_of(doomed)) == sorted(ids_of(sent[:8]))
            assert ids_of([each for each in taken if not each.verdict]) == ids_of(sent[8:])
            await consumer.settle([Reject(each, each.verdict) for each in doomed])
            assert list(await consumer.receive(10)) == []
        letters = await broker.dead_letters(MAIL.name)
        assert sorted(letter.envelope.id for letter in letters) == sorted(ids_of(sent[:8]))

    async def test_the_others_give_way_as_before(self, broker: FullBroker) -> None:
        sent = [envelope(b"0", ends=ENDS), envelope(b"1"), envelope(b"2", ends=ENDS)]
        await broker.declare([Queue(MAIL.name, max_length=1, overflow="drop-head")])
        for each in sent:
            await broker.publish([each])

        async with broker.consume(MAIL, new_lease()) as consumer:
            taken = await take(consumer, 2)
        assert {each.envelope.body: bool(each.verdict) for each in taken} == {
            b"0": True,
            b"2": False,
        }
        assert b"1" in {each.envelope.body for each in await broker.dead_letters(MAIL.name)}

    async def test_what_is_doomed_takes_nobodys_room(self, broker: FullBroker) -> None:
        await broker.declare([Queue(MAIL.name, max_length=2, overflow="drop-head")])
        await broker.publish(envelopes(5, ends=ENDS))
        await broker.publish([envelope(b"new")])

        async with broker.consume(MAIL, new_lease()) as consumer:
            taken = await take(consumer, 6)
        assert [each.envelope.body for each in taken if not each.verdict] == [b"4", b"new"]

    async def test_what_is_purged_is_handed_out_with_the_verdict(self, broker: FullBroker) -> None:
        await broker.publish([envelope(b"0"), envelope(b"1", ends=ENDS), envelope(b"2")])

        assert await broker.purge(MAIL.name) == 3
        async with broker.consume(MAIL, new_lease()) as consumer:
            [delivery] = await take(consumer, 1)
            assert delivery.envelope.body == b"1"
            assert delivery.verdict.startswith(f"{PURGED}: ")
            await consumer.settle([Ack(delivery)])
            assert list(await consumer.receive(10)) == []
        assert await broker.purge(MAIL.name) == 0

    async def test_what_is_purged_while_it_is_delayed_is_doomed_at_once(
        self, broker: FullBroker
    ) -> None:
        self.needs(broker.offers.finder is not None, "to purge what is delayed")
        sent = envelope(b"later", ends=ENDS, eta=now() + FAR)
        await broker.publish([sent, envelope(eta=now() + FAR)])

        assert await broker.purge(MAIL.name) == 2
        async with broker.consume(MAIL, new_lease()) as consumer:
            assert await broker.find([sent.id]) == [Status.QUEUED]
            [delivery] = await take(consumer, 1)
            assert delivery.envelope == sent
            assert delivery.verdict.startswith(f"{PURGED}: ")

    async def test_many_are_purged(self, broker: FullBroker) -> None:
        await publish_all(broker, envelopes(MANY, ends=ENDS))

        assert await broker.purge(MAIL.name) == MANY
        assert await broker.purge(MAIL.name) == 0, "what is doomed stays"
        async with broker.consume(MAIL, new_lease()) as consumer:
            taken = await take(consumer, MANY)
        assert all(each.verdict for each in taken)
        assert len(set(ids_of(taken))) == MANY

    async def test_it_comes_before_what_waits(self, broker: FullBroker) -> None:
        await broker.publish(envelopes(3, ends=ENDS))
        await broker.purge(MAIL.name)
        await broker.publish([envelope(b"new", priority=9 if self.has_priorities else 0)])

        async with broker.consume(MAIL, new_lease()) as consumer:
            assert bodies_of(await take(consumer, 4)) == [b"0", b"1", b"2", b"new"]

    async def test_the_verdict_outlives_giving_it_back(self, broker: FullBroker) -> None:
        await broker.publish(envelopes(3, ends=ENDS))
        await broker.purge(MAIL.name)

        async with broker.consume(MAIL, new_lease()) as consumer:
            first = await take(consumer, 3)
            again = envelope(b"again", id=first[2].envelope.id, ends=ENDS)
            await consumer.settle(
                [Nack(first[0]), Nack(first[1], 0.1), Nack(first[2], replacement=again)]
            )
            second = await take(consumer, 3)
        async with broker.consume(MAIL, new_lease()) as consumer:  # it was given back
            third = await take(consumer, 3)
        for taken in (second, third):
            assert sorted(bodies_of(taken)) == [b"0", b"1", b"again"]
            assert {each.verdict for each in taken} == {first[0].verdict}

    async def test_the_verdict_outlives_a_worker(self, broker: FullBroker) -> None:
        self.needs(broker.offers.leases is not None, "to lose a worker and know it")
        await broker.publish(envelopes(3, ends=ENDS))
        await broker.purge(MAIL.name)
        lease = new_lease()
        async with broker.consume(MAIL, lease) as consumer:
            first = await take(consumer, 3)
            await end_lease(broker, lease)
            await sweep(broker, 3)

        async with broker.consume(MAIL, new_lease(alone_from=5)) as consumer:
            second = await take(consumer, 3)
        assert {each.verdict for each in second} == {first[0].verdict}

    async def test_sent_again_from_the_dead_letters_it_runs(self, broker: FullBroker) -> None:
        [sent] = envelopes(1, ends=ENDS)
        await broker.publish([sent])
        await broker.purge(MAIL.name)
        async with broker.consume(MAIL, new_lease()) as consumer:
            [delivery] = await take(consumer, 1)
            await consumer.settle([Reject(delivery, delivery.verdict)])

            assert list(await broker.replay(MAIL.name, [sent.id])) == [sent.id]
            [again] = await take(consumer, 1)
            assert again.envelope == sent
            assert not again.verdict

    async def test_it_is_shown_to_operators(self, broker: FullBroker) -> None:
        await broker.publish(envelopes(2, ends=ENDS))
        await broker.purge(MAIL.name)

        depth = await broker.depth(MAIL.name)
        assert (depth.ready, depth.dead) == (2, 0)
        self.needs(broker.offers.finder is not None, "to look at what waits")
        assert {each.envelope.body for each in await broker.peek(MAIL.name)} == {b"0", b"1"}


async def _pass(seconds: float) -> None:
    """Return when the moment is over for every broker: theirs may be whole milliseconds."""
    end = now() + seconds + 0.01
    with fail_after(PATIENCE):
        while now() < end:
            await checkpoint()
