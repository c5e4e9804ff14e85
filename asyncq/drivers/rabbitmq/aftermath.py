"""What a consumer gets after its worker lost the connection: who is to blame for what comes again.

RabbitMQ says of it that it was delivered before, and not what became of that worker. Nothing of
this is done where no connection was lost.
"""

import asyncio
from collections.abc import Sequence

import msgspec

from asyncq.drivers.rabbitmq.content import headers_of
from asyncq.drivers.rabbitmq.parcels import Received
from asyncq.drivers.rabbitmq.wire import Content
from asyncq.loggers import get_logger
from asyncq.seams.quarantine import Quarantine
from asyncq.texts import counted

log = get_logger(__name__)

RETURNS = "x-delivery-count"  # a quorum queue's own count: one more for each loss, whosever it was


class Aftermath:
    """Of one queue, or of its suspects: it judges what comes until all is here that was in hand."""

    def __init__(self, queue: str, quarantine: Quarantine, *, has_priorities: bool = False) -> None:
        self._queue = queue
        self._losses = quarantine.losses(queue)
        self._has_priorities = has_priorities
        self._loop = asyncio.get_running_loop()

    @property
    def is_over(self) -> bool:
        return self._losses.are_over

    def begin(self, linger: float) -> None:
        """The queue is consumed again; ``linger`` as in `Losses.come_back`."""
        self._losses.come_back(self._loop.time(), linger)

    def lose(self, in_flight: Sequence[Received], most: int) -> None:
        """The connection is lost, and these were in hand; ``most`` as in `Losses.lose`."""
        self._losses.lose({each.envelope.id: each.spared for each in in_flight}, most)

    def judge(self, received: Received, content: Content) -> Received:
        """A delivery: one that comes again, and no worker died with it, as if it did not."""
        if not received.redelivered:
            # With priorities, one that is urgent passes what comes again.
            if not (self._has_priorities and received.envelope.priority):
                self.see_new()
            return received
        returns = headers_of(content).get(RETURNS)
        times = self._losses.spare(received.envelope.id, returns if isinstance(returns, int) else 0)
        if not times:
            return received
        return msgspec.structs.replace(received, redelivered=False, again=True, spared=times)

    def see_new(self) -> None:
        """What comes again comes before what is new, and before nothing comes."""
        losses = self._losses
        if losses.see_new(self._loop.time()) and losses.spared:
            log.info(
                "queue %s: %s came again because the connection to RabbitMQ was lost; that counts "
                "as the crash of no worker",
                self._queue,
                counted(losses.spared, "message"),
            )
