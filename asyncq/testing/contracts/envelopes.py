"""Envelopes: every field comes back, whatever way a message takes."""

from asyncq.language.envelope import Envelope
from asyncq.seams.broker import Broker, Nack, Reject
from asyncq.testing.contracts.given import (
    MAIL,
    DriverFixtures,
    FullBroker,
    full_envelope,
    make_suspects,
    new_lease,
    take,
)


class EnvelopeContract(DriverFixtures):
    """What a driver writes it reads again, field by field.

    A field that is added to `Header` has its value in `full_envelope`, and so goes through here.
    """

    async def test_every_field_arrives(self, broker: Broker) -> None:
        sent = full_envelope()

        await broker.publish([sent])
        if (finder := broker.offers.finder) is not None:  # as far as it can
            [seen] = await finder.peek(MAIL.name)
            _are_the_same(seen.envelope, sent)
        async with broker.consume(MAIL, new_lease()) as consumer:
            [delivery] = await take(consumer, 1)

        _are_the_same(delivery.envelope, sent)

    async def test_every_field_survives_being_given_back(self, broker: FullBroker) -> None:
        sent = full_envelope()
        await broker.publish([sent])

        async with broker.consume(MAIL, new_lease()) as consumer:
            [first] = await take(consumer, 1)
            await consumer.settle([Nack(first)])
            [again] = await take(consumer, 1)
        async with broker.consume(MAIL, new_lease()) as consumer:
            [after_leaving] = await take(consumer, 1)

        _are_the_same(again.envelope, sent)
        _are_the_same(after_leaving.envelope, sent)

    async def test_every_field_of_a_replacement_arrives(self, broker: FullBroker) -> None:
        sent = full_envelope()
        replacement = full_envelope(id=sent.id, body=b"attempt 2", headers={"attempt": 2})
        await broker.publish([sent])

        async with broker.consume(MAIL, new_lease()) as consumer:
            [first] = await take(consumer, 1)
            await consumer.settle([Nack(first, replacement=replacement)])
            [again] = await take(consumer, 1)

        _are_the_same(again.envelope, replacement)

    async def test_every_field_of_a_dead_letter_is_kept_and_replayed(
        self, broker: FullBroker
    ) -> None:
        sent = full_envelope()
        replacement = full_envelope(id=sent.id, body=b"afresh", headers={"attempt": 1})
        await broker.publish([sent])

        async with broker.consume(MAIL, new_lease()) as consumer:
            for lies_there, instead in ((sent, None), (replacement, replacement)):
                [dying] = await take(consumer, 1)
                await consumer.settle([Reject(dying, "bad", replacement=instead)])

                [letter] = await broker.dead_letters(MAIL.name)
                _are_the_same(letter.envelope, lies_there)
                await broker.replay(MAIL.name, [sent.id])
            [again] = await take(consumer, 1)

        _are_the_same(again.envelope, replacement)

    async def test_every_field_survives_a_worker(self, broker: FullBroker) -> None:
        self.needs(broker.offers.leases is not None, "to lose a worker and know it")
        sent = full_envelope()
        await make_suspects(broker, [sent])

        async with broker.consume(MAIL, new_lease()) as consumer:
            [suspect] = await take(consumer, 1)

        _are_the_same(suspect.envelope, sent)


def _are_the_same(came: Envelope, sent: Envelope) -> None:
    for field in Envelope.__struct_fields__:
        assert getattr(came, field) == getattr(sent, field), field
