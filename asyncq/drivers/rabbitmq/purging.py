"""Emptying a RabbitMQ queue of all but what others wait for the end of.

Each message is looked at: RabbitMQ itself removes all or none. What ends somewhere goes to the
suspects, where workers find it, with the verdict.
"""

from collections.abc import Iterable

import anyio
import msgspec
import pamqp.commands as amqp
from anyio.lowlevel import checkpoint

from asyncq.drivers.rabbitmq import names
from asyncq.drivers.rabbitmq.content import Parcel
from asyncq.drivers.rabbitmq.fetching import STRIDE, Fetching
from asyncq.drivers.rabbitmq.parcels import Received, unwrap, verdict_of, wrap
from asyncq.drivers.rabbitmq.publisher import Publisher
from asyncq.drivers.rabbitmq.wire import HEARD, Content
from asyncq.errors import BrokerUnavailable
from asyncq.loggers import get_logger
from asyncq.seams.broker import purged

MOST_TRIES = 3  # in a row that bring nothing though there is something

log = get_logger(__name__)


async def purge(publisher: Publisher, queue: str) -> int:
    """Remove what is ready, of the suspects, too; returns how much it was.

    Raises:
        BrokerUnavailable: some may have been removed.
    """
    topology = publisher.topology
    spec = topology.specs.get(queue)
    # The suspects first, since what is doomed joins them.
    removed = await _empty(publisher, queue, names.suspects(queue))
    if spec is None or not spec.single_active:
        return removed + await _empty(publisher, queue, queue)
    # All is handed to one consumer, and nobody else is shown anything.
    log.warning(
        "queue %s has a single active consumer, so all that waited there is removed unseen: "
        "workflows are not told, and wait until their time is over",
        queue,
    )
    return removed + await topology.purge(queue)


async def _empty(publisher: Publisher, queue: str, place: str) -> int:
    """Remove from this place of the queue as many as are there now."""
    left = await publisher.topology.count(place)
    if not left:
        return 0
    removed = tries = 0
    channel = await publisher.connector.open_channel()
    fetching = Fetching(publisher.connector, place, channel)
    try:
        while left > 0 and tries < MOST_TRIES:
            page: list[Received] = []
            # Shielded: what was fetched goes back as if a worker had died with it. It ends: what is
            # asked has a deadline.
            with anyio.CancelScope(shield=True):
                page = await _remove_some(publisher, queue, fetching, min(left, STRIDE))
            if not page and not fetching.was_shown_nothing:
                break
            tries = 0 if page else tries + 1
            left -= len(page)
            removed += sum(1 for item in page if not item.verdict)
            await checkpoint()
    finally:
        channel.close()
    if tries:
        raise BrokerUnavailable(
            f"queue {place} did not hand out all that waits there, {removed} of it were removed: "
            "is there another consumer that alone is handed messages? Purge again"
        )
    return removed


async def _remove_some(
    publisher: Publisher, queue: str, fetching: Fetching, count: int
) -> list[Received]:
    await fetching.fetch(count)
    page = [_as_known(content, queue) for content in fetching.ahead]
    fetching.ahead.clear()
    if page:
        await publisher.move(_doomed(page, names.suspects(queue)))
        await fetching.ask(amqp.Basic.Ack(0, multiple=True), HEARD)
    return page


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
