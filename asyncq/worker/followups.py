"""Follow-ups: what is sent because outcomes stand, before their messages are settled.

Not settled, a message is what remembers them: whoever has it next finds its outcome, and sends what
that says. So nobody waits for a queue that is full or a broker that is away: the message is given
back, to be looked at again a little later.
"""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from functools import partial

import msgspec

from asyncq.errors import BrokerUnavailable, QueueFull, Refused
from asyncq.language.effects import Send
from asyncq.loggers import get_logger
from asyncq.outages import Outage
from asyncq.seams.broker import Completion, Nack, Settlement

log = get_logger(__name__)

LATER = 1.0  # seconds until what could not be sent is tried again

Publish = Callable[[Sequence[Send]], Sequence["asyncio.Future[None]"]]


class Following(msgspec.Struct, frozen=True, eq=False):
    """A delivery that is settled once these are sent."""

    settlement: Settlement
    sends: Sequence[Send]


class _Batch(msgspec.Struct, eq=False):
    """What is sent in one go."""

    items: Sequence[Following]
    left: int
    """How many answers are missing."""
    error: BaseException | None = None


class FollowUps:
    """Those of one completer that are on their way. ``settle`` hears how deliveries end."""

    def __init__(self, publish: Publish, settle: Callable[[Iterable[Completion]], None]) -> None:
        self._publish = publish
        self._settle = settle
        self._under_way: set[_Batch] = set()
        self._is_over = False
        self._outage = Outage("what follows from tasks is not sent", "what follows is sent again")

    @property
    def is_idle(self) -> bool:
        return not self._under_way

    def send(self, items: Sequence[Following]) -> None:
        """Send what follows from each, and then settle it."""
        if not items:
            return
        batch = _Batch(items, 0)
        futures: Sequence[asyncio.Future[None]] = ()
        if self._is_over:
            batch.error = BrokerUnavailable("the worker ends")
        else:
            try:
                futures = self._publish([send for item in items for send in item.sends])
            # What it is about is not known yet; each is tried by itself.
            except Exception as error:  # noqa: BLE001
                batch.error = error
        batch.left = len(futures)
        self._under_way.add(batch)
        for future in futures:
            future.add_done_callback(partial(self._answered, batch))
        if not futures:
            self._end(batch)

    def give_up(self) -> None:
        """Leave what is not sent yet to the next worker."""
        self._is_over = True
        for batch in list(self._under_way):
            batch.error = BrokerUnavailable("the worker ends")
            self._end(batch)

    def _answered(self, batch: _Batch, future: "asyncio.Future[None]") -> None:
        batch.left -= 1
        error = asyncio.CancelledError() if future.cancelled() else future.exception()
        batch.error = batch.error or error
        if batch.left == 0 and batch in self._under_way:
            self._end(batch)

    def _end(self, batch: _Batch) -> None:
        error, items = batch.error, batch.items
        self._under_way.discard(batch)
        if error is None:
            if self._outage.error is not None:
                self._outage.end()
            self._settle([Completion(item.settlement) for item in items])
        elif self._is_over:
            self._settle([Completion(_later(item.settlement)) for item in items])
        elif len(items) > 1:  # who is at fault is to hold up none of the others
            for item in items:
                self.send([item])
        else:
            self._fail(items[0], error)

    def _fail(self, item: Following, error: BaseException) -> None:
        if not isinstance(error, Refused) or isinstance(error, QueueFull):
            self._outage.fail(error)
            self._settle([Completion(_later(item.settlement))])
            return
        id = item.settlement.delivery.envelope.id
        log.error("what follows from message %s is not sent, and never will be: %s", id, error)
        left = [each for each in item.sends if each.envelope.id not in error.envelope_ids]
        if len(left) < len(item.sends):
            self.send([Following(item.settlement, left)] if left else [])
        if not left or len(left) == len(item.sends):
            self._settle([Completion(item.settlement)])


def _later(settlement: Settlement) -> Settlement:
    """Give it back, marked as what may have run."""
    delivery = settlement.delivery
    again = msgspec.structs.replace(delivery.envelope, again=True, eta=None)
    return Nack(delivery, LATER, again)
