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
    left: int = 0
    """How many answers are missing."""
    failed: list[tuple[Sequence[Send], BaseException]] = []


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

    def send(self, items: Sequence[Following]) -> None:
        """Send what follows from each, and then settle it."""
        if self._is_over:
            self._put_off(items, LATER)
        elif self._away and (away := self._names_away()):
            stuck: list[Following] = []
            others: list[Following] = []
            for item in items:
                is_stuck = any(send.broker in away for send in item.sends)
                (stuck if is_stuck else others).append(item)
            self._put_off(stuck, AWAY)
            self._send(others)
        else:
            self._send(items)

    def give_up(self) -> None:
        """Leave what is not sent yet to the next worker."""
        self._is_over = True
        for batch in list(self._under_way):
            self._end(batch)

    def _send(self, items: Sequence[Following]) -> None:
        if not items:
            return
        batch = _Batch(items)
        self._under_way.add(batch)
        self.waiting += len(items)
        # By queue, so that it is known which of them one that is full has taken.
        groups: dict[tuple[str, str], list[Send]] = defaultdict(list)
        for item in items:
            for send in item.sends:
                groups[send.broker, send.envelope.queue].append(send)
        for group in groups.values():
            try:
                futures = self._publish(group)
            except ConfigurationError as error:
                batch.failed.append((group, error))
                continue
            batch.left += len(futures)
            for future in futures:
                future.add_done_callback(partial(self._answered, batch, group))
        if not batch.left:
            self._end(batch)

    def _names_away(self) -> set[str]:
        now = self._loop.time()
        return {name for name, until in self._away.items() if until > now}

    def _answered(
        self, batch: _Batch, group: Sequence[Send], future: "asyncio.Future[None]"
    ) -> None:
        batch.left -= 1
        error = asyncio.CancelledError() if future.cancelled() else future.exception()
        if error is not None:
            batch.failed.append((group, error))
        if batch.left == 0 and batch in self._under_way:
            self._end(batch)

    def _end(self, batch: _Batch) -> None:
        items = batch.items
        self._under_way.discard(batch)
        self.waiting -= len(items)
        if self._is_over:
            self._put_off(items, LATER)
        elif not batch.failed:
            if self._outages:
                self._works(items)
            self._settle([Completion(item.settlement) for item in items])
        elif len(items) > 1 and any(_blames_nobody(error) for _, error in batch.failed):
            for item in items:  # who is at fault is to hold up none of the others
                self._send([item])
        else:
            self._sort_out(batch)

    def _sort_out(self, batch: _Batch) -> None:
        """Settle where all is taken, or will never be; put off what may be taken later."""
        left: set[str] = set()
        pause = LATER
        for group, error in batch.failed:
            ids = {send.envelope.id for send in group}
            if isinstance(error, QueueFull):
                left |= ids & error.envelope_ids
                self._fails(error, f"queue {error.queue}")
            elif isinstance(error, Refused):
                left |= ids - error.envelope_ids
                log.error("what follows from a task will never be sent: %s", error)
            else:
                left |= ids
                self._fails(error, f"broker {group[0].broker}")
                if isinstance(error, BrokerUnavailable):
                    pause = AWAY
                    self._away[group[0].broker] = self._loop.time() + AWAY
        for item in batch.items:
            if rest := [send for send in item.sends if send.envelope.id in left]:
                self._put_off([Following(item.settlement, rest)], pause)
            else:
                self._settle([Completion(item.settlement)])

    def _fails(self, error: BaseException, place: str) -> None:
        if (outage := self._outages.get(place)) is None:
            fails = f"what follows from tasks is not sent to {place}"
            works = f"what follows from tasks is sent to {place} again"
            outage = self._outages[place] = Outage(fails, works)
        outage.fail(error)

    def _works(self, items: Sequence[Following]) -> None:
        sends = [send for item in items for send in item.sends]
        for name in {send.broker for send in sends}:
            self._away.pop(name, None)
        places = {f"broker {send.broker}" for send in sends}
        for place in places | {f"queue {send.envelope.queue}" for send in sends}:
            if (outage := self._outages.pop(place, None)) is not None:
                outage.end()

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


def _blames_nobody(error: BaseException) -> bool:
    """Whether it may be over one of many."""
    return not isinstance(error, Refused | BrokerUnavailable | ConfigurationError)


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


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(tuple[Send, ...]).decode
