"""Follow-ups: what is done because outcomes stand, before their messages are settled.

Not settled, a message is what remembers them: whoever has it next finds its outcome, and does what
that says. Nobody waits for a queue that is full or a broker that is away: the message is given back
with what is left to be done, for a little later. What its end has done to latches is remembered by
the ledger, with all that they release: that is tried once and holds up nobody.
"""

import asyncio
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from functools import partial

import anyio
import msgspec
from anyio.abc import TaskGroup

from asyncq.errors import (
    BackendUnavailable,
    BrokerUnavailable,
    ConfigurationError,
    QueueFull,
    Refused,
)
from asyncq.language.effects import Append, Arrive, Effect, Hold, Send
from asyncq.language.envelope import Envelope, LastAttempt
from asyncq.language.message import UNREADABLE
from asyncq.loggers import get_logger
from asyncq.outages import Outage
from asyncq.seams.broker import MAX_BATCH, Ack, Completion, Delivery, Nack, Reject, Settlement
from asyncq.worker.latches import Latches, latches_of
from asyncq.worker.releases import Publish

log = get_logger(__name__)

LATER = 1.0  # seconds until what could not be done is tried again
LEFT = "asyncq-left-to-do"  # header: what follows from a message that has ended
MOST_RELEASES = 4  # latches whose messages are sent at a time
MOST_LEFT = 1024 * 1024  # bytes of that; of more the record tells
BACKEND = "the backend"  # it may be in the way
AWAY = 5.0  # seconds until a broker that did not take what follows is tried again


class Following(msgspec.Struct, frozen=True, eq=False):
    """A delivery that is settled once these are done."""

    settlement: Settlement
    sends: Sequence[Send]
    first: Sequence[Append | Hold | Arrive] = ()
    """What is done before anything is sent."""
    refused: Sequence[tuple[Sequence[Send], Refused]] = ()
    """What will never be sent, which is done first as well: it ends as failed."""

    @property
    def comes_later(self) -> bool:
        """Whether something has to be done before anything is sent."""
        return bool(self.first or self.refused)

    @property
    def left(self) -> Sequence[Effect]:
        return (*self.first, *[send for sends, _ in self.refused for send in sends], *self.sends)

    @classmethod
    def of(
        cls, settlement: Settlement, effects: Iterable[Effect], *, are_suspect: bool = False
    ) -> "Following":
        """``are_suspect``: they may have been sent before, and a worker was lost since."""
        sends: list[Send] = []
        first: list[Append | Hold | Arrive] = []
        for effect in effects:
            if isinstance(effect, Send):
                sends.append(_as_suspect(effect) if are_suspect else effect)
            else:
                first.append(effect)
        return cls(settlement, sends, first)


class _Batch(msgspec.Struct, eq=False):
    """What is sent in one go."""

    items: Sequence[Following]
    left: int = 0
    """How many answers are missing."""
    failed: list[tuple[Sequence[Send], BaseException]] = []


class FollowUps:
    """Those of one completer that are on their way. ``settle`` hears how deliveries end."""

    def __init__(
        self,
        latches: Latches,
        publish: Publish,
        settle: Callable[[Iterable[Completion]], None],
    ) -> None:
        self._latches = latches
        # Something is done before these are sent; what is left of each.
        self._applying: dict[Following, Following] = {}
        self._to_apply: list[Following] = []
        self._news = asyncio.Event()
        self._releasing = anyio.Semaphore(MOST_RELEASES)
        self._publish = publish
        self._settle = settle
        self._under_way: set[_Batch] = set()
        self._away: dict[str, float] = {}  # brokers, and until when they are not asked: loop time
        self._is_over = False
        self._outages: dict[str, Outage] = {}  # of which brokers and queues
        self._loop = asyncio.get_running_loop()
        self.waiting = 0
        """How many deliveries are not settled yet."""

    async def run(self) -> None:
        """Do what is done before something is sent; until cancelled, which leaves the rest."""
        try:
            async with anyio.create_task_group() as group:
                while True:
                    if not self._to_apply:
                        self._news.clear()
                        await self._news.wait()
                        continue
                    batch = self._to_apply[:MAX_BATCH]
                    del self._to_apply[:MAX_BATCH]
                    await self._apply(batch, group)
        except asyncio.CancelledError:  # not passed on: what it leaves is to be settled
            self.give_up()

    async def _apply(self, items: Sequence[Following], group: TaskGroup) -> None:
        try:
            for item in items:
                for sends, refusal in item.refused:
                    await self._latches.refuse(sends, refusal)
            unsent = await self._latches.apply([each for item in items for each in item.first])
        except (BackendUnavailable, ConfigurationError) as error:
            self._not_applied(
                items, error, AWAY if isinstance(error, ConfigurationError) else LATER
            )
            return
        # It must survive, and one that no store can take is to hold up none of the others.
        except Exception as error:
            if len(items) > 1:
                for item in items:
                    await self._apply([item], group)
            else:
                log.exception("what follows from a task cannot be done")
                self._not_applied(items, error)
            return
        self._end_outage(BACKEND)
        if not unsent:
            self._applied(items)
            return
        released = set(unsent)
        theirs = [released & latches_of(item.first) for item in items]
        self._applied([item for item, own in zip(items, theirs, strict=True) if not own])
        together: dict[frozenset[str], list[Following]] = defaultdict(list)
        for item, own in zip(items, theirs, strict=True):
            if own:
                together[frozenset(own)].append(item)
                if item in self._applying:
                    self._applying[item] = msgspec.structs.replace(item, first=(), refused=())
        for names, mine in together.items():
            group.start_soon(self._release, names, mine)

    async def _release(self, latches: Iterable[str], items: Sequence[Following]) -> None:
        """Send what some latches have released, and go on with what has released it."""
        async with self._releasing:
            for latch in latches:
                await self._latches.release(latch)
        self._applied(items)

    def _applied(self, items: Iterable[Following]) -> None:
        ready = [item for item in items if self._applying.pop(item, None) is not None]
        self.waiting -= len(ready)
        if ready:
            self._do([msgspec.structs.replace(item, first=(), refused=()) for item in ready])

    def _not_applied(
        self, items: Iterable[Following], error: Exception, pause: float = LATER
    ) -> None:
        left = [item for item in items if self._applying.pop(item, None) is not None]
        self.waiting -= len(left)
        self._fails(error, BACKEND)
        self._put_off(left, pause)

    def send(self, items: Sequence[Following]) -> None:
        """Do what follows from each, and then settle it."""
        if any(item.comes_later for item in items) and not self._is_over:
            later = [item for item in items if item.comes_later]
            self._applying |= {item: item for item in later}
            self._to_apply += later
            self.waiting += len(later)
            self._news.set()
            items = [item for item in items if not item.comes_later]
        self._do(items)

    def _do(self, items: Sequence[Following]) -> None:
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
        left, self._applying = list(self._applying.values()), {}
        self._to_apply.clear()
        self.waiting -= len(left)
        self._put_off(left, LATER)
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
        refused: dict[str, Refused] = {}  # by the ids of what will never be sent
        pause = LATER
        for group, error in batch.failed:
            ids = {send.envelope.id for send in group}
            if isinstance(error, QueueFull):
                left |= ids & error.envelope_ids
                self._fails(error, f"queue {error.queue}")
            elif isinstance(error, Refused):
                left |= ids - error.envelope_ids
                refused |= dict.fromkeys(ids & error.envelope_ids, error)
            else:
                left |= ids
                self._fails(error, f"broker {group[0].broker}")
                if isinstance(error, BrokerUnavailable):
                    pause = AWAY
                    self._away[group[0].broker] = self._loop.time() + AWAY
        for item in batch.items:
            rest = [send for send in item.sends if send.envelope.id in left]
            if no := [send for send in item.sends if send.envelope.id in refused]:
                why = [([send], refused[send.envelope.id]) for send in no]
                self.send([Following(item.settlement, rest, refused=why)])
            elif rest:
                self._put_off([Following(item.settlement, rest)], pause)
            else:
                self._settle([Completion(item.settlement)])

    def _fails(self, error: BaseException, place: str) -> None:
        if (outage := self._outages.get(place)) is None:
            is_here = place == BACKEND
            fails = f"what follows from tasks is not {'kept in' if is_here else 'sent to'} {place}"
            works = fails.replace(" not ", " ") + " again"
            outage = self._outages[place] = Outage(fails, works)
        outage.fail(error)

    def _works(self, items: Sequence[Following]) -> None:
        sends = [send for item in items for send in item.sends]
        for name in {send.broker for send in sends}:
            self._away.pop(name, None)
        places = {f"broker {send.broker}" for send in sends}
        for place in places | {f"queue {send.envelope.queue}" for send in sends}:
            self._end_outage(place)

    def _end_outage(self, place: str) -> None:
        if self._outages and (outage := self._outages.pop(place, None)) is not None:
            outage.end()

    def _put_off(self, items: Iterable[Following], pause: float) -> None:
        """Give these back; but settle those of which nothing is left."""
        self._settle(
            [Completion(_later(item, pause) if item.left else item.settlement) for item in items]
        )


class Left(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What is left to be done of a message that has ended."""

    effects: tuple[Effect, ...] | None
    """None: what its record says; it is too much to be carried."""
    reason: str = ""
    """If it is to become a dead letter, why."""
    last: LastAttempt | None = None

    def settlement(self, delivery: Delivery) -> Ack | Reject:
        """How it is settled once that is done."""
        if not self.reason:
            return Ack(delivery)
        headers = {name: each for name, each in delivery.envelope.headers.items() if name != LEFT}
        letter = msgspec.structs.replace(delivery.envelope, again=False, headers=headers)
        return Reject(delivery, self.reason, self.last, letter)


def left_of(envelope: Envelope) -> Left | None:
    """None of a message that is to run."""
    packed = envelope.headers.get(LEFT)
    if packed is None:
        return None
    try:
        return _decode(packed)
    except UNREADABLE:  # other hands wrote it
        return None


def _as_suspect(send: Send) -> Send:
    """Where it is stored twice, the copy must not pass for one that no worker has died with: who
    takes its worker down would do so beside others that are to be alone, and they be charged."""
    return Send(msgspec.structs.replace(send.envelope, suspect=True), send.broker)


def _blames_nobody(error: BaseException) -> bool:
    """Whether it may be over one of many."""
    return not isinstance(error, Refused | BrokerUnavailable | ConfigurationError)


def _later(item: Following, pause: float) -> Nack:
    """Give it back, with what is left to be done: its outcome may be forgotten meanwhile."""
    settlement = item.settlement
    delivery = settlement.delivery
    envelope, reason, last = delivery.envelope, "", None
    if isinstance(settlement, Reject):
        envelope = settlement.replacement or envelope
        reason, last = settlement.reason, settlement.last
    packed = _encode(Left(tuple(item.left), reason, last))
    headers = dict(envelope.headers)
    headers.pop(LEFT, None)
    if len(packed) <= MOST_LEFT:
        headers[LEFT] = packed
    elif reason:
        headers[LEFT] = _encode(Left(None, reason, last))
    again = msgspec.structs.replace(envelope, again=True, eta=None, headers=headers)
    return Nack(delivery, pause, again)


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Left).decode
