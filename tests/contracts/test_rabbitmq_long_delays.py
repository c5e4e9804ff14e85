"""Delays that are longer than RabbitMQ's own timers: what rests for months stays there."""

from itertools import accumulate

import anyio
import pytest

from asyncq.clock import SystemClock
from asyncq.drivers.rabbitmq import names
from asyncq.drivers.rabbitmq.broker import RabbitBroker
from asyncq.drivers.rabbitmq.publisher import Publisher
from asyncq.seams.broker import Ack, Nack
from asyncq.testing.contracts.given import ids_of, take
from tests.contracts.rabbit_given import MAIL, PATIENCE, broker, envelope, lease, publisher

__all__ = ["broker", "publisher"]  # fixtures

DAY = 86400.0
TIMER = 2**32 / 1000  # seconds that 32 bits of milliseconds make
DELAYS = [TIMER - DAY, TIMER + 1, 2 * TIMER + 1, 800 * DAY, 3 * 365 * DAY, 31 * 365 * DAY]


async def resting(publisher: Publisher) -> int:
    levels = range(12, names.LEVELS)
    return sum([await publisher.topology.count(names.level(n)) or 0 for n in levels])


@pytest.mark.parametrize("how", ["eta", "given back"])
async def test_a_delay_of_months_and_years_does_not_end_at_once(
    broker: RabbitBroker, publisher: Publisher, how: str
) -> None:
    later = [envelope(f"{n}") for n in range(len(DELAYS))]
    async with broker.consume(MAIL, lease()) as consumer:
        now = SystemClock().now()
        if how == "eta":
            await broker.publish(
                [
                    envelope(each.id, eta=now + delay)
                    for each, delay in zip(later, DELAYS, strict=True)
                ]
            )
        else:
            await broker.publish(later)
            taken = await take(consumer, len(later))
            await consumer.settle(
                [Nack(one, delay=delay) for one, delay in zip(taken, DELAYS, strict=True)]
            )
        for delay in (0.5, 1.0):  # these go through levels that are as low as any
            await broker.publish([envelope(f"soon {delay}", eta=now + delay)])
        seen = await take(consumer, 2)
        await consumer.settle([Ack(one) for one in seen])
        assert {one.envelope.id for one in seen} == {"soon 0.5", "soon 1.0"}
        assert not ids_of(await consumer.receive(10))
    with anyio.fail_after(PATIENCE):
        while await resting(publisher) != len(DELAYS):  # noqa: ASYNC110 - there is no event
            await anyio.sleep(0.05)


def test_no_delay_is_shortened_but_to_the_longest_there_is() -> None:
    for delay in accumulate([0.001, 0.1, 1.0, 60.0, DAY, TIMER, 800 * DAY]):
        assert delay <= names.delay_units(delay) * names.UNIT < delay + names.UNIT
    assert names.delay_units(1e12) * names.UNIT == names.LONGEST > 3 * 366 * DAY
