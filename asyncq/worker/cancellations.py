"""Cancellations: what was asked to end, as a worker meets it.

Marks lie in the backend's registry, and each worker keeps all of them in mind: what it takes from a
queue and is marked ends without running, what runs is cancelled when its mark is heard of. As long
as it cannot know whether there are new ones, it starts nothing.

A coroutine is cancelled once, and has `Config.cancel_grace` to clean up; then once more, and a
moment later it is left behind: its slot is free again, and how it ends is of no interest any more.
A function in a thread sees `Context.cancelled`, and is interrupted when its grace is over.
"""

import asyncio
import math
import traceback
from array import array
from collections.abc import Callable, Sequence
from types import FrameType
from typing import Any
from weakref import WeakKeyDictionary, WeakSet

import anyio
import msgspec

from asyncq.client.entries import Entries
from asyncq.errors import NewerVersion, Undecodable
from asyncq.language.effects import KEEP_EFFECTS
from asyncq.language.envelope import Envelope
from asyncq.language.marks import ASKED, KEEP_ASKED, KIND, Mark, read_mark
from asyncq.language.message import LAST_ERROR, Cancelled, Header, Message
from asyncq.language.record import Record
from asyncq.language.scopes import SCOPE, begun_in, names_in
from asyncq.loggers import get_logger
from asyncq.outages import Outage
from asyncq.seams.backend import Backend
from asyncq.seams.broker import MAX_BATCH, Delivery
from asyncq.seams.registry import Entry
from asyncq.worker.pool import LAST_TIMEOUT, Slots

log = get_logger(__name__)

MOST_GIVEN_BACK = 1000  # messages that were given back for later and are remembered
ON_ITS_WAY = 2.0  # seconds for which they are: a mark takes no longer to be heard of
BETWEEN_ENDS = 0.5  # seconds: what is in mind is built anew no more often than that
MOST_FRAMES = 20  # of the stack of what is left behind


class _Marked(msgspec.Struct, frozen=True, eq=False):
    """A mark as it is kept in mind: of its ids the hashes alone, which take less room."""

    mark: Mark
    ends: float
    hashes: "array[int] | None"

    @classmethod
    def of(cls, mark: Mark, ends: float | None) -> "_Marked":
        hashes = None if mark.ids is None else array("q", map(hash, mark.ids))
        lean = mark if hashes is None else msgspec.structs.replace(mark, ids=())
        return cls(lean, math.inf if ends is None else ends, hashes)


class Cancellations:
    """Those that one worker knows of."""

    def __init__(
        self,
        backend: Backend,
        slots: Slots,
        *,
        decode: Callable[[Envelope], Message],
        now: Callable[[], float],
        grace: float,
        keep: float,
    ) -> None:
        offers = backend.offers
        self._backend = backend
        self._keep = keep  # seconds, of outcomes
        self._slots = slots
        self._decode = decode
        self._now = now
        self._grace = grace
        self._marks: dict[str, _Marked] = {}
        self._named: dict[int, tuple[_Marked, ...]] = {}  # by the hashes of ids
        self._scoped: dict[str, _Marked] = {}  # by the names of scopes
        self._others: Sequence[_Marked] = ()  # that name neither
        self._next_end = math.inf  # Unix seconds, of the first that ends; or when one has gone
        self._not_before = -math.inf  # loop time; they are looked at
        self._asked: WeakKeyDictionary[asyncio.Task[Any], Mark] = WeakKeyDictionary()
        self._left: WeakSet[asyncio.Task[Any]] = WeakSet()
        self._reasons: dict[str, str] = {}  # by the id of what runs and was asked to end
        self._given_back: dict[str, tuple[float, Message]] = {}  # since when, in loop time
        self._to_record: list[Record] = []
        self._to_say: list[str] = []  # ids of what runs here and was asked to end
        self._news = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._entries: Entries | None = None
        if offers.registry is not None and offers.topics is not None:
            self._entries = Entries(
                offers.registry, offers.topics, KIND,
                tell=self._hear, became=self._became, about="what is cancelled",
            )  # fmt: skip
        self.is_alert = self._entries is not None
        """Whether there may be marks: what is about to run is to be looked at."""
        self.has_left = False
        """Whether a task was ever left behind. Asked for each message, and so plain."""

    async def run(self) -> None:
        """Keep the marks in mind until cancelled."""
        if self._entries is not None:
            async with anyio.create_task_group() as group:
                group.start_soon(self._entries.run)
                group.start_soon(self._record)

    def may_be_marked(self, message: Message) -> bool:
        """Whether `mark_of` has to be asked."""
        entries = self._entries
        return entries is not None and (not entries.is_current or self.find(message) is not None)

    async def mark_of(self, message: Message) -> Mark | None:
        """The mark on this message; waits until all marks are known."""
        entries = self._entries
        if entries is None:
            return None
        while not entries.is_current:
            await entries.until_current()
        if self.find(message) is None:
            return None
        await entries.catch_up()  # it may have been spared just before it was sent again
        return self.find(message)

    def asked(self) -> Mark | None:
        """The mark for which the current task was cancelled."""
        if not self._asked:
            return None
        task = asyncio.current_task()
        return None if task is None else self._asked.get(task)

    def was_left(self) -> bool:
        """Whether the current task was left behind: its end was told without it."""
        return asyncio.current_task() in self._left

    def reason_for(self, id: str) -> str | None:
        """Why the message of this id, which runs, was asked to end; None if it was not. May be
        asked in any thread."""
        return self._reasons.get(id)

    def given_back(self, message: Message) -> None:
        """It is to run again later, and its mark may be on its way to us."""
        if self._entries is not None:
            header = message.header
            lean = Header(
                id=header.id,
                queue=header.queue,
                reply_to=header.reply_to,
                sent_at=header.sent_at,
                headers=header.headers,
            )
            now, back = self._loop.time(), self._given_back
            back.pop(header.id, None)
            back[header.id] = now, Message(lean, message.task, attempt=message.attempt)
            oldest = next(iter(back))
            if len(back) > MOST_GIVEN_BACK or back[oldest][0] < now - ON_ITS_WAY:
                del back[oldest]

    def _became(self, is_current: bool) -> None:
        self.is_alert = bool(self._marks) or not is_current

    def _hear(self, name: str, entry: Entry | None) -> None:
        before = self._marks.pop(name, None)
        mark = None if entry is None else read_mark(entry.data)
        if entry is not None and mark is not None:
            marked = self._marks[name] = _Marked.of(mark, entry.ends)
            self.is_alert = True
            if before is None:
                self._add(marked)
                if not mark.spares:
                    self._apply(mark)
        if before is not None:  # many may go at a time
            self._next_end = -math.inf

    def _add(self, marked: _Marked) -> None:
        if marked.mark.scope is not None:
            self._scoped[marked.mark.scope] = marked
        elif marked.hashes is None:
            self._others = (*self._others, marked)
        else:
            alone = (marked,)  # one object for all its ids
            for key in marked.hashes:
                before = self._named.get(key)
                self._named[key] = alone if before is None else (*before, marked)
        self._next_end = min(self._next_end, marked.ends)

    def _forget_ended(self) -> None:
        now = self._now()
        ended = [name for name, each in self._marks.items() if each.ends <= now]
        for name in ended:
            del self._marks[name]
        if self._entries is not None:
            self._entries.forget(ended)
        self._named, self._scoped, self._others, self._next_end = {}, {}, (), math.inf
        for marked in self._marks.values():
            self._add(marked)
        self._not_before = self._loop.time() + BETWEEN_ENDS
        self._became(self._entries is not None and self._entries.is_current)

    def find(self, message: Message) -> Mark | None:
        """The mark on this message, as far as it is known."""
        if self._now() >= self._next_end and self._loop.time() >= self._not_before:
            self._forget_ended()
        header, task = message.header, message.task
        scopes = names_in(header.headers) if self._scoped and SCOPE in header.headers else ()
        if not self._others and not scopes and hash(header.id) not in self._named:
            return None
        named = self._named.get(hash(header.id), ())
        found = [each.mark for each in named if each.mark.fits(header)]
        found += [each.mark for each in self._others if each.mark.describes(header, task)]
        if scopes and not any(mark.spares for mark in found):
            found += [self._scoped[name].mark for name in scopes if name in self._scoped]
        spared = max((mark.at for mark in found if mark.spares), default=-math.inf)
        return next((mark for mark in found if not mark.spares and mark.at > spared), None)

    def is_spared(self, header: Header) -> bool:
        """Whether it was sent again from the dead letters, as far as that is known: it is no part
        of its scopes any more."""
        named = self._named.get(hash(header.id), ())
        return any(each.mark.spares and each.mark.fits(header) for each in named)

    async def is_spared_after_all(self, header: Header) -> bool:
        """As `is_spared`; what was written just before is known as well."""
        if self._entries is not None:
            await self._entries.catch_up()
        return self.is_spared(header)

    def _apply(self, mark: Mark) -> None:
        """Cancel what runs and is meant, and what was given back just before."""
        named = None if mark.ids is None else frozenset(mark.ids)
        runs: set[str] = set()
        for pool in tuple(self._slots.pools):
            for task, delivery in tuple(pool.running.items()):
                if task.done():  # and was given back, maybe: its pool is about to hear of it
                    continue
                envelope = delivery.envelope
                runs.add(envelope.id)
                if (named is None or envelope.id in named) and self._is_of(mark, envelope):
                    self.cancel(task, delivery, mark)
        since, self._given_back, back = self._loop.time() - ON_ITS_WAY, {}, self._given_back
        for id, (at, message) in back.items():
            if at < since or id in runs:  # taken again
                continue
            if (named is None or id in named) and mark.describes(message.header, message.task):
                self._to_record.append(self._end_of(message, mark))
            else:
                self._given_back[id] = at, message
        if self._to_record or self._to_say:
            self._news.set()

    def _end_of(self, message: Message, mark: Mark) -> Record:
        """Of what is not in our hands any more: who has it next finds its outcome."""
        header, before = message.header, message.header.headers.get(LAST_ERROR)
        return Record(
            header.id,
            Cancelled(mark.reason, before if isinstance(before, str) else ""),
            message.task,
            message.attempt,
            finished_at=self._now(),
            keep=max(self._keep, KEEP_EFFECTS),
            reply_to=header.reply_to,
            effects=None,
            begun=begun_in(header.headers),
        )

    async def _record(self) -> None:
        """Have known what runs here, and how those ended that were given back just before."""
        outage = Outage("cancelling what waits is interrupted", "cancelling what waits goes on")
        while True:
            await self._news.wait()
            batch, said = self._to_record[:MAX_BATCH], self._to_say[:MAX_BATCH]
            try:
                await self._say(said)
                if batch:
                    await self._backend.store_records(batch)
            # A component that must survive. They have marks, and end when they are taken again.
            except Exception as error:  # noqa: BLE001
                await anyio.sleep(outage.fail(error))
                continue
            outage.end()
            del self._to_record[: len(batch)], self._to_say[: len(said)]
            if not self._to_record and not self._to_say:
                self._news.clear()

    async def _say(self, ids: Sequence[str]) -> None:
        if (registry := self._backend.offers.registry) is not None:
            for id in ids:
                await registry.put(ASKED, id, b"", version=0, keep=KEEP_ASKED)

    def _is_of(self, mark: Mark, envelope: Envelope) -> bool:
        """Whether this is meant, as far as more is said than its id."""
        if not mark.fits(envelope) or (mark.scope is not None and self.is_spared(envelope)):
            return False
        try:
            return mark.task is None or self._decode(envelope).task == mark.task
        except (NewerVersion, Undecodable):
            return False

    def cancel(self, task: "asyncio.Task[Any]", delivery: Delivery, mark: Mark) -> None:
        """End what this task runs, for the reason that the mark says."""
        if task in self._asked or task.done():
            return  # what cleans up is not interrupted
        id = delivery.envelope.id
        self._asked[task] = mark
        if mark.asks:
            self._to_say.append(id)
        self._reasons[id] = mark.reason
        task.add_done_callback(lambda _: self._reasons.pop(id, None))
        if not self._slots.threads.runs(task):
            task.cancel(mark.reason or None)
        self._loop.call_later(self._grace, self._insist, task, delivery, mark)

    def _insist(self, task: "asyncio.Task[Any]", delivery: Delivery, mark: Mark) -> None:
        """Its grace is over."""
        if task.done():
            return
        if self._slots.threads.interrupt(task, asyncio.CancelledError):
            log.error(
                "task %s was cancelled and goes on all the same in its thread, %g s later: it is "
                "left behind, and its slot is free again",
                self._slots.label(delivery.envelope), self._grace,
            )  # fmt: skip
        task.cancel(mark.reason or None)
        self._loop.call_later(LAST_TIMEOUT, self._leave, task, delivery, mark)

    def _leave(self, task: "asyncio.Task[Any]", delivery: Delivery, mark: Mark) -> None:
        """It ignores its cancellation: go on without it."""
        pool = next((each for each in self._slots.pools if task in each.running), None)
        if task.done() or pool is None:
            return
        self.has_left = True
        self._left.add(task)
        stack = "".join(traceback.format_list(_frames(task)))
        log.error(
            "task %s was cancelled and goes on all the same, %g s later: it is left behind, and "
            "its slot is free again. It is here:\n%s",
            self._slots.label(delivery.envelope), self._grace + LAST_TIMEOUT, stack.rstrip(),
        )  # fmt: skip
        pool.leave(task, mark)

    @property
    def stuck(self) -> int:
        """How many were left behind and still go on."""
        return sum(not task.done() for task in self._left)


def _frames(task: "asyncio.Task[Any]") -> list[traceback.FrameSummary]:
    """Where it waits; of its own stack, a task that waits knows the outermost frame alone."""
    found: list[tuple[FrameType, int]] = []
    link: Any = task.get_coro()
    while link is not None and len(found) < MOST_FRAMES:
        frame = getattr(link, "cr_frame", None) or getattr(link, "gi_frame", None)
        if isinstance(frame, FrameType):
            found.append((frame, frame.f_lineno))
        link = getattr(link, "cr_await", None) or getattr(link, "gi_yieldfrom", None)
    return list(traceback.StackSummary.extract(iter(found)))
