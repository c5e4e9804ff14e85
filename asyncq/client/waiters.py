"""Waiting for outcomes: one subscription per client, whatever waits.

Records are pushed to the client's address; what nobody has asked for yet is kept for the handles
that are alive (`asyncq.client.arrivals`). Pushing is best effort, so what is waited for is also
read: once where a push could have been missed before, together with what was sent beside it, again
after a lost connection, and every few seconds besides. Ids that another client sent are read alone,
at growing intervals.
"""

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence
from typing import Any

import anyio

from asyncq.client.arrivals import LARGE, UNSURE, Arrivals, Batch
from asyncq.client.doubts import SURE, Doubts
from asyncq.client.result import Expectation
from asyncq.errors import (
    BackendUnavailable,
    BrokerUnavailable,
    ConfigurationError,
    TaskFailed,
    UnknownResult,
)
from asyncq.language.message import Status, new_id, status_of
from asyncq.language.policies import Retry
from asyncq.language.record import Record
from asyncq.loggers import get_logger
from asyncq.outages import Outage
from asyncq.seams.backend import Backend
from asyncq.seams.feeds import WRITTEN_FOR_OTHERS, replies_to

log = get_logger(__name__)

REREAD = 5.0  # seconds between two readings of everything that is waited for
FOREIGN = Retry(times=0, base=0.02, factor=1.5, ceiling=0.3, jitter=False)  # for others' ids
LOCATE_AFTER = 0.4  # seconds; whoever names an id may be a little earlier than who sends it
LISTEN_TIMEOUT = 10.0  # seconds
LATE = 0.5  # seconds that a backend may take to answer; then it is named as the reason
READ_BATCH = 500
READ_BYTES = 64 * LARGE  # that are read along, where it is known how much it is
DEAD = "no outcome is kept: its queue's dead letters have it, with the reason (asyncq dead list)"
TOLD_ONCE = (
    "this app has no backend that keeps outcomes: RabbitMQ tells each once, to the client that "
    "sent the task, and it is not this one or has handed it out; give the app a backend "
    "(App(..., backend='redis://...')) to look up any id anywhere"
)
LOST = (
    "the queue in RabbitMQ that outcomes come to was gone for a while, and what was told meanwhile "
    "is lost; the task itself is not"
)
DROPPED = "its outcome came while too many others waited to be read, and this backend keeps none"
TELLS_NOTHING = "the app's backend is null://, which keeps no outcomes and tells nobody"

Locate = Callable[[Sequence[str]], Awaitable[Sequence[Status | None]]]


class Waiters:
    """Who waits for which outcome. One per client; runs in the client's task group."""

    def __init__(self, backend: Backend, locate: Locate) -> None:
        self.address = new_id()
        """The ``reply_to`` of what this client sends."""
        self._backend = backend
        self._locate = locate
        self._told_once = backend.offers.keeps_nothing
        self._mute = backend.offers.tells_nothing
        self._may_refuse = self._told_once or self._mute
        self._arrivals = Arrivals(remembers=self._told_once)
        self.sent = self._arrivals.sent
        """Say that this client sends a message of this id; its handle keeps what is returned."""
        self.sent_together = self._arrivals.sent_together
        """As `sent`, for a batch."""
        self.sent_as = self._arrivals.sent_as
        """As `sent`, for an id of the caller's own: it may be there already, or have ended, sent by
        another client or an earlier run of this program, and nothing will be pushed to us."""
        self._waiting: dict[str, list[Expectation[Any]]] = defaultdict(list)
        self._foreign: dict[str, float] = {}  # and since when it is waited for, in loop time
        self._unread: set[str] = set()
        self._along: list[Batch] = []  # of which all that is missing is in `_unread`
        self._doubts = Doubts()
        self._places: dict[str, Status] = {}  # of what is waited for, as it was found last
        self._wanted = asyncio.Event()
        self._to_read = asyncio.Event()
        self._closed: BaseException | None = None
        self._listening = asyncio.Event()  # or known not to
        self._deaf: ConfigurationError | None = None
        """Why nothing that is told once can be heard; what is told meanwhile is lost."""
        self._silence = Outage("waiting for results is interrupted", "waiting for results goes on")
        self._blindness = Outage("reading results is interrupted", "reading results goes on")
        self._asked_at: float | None = None  # loop time of a question that was not answered yet

    async def listen_at_once(self) -> None:
        """Begin to listen before anybody waits; returns once pushes come.

        Or once it is known that they will not until somebody changes something (a right that is
        missing, say): that is told to whoever asks for a result, and the others may send.

        Raises:
            BackendUnavailable: neither was so in ``LISTEN_TIMEOUT`` seconds.
        """
        if not self._wanted.is_set():
            self._begin()
        with anyio.move_on_after(LISTEN_TIMEOUT):
            await self._listening.wait()
            return
        why = self._silence.error or "it does not answer"
        raise BackendUnavailable(
            f"outcomes cannot be listened for after {LISTEN_TIMEOUT} s: {why}"
        ) from self._silence.error

    # What was sent

    def batch_of(self, id: str) -> Batch | None:
        """What was sent together with this id, if this client sent it and remembers."""
        batch = self._arrivals.find(id)
        if batch is not None:
            batch.shared.add(id)  # somebody else has a handle of it, most likely
        return batch

    def forget(self, ids: Sequence[str]) -> None:
        """Drop what came for these. Any thread may ask."""
        for id in ids:
            batch = self._arrivals.find(id)
            if batch is not None:
                for each in (batch, *self._arrivals.others(batch)):
                    each.shared.discard(id)
                    each.came.pop(id, None)
                    each.taken.add(id)  # who asks now has to read it

    def status(self, id: str) -> Status:
        """What is known here of an id that neither backend nor brokers know anything of."""
        batch = self._arrivals.find(id)
        if batch is None:
            return Status.UNKNOWN
        record = batch.came.get(id)
        if record is not None:
            return status_of(record.outcome)
        ended = id in batch.taken or id in batch.missed or batch.lost
        return Status.UNKNOWN if ended else Status.QUEUED

    # Who waits

    def expect(self, expectation: Expectation[Any]) -> None:
        """Tell this how its task ends, now or later; or why it cannot be told."""
        id, batch = expectation.id, expectation.sent
        if not self._wanted.is_set():
            self._begin()
        if batch is not None and (record := batch.take(id)) is not None:
            expectation.meet(record)
            return
        if self._may_refuse and (refusal := self._refusal(id, batch)) is not None:
            expectation.tell(refusal)
            return
        expectation.at = self
        self._waiting[id].append(expectation)
        if self._told_once:
            return
        if batch is None or batch.epoch == UNSURE or id in batch.taken:
            self._foreign.setdefault(id, asyncio.get_running_loop().time())
            self._ask([id])
        elif batch.epoch != (epoch := self._arrivals.epoch) or epoch == 0 or id in batch.missed:
            self._ask([id])
            self._ask_along(id, batch)
        if self._doubts.was_absent(id):
            self.look(id)

    def leave(self, expectation: Expectation[Any]) -> None:
        """This one waits no more."""
        expectation.at = None
        others = self._waiting.get(expectation.id)
        if others is None:
            return
        others.remove(expectation)
        if not others:
            self._end(expectation.id)

    def look(self, *ids: str) -> None:
        """Read these, and look for them, if somebody still waits: his time is half over."""
        for id in ids:
            if id in self._waiting:
                self._doubts.raise_for(id)
                self._ask([id])

    def missed(self, ids: Iterable[str]) -> None:
        """What became of these may have been told to nobody: who waits for them has to read it."""
        for id in ids:
            batch = self._arrivals.find(id)
            if batch is not None and id not in batch.came:
                batch.missed[id] = 0
            self.look(id)

    def place_of(self, id: str) -> Status | None:
        """Where it was, when somebody's time was half over; None if that is not known."""
        return self._places.get(id)

    def why_late(self) -> str | None:
        """What keeps outcomes from being heard of, if anything does."""
        for outage in (self._blindness, self._silence):
            if outage.error is not None:
                return f"the backend has been away for {outage.seconds:.1f} s ({outage.why})"
        if self._asked_at is not None:
            seconds = asyncio.get_running_loop().time() - self._asked_at
            if seconds >= LATE:
                return f"the backend was asked {seconds:.1f} s ago and has not answered"
        return None

    def close(self, why: BaseException | None = None) -> None:
        """Nothing comes any more: whoever waits, or begins to, hears of that, and why."""
        self._may_refuse = True
        self._closed = why or ConfigurationError(
            "the app is not connected any more: await results inside of 'async with app:'"
        )
        for id in list(self._waiting):
            self._disappoint(id, self._closed)

    # What runs

    async def listen(self) -> None:
        """Take in pushes from the first time that somebody waits until cancelled."""
        await self._wanted.wait()
        while True:
            try:
                async with self._backend.subscribe(replies_to(self.address)) as replies:
                    self._silence.end()
                    self._listening.set()
                    self._miss(lost=self._deaf is not None)
                    self._deaf = None
                    while True:
                        records = await replies.receive()
                        if not records:
                            self._miss(lost=True)
                        for record in records:
                            self._resolve(record)
            # A component that must survive: whatever a driver raises here, what else the app does
            # goes on, and who waits is told why nothing comes.
            except Exception as error:  # noqa: BLE001
                if isinstance(error, ConfigurationError) and self._told_once:
                    self._refuse_all(error)
                await anyio.sleep(self._silence.fail(error))

    async def hear_of_others(self) -> None:
        """As `listen`, of outcomes that are sent to nobody: where brokers cannot say what they
        have, who cancels a message does not know who waits for it."""
        await self._wanted.wait()
        outage = Outage(
            "hearing of what others cancel is interrupted", "hearing of what others cancel goes on"
        )
        while True:
            try:
                async with self._backend.subscribe(WRITTEN_FOR_OTHERS) as ends:
                    outage.end()
                    while True:
                        self.look(*[record.id for record in await ends.receive()])
            # A component that must survive, as `listen`; without it all is read every few seconds.
            except Exception as error:  # noqa: BLE001
                await anyio.sleep(outage.fail(error))

    async def read(self) -> None:
        """Read what must be read, until cancelled."""
        await self._wanted.wait()
        loop = asyncio.get_running_loop()
        polls, next_full = 1, loop.time() + REREAD
        while True:
            pause = min(FOREIGN.pause(polls), REREAD) if self._foreign else REREAD
            with anyio.move_on_after(pause):
                await self._to_read.wait()
            self._to_read.clear()
            new, self._unread = self._unread, set()
            along, self._along = self._along, []
            polls = 1 if not new.isdisjoint(self._foreign) else polls + 1
            full, epoch = loop.time() >= next_full, self._arrivals.epoch
            ids = new.union(self._waiting if full else self._foreign)
            doubted = self._doubts.take()
            try:
                await self._fetch(list(ids), ids if full else doubted | self._late_foreign())
                for batch in along:
                    batch.epoch = epoch  # what else of it ends is pushed
                if ids:
                    self._blindness.end()
            # A component that must survive, as `listen`.
            except Exception as error:  # noqa: BLE001
                self._unread |= new
                self._doubts.restore(doubted)
                self._along += along
                await anyio.sleep(self._blindness.fail(error))
                if self._unread:
                    self._to_read.set()
            if full:
                next_full = loop.time() + REREAD

    def _late_foreign(self) -> set[str]:
        """What another client has sent, and would be there by now."""
        before = asyncio.get_running_loop().time() - LOCATE_AFTER
        return {id for id, since in self._foreign.items() if since <= before}

    async def _fetch(self, ids: Sequence[str], in_doubt: Collection[str]) -> None:
        absent = list[str]()
        for start in range(0, len(ids), READ_BATCH):
            batch = ids[start : start + READ_BATCH]
            # Asked before reading: a message that ends in between is found by the second.
            places = await self._located([id for id in batch if id in in_doubt])
            self._asked_at = asyncio.get_running_loop().time()
            try:
                records = await self._backend.fetch(batch)
            finally:
                self._asked_at = None
            for id, record in zip(batch, records, strict=True):
                if record is not None:
                    self._resolve(record, wanted=True)
                elif id not in places:
                    pass  # nobody was asked, or nobody can say
                elif (place := places[id]) is None:
                    if id in self._foreign or self._doubts.is_surely_absent(id):
                        self._disappoint(id, UnknownResult(id))
                    else:
                        absent.append(id)
                else:
                    self._doubts.found(id)
                    if id in self._waiting:
                        self._places[id] = place
                    if place is Status.FAILED:  # by its queue's bounds, by no worker's word
                        self._disappoint(id, TaskFailed(id, "DeadLetter", DEAD))
        if absent:  # a second look, when that is enough to be sure
            asyncio.get_running_loop().call_later(SURE, self.look, *absent)

    async def _located(self, ids: Sequence[str]) -> dict[str, Status | None]:
        if not ids:
            return {}
        try:
            return dict(zip(ids, await self._locate(ids), strict=True))
        except BrokerUnavailable as error:
            log.debug("the brokers could not be asked where messages are: %s", error)
            return {}

    # Within

    def _begin(self) -> None:
        self._wanted.set()
        self._arrivals.listen()

    def _ask(self, ids: Sequence[str]) -> None:
        self._unread.update(ids)
        self._to_read.set()

    def _ask_along(self, id: str, batch: Batch) -> None:
        """Read with it what was sent with it: that will be asked for next."""
        epoch = self._arrivals.epoch
        if batch.epoch != epoch:
            if batch.asked != epoch or epoch == 0:
                batch.asked = epoch
                self._unread.update(batch.missing())
                if epoch:
                    self._along.append(batch)
            return
        size = batch.missed.get(id, 0)
        for other, more in batch.missed.items():
            if (size := size + more) > READ_BYTES:
                break
            self._unread.add(other)

    def _resolve(self, record: Record, *, wanted: bool = False) -> None:
        id = record.id
        expected, batch = self._end(id), self._arrivals.find(id)
        if batch is not None and id not in batch.taken:
            if len(expected) == 1 and expected[0].sent is batch and batch.is_for_one(id):
                batch.taken.add(id)
                expected[0].meet(record)
                return
            wanted = wanted or self._told_once or bool(expected)
            for each in (batch, *self._arrivals.others(batch)):
                self._arrivals.keep(each, record, wanted=wanted)
        for each in expected:
            if each.sent is not None:
                each.sent.give(id)
            each.meet(record)

    def _disappoint(self, id: str, error: BaseException) -> None:
        for each in self._end(id):
            each.tell(error)

    def _end(self, id: str) -> Sequence[Expectation[Any]]:
        """Nobody waits for this any more; returns who did."""
        expected = self._waiting.pop(id, None)
        if expected is None:
            return ()
        self._foreign.pop(id, None)
        self._unread.discard(id)
        self._places.pop(id, None)
        for each in expected:
            each.at = None
        return expected

    def _refuse_all(self, why: ConfigurationError) -> None:
        """Nothing can be heard until somebody mends this."""
        self._deaf = why
        self._listening.set()
        for id in list(self._waiting):
            self._disappoint(id, why)

    def _refusal(self, id: str, batch: Batch | None) -> BaseException | None:
        """Why this will never come, if that is known."""
        if self._closed is not None:
            return self._closed
        if self._mute:
            return UnknownResult(id, TELLS_NOTHING)
        if not self._told_once:
            return None
        if batch is None or id in batch.taken:
            return UnknownResult(id, TOLD_ONCE)
        if id in batch.missed:
            return UnknownResult(id, DROPPED)
        return UnknownResult(id, LOST) if batch.lost else self._deaf

    def _miss(self, *, lost: bool) -> None:
        """Pushes may have been missed: read everything, and trust nothing sent before."""
        self._arrivals.epoch += 1
        if not self._told_once:
            self._ask(list(self._waiting))
        elif lost:
            for batch in self._arrivals.living():
                batch.lost = True
            for id in list(self._waiting):
                self._disappoint(id, UnknownResult(id, LOST))
