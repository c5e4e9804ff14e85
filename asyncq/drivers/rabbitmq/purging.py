"""Emptying a RabbitMQ queue of all but what others wait for the end of.

Each message is looked at: RabbitMQ itself removes all or none. What ends somewhere goes to the
suspects, where workers find it, with the verdict. Only where another is the single active consumer
nobody else is shown anything, and all of it goes.
"""

from collections.abc import Iterable

import msgspec
import pamqp.commands as amqp

from asyncq.drivers.rabbitmq import names
from asyncq.drivers.rabbitmq.content import Parcel
from asyncq.drivers.rabbitmq.fetching import STRIDE, Fetching
from asyncq.drivers.rabbitmq.parcels import Received, unwrap, verdict_of, wrap
from asyncq.drivers.rabbitmq.publisher import Publisher
from asyncq.drivers.rabbitmq.wire import HEARD, Content
from asyncq.seams.broker import purged


async def purge(publisher: Publisher, queue: str) -> int:
    """Remove what is ready, of the suspects, too; returns how much it was.

    Raises:
        BrokerUnavailable: some may have been removed.
    """
    # The suspects first, since what is doomed joins them.
    removed = await _empty(publisher, queue, names.suspects(queue))
    return removed + await _empty(publisher, queue, queue)


async def _empty(publisher: Publisher, queue: str, place: str) -> int:
    """Remove from this place of the queue as many as are there now."""
    left = await publisher.topology.count(place)
    if not left:
        return 0
    removed = 0
    channel = await publisher.connector.open_channel()
    fetching = Fetching(publisher.connector, place, channel)
    try:
        while left > 0 and await fetching.fetch(min(left, STRIDE)):
            page = [_as_known(content, queue) for content in fetching.ahead]
            fetching.ahead.clear()
            await publisher.move(_doomed(page, names.suspects(queue)))
            await fetching.ask(amqp.Basic.Ack(0, multiple=True), HEARD)
            left -= len(page)
            removed += sum(1 for item in page if not item.verdict)
        if fetching.came_up_short:
            removed += await publisher.topology.purge(place)
    finally:
        channel.close()
    return removed


def _as_known(content: Content, queue: str) -> Received:
    item = unwrap(content, queue)
    verdict = item.verdict or verdict_of(content, queue)
    return msgspec.structs.replace(item, verdict=verdict)


def _doomed(page: Iterable[Received], suspects: str) -> list[Parcel]:
    return [
        wrap(item.envelope, "", suspects, crashes=item.crashes, verdict=item.verdict or purged())
        for item in page
        if item.envelope.ends
    ]
