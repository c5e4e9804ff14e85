"""Follow-ups: what is sent because outcomes stand, before their messages are settled.

Not settled, a message is what remembers them: whoever has it next finds its outcome, and sends what
that says. Nobody waits for a queue that is full or a broker that is away: the message is given back
with what is left to be sent, for a little later.
"""

import asyncio
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from functools import partial

import msgspec

from asyncq.errors import BrokerUnavailable, ConfigurationError, QueueFull, Refused
from asyncq.language.effects import Send
from asyncq.language.envelope import Envelope
from asyncq.language.message import UNREADABLE
from asyncq.loggers import get_logger
from asyncq.outages import Outage
from asyncq.seams.broker import Completion, Nack, Settlement

log = get_logger(__name__)

LATER = 1.0  # seconds until what could not be sent is tried again
LEFT = "asyncq-left-to-send"  # header: what follows from a message that has ended
MOST_LEFT = 1024 * 1024  # bytes of that; of more the record tells
AWAY = 5.0  # seconds until a broker that did not take what follows is tried again

Publish = Callable[[Sequence[Send]], Sequence["asyncio.Future[None]"]]


class Following(msgspec.Struct, frozen=True, eq=False):
    """A delivery that is settled once these are sent."""

    settlement: Settlement
    sends: Sequence[Send]


class _Batch(msgspec.Struct, eq=False):
    """What is sent in one go."""

    items: Sequence[Following]
    brokers: Sequence[str]
    left: int = 0
    """How many answers are missing."""
    error: BaseException | None = None


class FollowUps:
    """Those of one completer that are on their way. ``settle`` hears how deliveries end."""

    def __init__(self, publish: Publish, settle: Callable[[Iterable[Completion]], None]) -> None:
        self._publish = publish
        self._settle = settle
        self._under_way: set[_Batch] = set()
        self._away: dict[str, float] = {}  # brokers, and until when they are not asked: loop time
        self._is_over = False
        self._outages: dict[str, Outage] = {}  # of which brokers and queues
        self._loop = asyncio.get_running_loop()
        self.waiting = 0
        """How many deliveries are not settled yet."""

    def send(self, items: Iterable[Following]) -> None:
        """Send what follows from each, and then settle it."""
        by_brokers: dict[Sequence[str], list[Following]] = defaultdict(list)
        for item in items:
            sends = item.sends
            one = len(sends) == 1
            brokers = (sends[0].broker,) if one else tuple(sorted({s.broker for s in sends}))
            by_brokers[brokers].append(item)
        for brokers, some in by_brokers.items():
            self._send(_Batch(some, brokers))

    def give_up(self) -> None:
        """Leave what is not sent yet to the next worker."""
        self._is_over = True
        for batch in list(self._under_way):
            self._end(batch)

    def _send(self, batch: _Batch) -> None:
        if self._is_over or self._are_away(batch.brokers):
            self._put_off(batch.items, LATER if self._is_over else AWAY)
            return
        self._under_way.add(batch)
        self.waiting += len(batch.items)
        futures: Sequence[asyncio.Future[None]] = ()
        try:
            futures = self._publish([send for item in batch.items for send in item.sends])
        except ConfigurationError as error:
            batch.error = error
        batch.left = len(futures)
        for future in futures:
            future.add_done_callback(partial(self._answered, batch))
        if not futures:
            self._end(batch)

    def _are_away(self, brokers: Iterable[str]) -> bool:
        now = self._loop.time()
        return bool(self._away) and any(self._away.get(name, 0.0) > now for name in brokers)

    def _answered(self, batch: _Batch, future: "asyncio.Future[None]") -> None:
        batch.left -= 1
        error = asyncio.CancelledError() if future.cancelled() else future.exception()
        batch.error = batch.error or error
        if batch.left == 0 and batch in self._under_way:
            self._end(batch)

    def _end(self, batch: _Batch) -> None:
        error, items = batch.error, batch.items
        self._under_way.discard(batch)
        self.waiting -= len(items)
        if self._is_over:
            self._put_off(items, LATER)
        elif error is None:
            if self._outages:
                self._works(batch)
            self._settle([Completion(item.settlement) for item in items])
        elif isinstance(error, BrokerUnavailable):
            until = self._loop.time() + AWAY
            self._away.update(dict.fromkeys(batch.brokers, until))
            self._fails(error, *(f"broker {name}" for name in batch.brokers))
            self._put_off(items, AWAY)
        elif len(items) > 1:  # who is at fault is to hold up none of the others
            for item in items:
                self._send(_Batch([item], batch.brokers))
        elif isinstance(error, Refused) and not isinstance(error, QueueFull):
            self._leave_out(batch, error)
        else:
            if isinstance(error, QueueFull):
                self._fails(error, f"queue {error.queue}")
                items = [_without_sent(items[0], error)]
            else:
                self._fails(error, *(f"broker {name}" for name in batch.brokers))
            self._put_off(items, LATER)

    def _leave_out(self, batch: _Batch, error: Refused) -> None:
        """Send the others: these would be refused for ever."""
        [item] = batch.items
        id = item.settlement.delivery.envelope.id
        log.error("what follows from message %s is not sent, and never will be: %s", id, error)
        left = [each for each in item.sends if each.envelope.id not in error.envelope_ids]
        if left and len(left) < len(item.sends):
            self._send(_Batch([Following(item.settlement, left)], batch.brokers))
        else:
            self._settle([Completion(item.settlement)])

    def _fails(self, error: BaseException, *places: str) -> None:
        for place in places:
            if (outage := self._outages.get(place)) is None:
                fails = f"what follows from tasks is not sent to {place}"
                works = f"what follows from tasks is sent to {place} again"
                outage = self._outages[place] = Outage(fails, works)
            outage.fail(error)

    def _works(self, batch: _Batch) -> None:
        queues = {send.envelope.queue for item in batch.items for send in item.sends}
        places = [*(f"broker {name}" for name in batch.brokers), *(f"queue {q}" for q in queues)]
        for place in places:
            if (outage := self._outages.pop(place, None)) is not None:
                outage.end()
        for name in batch.brokers:
            self._away.pop(name, None)

    def _put_off(self, items: Iterable[Following], pause: float) -> None:
        self._settle([Completion(_later(item, pause)) for item in items])


def left_to_send(envelope: Envelope) -> Sequence[Send] | None:
    """What is left to be sent of a message that has ended; None of one that is to run."""
    packed = envelope.headers.get(LEFT)
    if packed is None:
        return None
    try:
        return _decode(packed)
    except UNREADABLE:  # other hands wrote it
        return None


def _later(item: Following, pause: float) -> Nack:
    """Give it back, with what is left to be sent: its outcome may be forgotten meanwhile."""
    delivery = item.settlement.delivery
    packed = _encode(item.sends)
    headers = dict(delivery.envelope.headers)
    headers.pop(LEFT, None)
    if len(packed) <= MOST_LEFT:
        headers[LEFT] = packed
    again = msgspec.structs.replace(delivery.envelope, again=True, eta=None, headers=headers)
    return Nack(delivery, pause, again)


def _without_sent(item: Following, error: QueueFull) -> Following:
    """What a full queue has taken is not sent again: it may have ended before there is room."""
    left = [
        each
        for each in item.sends
        if each.envelope.queue != error.queue or each.envelope.id in error.envelope_ids
    ]
    return Following(item.settlement, left)


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(tuple[Send, ...]).decode
