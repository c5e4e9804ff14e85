"""What a broker with `QueueAdmin` promises of dead letters: they are kept whole, within bounds."""

import logging
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from typing import Protocol, cast

import anyio
import anyio.lowlevel
import msgspec
import pytest
from anyio import fail_after

from asyncq.clock import SystemClock
from asyncq.config import Url
from asyncq.drivers.table import make_broker
from asyncq.language.envelope import Envelope, LastAttempt
from asyncq.language.message import Failure, Status
from asyncq.language.topology import Queue
from asyncq.seams.admin import DeadLetter, QueueAdmin
from asyncq.seams.broker import MAX_BATCH, Broker, QueueSpec, Reject
from asyncq.seams.dead import DeadLimits
from asyncq.testing.contracts.given import (
    FAR,
    MAIL,
    NEWS,
    PATIENCE,
    DriverFixtures,
    FullBroker,
    bodies_of,
    envelope,
    envelopes,
    ids_of,
    left_out,
    make_suspects,
    new_lease,
    now,
    publish_all,
    take,
)

LAST = LastAttempt(Failure("ValueError", "no way: größe\n", "Traceback …" * 100), 3, "w1")


class DeadLetterContract(DriverFixtures):
    """What is kept of a dead letter, and for how long."""

    async def test_a_dead_letter_keeps_every_field(self, broker: FullBroker) -> None:
        sent = envelope(bytes(range(256)), priority=3, headers={"a": [1, None]}, reply_to="me")
        has_leases = broker.offers.leases is not None
        if has_leases:
            await make_suspects(broker, [sent])
        else:
            await broker.publish([sent])
        await _reject(broker, sent, "it kills its workers: größe\n", LAST)

        [letter] = await broker.dead_letters(MAIL.name)

        expected = DeadLetter(
            envelope=sent,
            reason="it kills its workers: größe\n",
            died_at=pytest.approx(now(), abs=10),  # pyright: ignore[reportArgumentType] - about so
            crashes=1 if has_leases else 0,
            last=LAST,
        )
        assert letter == expected
        # A field that is added has to be in here, and so in every driver.
        assert left_out(expected) == ([] if has_leases else ["crashes"])
        assert left_out(LAST) == []

    async def test_a_long_traceback_is_kept_whole(self, broker: FullBroker) -> None:
        last = LastAttempt(Failure("shop.Äh", "x" * 4096, "größe " * 2700), 1, "w")
        await broker.publish([envelope()])
        await _reject(broker, None, "y" * 1000, last)

        [letter] = await broker.dead_letters(MAIL.name)

        assert (letter.reason, letter.last) == ("y" * 1000, last)

    async def test_what_takes_the_place_of_a_rejected_message_is_sent_again(
        self, broker: FullBroker
    ) -> None:
        sent = envelope(b"third attempt", priority=2)
        afresh = msgspec.structs.replace(sent, body=b"first attempt", headers={"b": 2})
        await broker.publish([sent])
        async with broker.consume(MAIL, new_lease()) as consumer:
            [dying] = await take(consumer, 1)
            await consumer.settle([Reject(dying, "bad", replacement=afresh)])

            [letter] = await broker.dead_letters(MAIL.name)
            await broker.replay(MAIL.name, [sent.id])
            [again] = await take(consumer, 1)

        assert letter.envelope == again.envelope == afresh

    # Bounds

    @pytest.mark.parametrize("at_once", [True, False])
    async def test_the_oldest_give_way_where_there_are_too_many(
        self, url: Url, *, at_once: bool
    ) -> None:
        sent = envelopes(12)
        async with _limited(url, most=5) as limited:
            await limited.publish([envelope(queue=NEWS.name), *sent])
            await _reject(limited, None, "elsewhere", queue=NEWS.name)
            async with limited.consume(MAIL, new_lease()) as consumer:
                dying = await take(consumer, len(sent))
                for batch in [dying] if at_once else [[each] for each in dying]:
                    await consumer.settle([Reject(each, "bad", LAST) for each in batch])

            letters = await _until_there_are(limited, 5)
            elsewhere = await limited.dead_letters(NEWS.name)

        assert _ids(letters) == ids_of(sent[-5:])
        assert all(letter.last == LAST for letter in letters)
        assert len(elsewhere) == 1

    async def test_what_gave_way_is_gone_for_good(self, url: Url) -> None:
        gone, kept = envelopes(2)
        async with _limited(url, most=1) as limited:
            await limited.publish([gone, kept])
            for _ in range(2):
                await _reject(limited, None, "bad", LAST)

            assert _ids(await _until_there_are(limited, 1)) == [kept.id]
            assert list(await limited.replay(MAIL.name, [gone.id])) == []
            await limited.publish([gone])
            async with limited.consume(MAIL, new_lease()) as consumer:
                assert ids_of(await take(consumer, 1)) == [gone.id]

    async def test_what_is_too_old_gives_way_to_the_next(self, url: Url) -> None:
        first = envelope()
        async with _limited(url, keep=0.3) as limited:
            await limited.publish([first])
            await _reject(limited, first, "bad", LAST)
            with fail_after(PATIENCE):
                while first.id in _ids(await limited.dead_letters(MAIL.name)):
                    await limited.publish([envelope()])
                    await _reject(limited, None, "bad", LAST)
                    await anyio.sleep(0.05)  # time passes: that is what is waited for

    async def test_the_dead_of_a_bounded_queue_are_bounded_too(self, url: Url) -> None:
        sent = envelopes(20)
        async with _limited(url, most=3) as limited:
            await limited.declare([Queue(MAIL.name, max_length=2, overflow="drop-head")])
            for each in sent:
                await limited.publish([each])

            letters = await _until_there_are(limited, 3)

        assert {letter.envelope.id for letter in letters} == set(ids_of(sent[15:18]))
        assert all(letter.last is None for letter in letters)

    async def test_what_waited_too_long_is_bounded_too(self, url: Url) -> None:
        async with _limited(url, most=3) as limited:
            await limited.declare([Queue(MAIL.name, ttl=0.05)])
            await limited.publish(envelopes(20))
            await anyio.sleep(0.2)  # time passes: that is what is waited for
            async with limited.consume(MAIL, new_lease()) as consumer:
                with fail_after(PATIENCE):
                    while not await limited.dead_letters(MAIL.name):
                        await consumer.receive(20)

            assert len(await _until_there_are(limited, 3)) == 3

    async def test_a_bound_that_is_lowered_is_reached_step_by_step(
        self, broker: FullBroker, url: Url
    ) -> None:
        self.needs(self.bounds_may_change, "to bound what it has already")
        sent = envelopes(3 * MAX_BATCH)
        await publish_all(broker, sent)
        async with broker.consume(MAIL, new_lease()) as consumer:
            for _ in range(3):
                dying = await take(consumer, MAX_BATCH)
                await consumer.settle([Reject(each, "bad") for each in dying])
        async with _limited(url, most=2) as limited:
            for number in range(4):
                await limited.publish([envelope(id=f"last {number}")])
                await _reject(limited, None, "bad")

            letters = await limited.dead_letters(MAIL.name)

        assert _ids(letters) == ["last 2", "last 3"]

    async def test_it_is_logged_once_that_dead_letters_give_way(
        self, url: Url, caplog: pytest.LogCaptureFixture
    ) -> None:
        async with _limited(url, most=2) as limited:
            for _ in range(10):
                await limited.publish([envelope()])
                await _reject(limited, None, "bad")

        [line] = [each for each in caplog.records if "are dropped" in each.getMessage()]
        assert line.levelno == logging.WARNING
        assert "queue mail" in line.getMessage()
        assert "keeps 2 of them" in line.getMessage()

    # Looking, replaying, deleting

    async def test_a_dead_letter_keeps_the_bytes_and_the_reason(self, broker: FullBroker) -> None:
        sent = envelope(bytes(range(256)), priority=3, headers={"a": [1, None]}, reply_to="me")
        reason = "no such task: größe\n"
        await _publish_and_reject(broker, sent, reason)

        [letter] = await broker.dead_letters(MAIL.name)

        assert letter.envelope == sent
        assert letter.reason == reason
        assert letter.died_at == pytest.approx(now(), abs=10)
        assert letter.crashes == 0

    async def test_a_dead_letter_keeps_its_crashes(self, broker: FullBroker) -> None:
        self.needs(broker.offers.leases is not None, "to lose a worker and know it")
        await make_suspects(broker, [envelope()])
        async with broker.consume(MAIL, new_lease()) as consumer:
            [suspect] = await take(consumer, 1)
            await consumer.settle([Reject(suspect, "it kills its workers")])

        [letter] = await broker.dead_letters(MAIL.name)
        assert letter.crashes == 1

    async def test_dead_letters_are_paged_with_the_oldest_first(self, broker: FullBroker) -> None:
        sent = envelopes(7)
        for each in sent:
            await _publish_and_reject(broker, each, "bad")

        pages = [
            await broker.dead_letters(MAIL.name, limit=3, offset=offset) for offset in (0, 3, 6, 9)
        ]

        letters = [letter for page in pages for letter in page]
        assert [len(page) for page in pages] == [3, 3, 1, 0]
        assert {letter.envelope.id for letter in letters} == set(ids_of(sent))
        assert letters == sorted(letters, key=lambda letter: letter.died_at)
        assert letters == list(await broker.dead_letters(MAIL.name))

    async def test_a_replayed_message_joins_the_end_of_its_queue(self, broker: FullBroker) -> None:
        dead = envelope(b"dead")
        await _publish_and_reject(broker, dead, "bad")
        await broker.publish([envelope(b"other")])

        assert list(await broker.replay(MAIL.name, ["nobody", dead.id])) == [dead.id]
        assert list(await broker.replay(MAIL.name, [dead.id])) == []
        async with broker.consume(MAIL, new_lease()) as consumer:
            assert bodies_of(await consumer.receive(10)) == [b"other", b"dead"]
        assert list(await broker.dead_letters(MAIL.name)) == []

    async def test_a_replayed_message_has_no_crashes_to_its_name(self, broker: FullBroker) -> None:
        self.needs(broker.offers.leases is not None, "to lose a worker and know it")
        sent = envelope()
        await make_suspects(broker, [sent])
        async with broker.consume(MAIL, new_lease()) as consumer:
            [suspect] = await take(consumer, 1)
            await consumer.settle([Reject(suspect, "it kills its workers")])

        await broker.replay(MAIL.name, [sent.id])
        async with broker.consume(MAIL, new_lease()) as consumer:
            [delivery] = await take(consumer, 1)

        assert delivery.crashes == 0
        assert not delivery.suspect

    async def test_replaying_wakes_who_waits(self, broker: FullBroker) -> None:
        dead = envelope()
        await _publish_and_reject(broker, dead, "bad")
        await broker.replay(MAIL.name, [dead.id])

        async with broker.consume(MAIL, new_lease()) as consumer:
            await consumer.wait()
            assert ids_of(await take(consumer, 1)) == [dead.id]

    async def test_a_deleted_dead_letter_is_gone_for_good(self, broker: FullBroker) -> None:
        self.needs(self.knows_ids, "to find messages")
        gone, kept = envelope(), envelope()
        await _publish_and_reject(broker, gone, "bad")
        await _publish_and_reject(broker, kept, "bad")

        assert await broker.delete_dead(MAIL.name, [gone.id, "nobody"]) == 1
        assert list(await broker.find([gone.id, kept.id])) == [None, Status.FAILED]
        assert list(await broker.replay(MAIL.name, [gone.id])) == []

        await broker.publish([gone])
        assert list(await broker.find([gone.id])) == [Status.QUEUED]

    async def test_only_dead_letters_are_replayed_or_deleted(self, broker: FullBroker) -> None:
        self.needs(self.knows_ids, "to find messages")
        sent = envelopes(2)
        await broker.publish(sent)
        async with broker.consume(MAIL, new_lease()) as consumer:
            await take(consumer, 1)

            assert list(await broker.replay(MAIL.name, ids_of(sent))) == []
            assert await broker.delete_dead(MAIL.name, ids_of(sent)) == 0
            assert list(await broker.find(ids_of(sent))) == [Status.RUNNING, Status.QUEUED]

    async def test_many_dead_letters_are_replayed_at_once(self, broker: FullBroker) -> None:
        sent = envelopes(MAX_BATCH)
        await broker.publish(sent)
        async with broker.consume(MAIL, new_lease()) as consumer:
            dying = await take(consumer, MAX_BATCH)
            await consumer.settle([Reject(delivery, "bad") for delivery in dying])

            replayed = await broker.replay(MAIL.name, ids_of(sent))
            assert sorted(replayed) == sorted(ids_of(sent))
            again = ids_of(await take(consumer, MAX_BATCH))
        assert sorted(again) == sorted(ids_of(sent))
        if self.knows_ids:
            assert again == list(replayed) == ids_of(sent)


async def _reject(
    broker: Broker,
    sent: Envelope | None,
    reason: str,
    last: LastAttempt | None = None,
    *,
    queue: str = MAIL.name,
) -> None:
    """Have a worker move the next message to the dead letters: this one, if it is said which."""
    async with broker.consume(QueueSpec(queue), new_lease()) as consumer:
        [delivery] = await take(consumer, 1)
        assert sent is None or delivery.envelope.id == sent.id
        await consumer.settle([Reject(delivery, reason, last)])


async def _publish_and_reject(broker: Broker, sent: Envelope, reason: str) -> None:
    await broker.publish([sent])
    await _reject(broker, sent, reason, queue=sent.queue)


class _Managed(Broker, QueueAdmin, Protocol):
    """What can be asked of a broker that is bounded otherwise than the fixture."""


@asynccontextmanager
async def _limited(url: Url, *, most: int = 100, keep: float = FAR) -> AsyncGenerator[_Managed]:
    """A second connection to the same store, with these bounds for dead letters."""
    async with make_broker(url, SystemClock(), DeadLimits(most, keep)) as broker:
        assert broker.offers.admin is broker
        yield cast("_Managed", broker)


async def _until_there_are(broker: QueueAdmin, count: int) -> Sequence[DeadLetter]:
    """The dead letters, once there are no more than so many."""
    with fail_after(PATIENCE):
        while len(letters := await broker.dead_letters(MAIL.name)) > count:
            await anyio.lowlevel.checkpoint()
    return letters


def _ids(letters: Sequence[DeadLetter]) -> list[str]:
    return [letter.envelope.id for letter in letters]
