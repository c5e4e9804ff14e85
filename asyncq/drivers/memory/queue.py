"""One queue of the memory store: where each message is, and how it moves.

A message is in exactly one place: a line, the doomed, the suspects, the delayed, a worker's hands
or the dead. What its bytes mean is the broker's business, but for one thing: whether its end
arrives somewhere, so that it may not die unseen.
"""

import heapq
import math
from collections import OrderedDict, deque
from collections.abc import Iterator, Sequence
from collections.abc import Set as AbstractSet
from itertools import count, islice, takewhile

import msgspec

from asyncq.drivers.wakeup import Wakeup
from asyncq.errors import LeaseLost
from asyncq.language.envelope import LastAttempt
from asyncq.language.message import MAX_PRIORITY, Status
from asyncq.language.topology import Queue
from asyncq.seams.admin import Depth
from asyncq.seams.broker import overflowed, purged, waited_too_long
from asyncq.seams.dead import TRIM_BITE, DeadLimits
from asyncq.seams.packing import has_ends
from asyncq.seams.quarantine import Admission

UNDECLARED = Queue("undeclared")  # what bounds a queue of which nothing is declared: nothing

_claims = count(1)  # no two claims have the same number


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """A message as it is kept: in bytes, so that nobody who had it in hand can change it."""

    id: str
    priority: int
    sent_at: float
    packed: bytes
    crashes: int = 0
    suspect: bool = False
    until: float = math.inf
    """When it has waited too long for its first worker."""
    verdict: str = ""
    """Why it is doomed: until it is settled, or sent again from the dead letters."""


class Dead(msgspec.Struct, frozen=True):
    """An entry out of circulation."""

    entry: Entry
    reason: str
    died_at: float
    last: LastAttempt | None


class Holder:
    """One worker incarnation: until when it may hold, and what it holds."""

    def __init__(self, ends: float) -> None:
        self.ends = ends
        self.in_flight: dict[str, tuple[int, Entry]] = {}  # id: (number of the claim, entry)


Line = OrderedDict[str, Entry]


class MemoryQueue:
    """A named line of messages, and the wakeups of who waits for them."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._wakeups: deque[Wakeup] = deque()  # one per idle consumer, the longest idle first
        self._lines: Sequence[Line] = [Line() for _ in range(MAX_PRIORITY + 1)]
        self._doomed = Line()
        self._suspects = Line()
        # What is ready, in the order in which it is handed out.
        self._in_order: Sequence[Line] = (self._suspects, self._doomed, *reversed(self._lines))
        self._delayed: dict[str, Entry] = {}
        self._due: list[tuple[float, int, str]] = []  # a heap: when, order of arrival, id
        self._arrivals = count()
        self._holders: dict[str, Holder] = {}
        self._dead: OrderedDict[str, Dead] = OrderedDict()  # in the order in which they died
        self._declared = UNDECLARED
        self._active: str | None = None  # the incarnation that alone is handed messages
        self._standby: deque[Wakeup] = deque()  # of those who wait for its end

    def declare(self, queue: Queue) -> None:
        """Be bounded like this from now on."""
        self._declared = queue

    @property
    def max_length(self) -> int | None:
        return self._declared.max_length

    # Where things are

    def find(self, message_id: str, now: float) -> Status | None:
        self._move_due(now)
        if any(message_id in line for line in self._in_order):
            return Status.QUEUED
        if message_id in self._delayed:
            return Status.SCHEDULED
        if any(message_id in holder.in_flight for holder in self._holders.values()):
            return Status.RUNNING
        return Status.FAILED if message_id in self._dead else None

    def entry(self, message_id: str) -> Entry | None:
        """Of this id, if it waits or is in flight."""
        for place in (*self._in_order, self._delayed):
            if message_id in place:
                return place[message_id]
        for holder in self._holders.values():
            if message_id in holder.in_flight:
                return holder.in_flight[message_id][1]
        return None

    def dues(self, ids: AbstractSet[str]) -> list[tuple[str, float]]:
        """When those of these are due that are delayed."""
        delayed = ids & self._delayed.keys()
        return [(id, due) for due, _, id in self._due if id in delayed] if delayed else []

    def depth(self, now: float) -> Depth:
        self._move_due(now)
        heads = [next(iter(line.values())).sent_at for line in self._in_order if line]
        return Depth(
            ready=sum(len(line) for line in self._in_order),
            delayed=len(self._delayed),
            in_flight=sum(len(holder.in_flight) for holder in self._holders.values()),
            dead=len(self._dead),
            oldest_age=now - min(heads) if heads else None,
        )

    def pause(self, incarnation: str, admission: Admission, now: float) -> float | None:
        """Seconds until it can claim something; None while nothing is in sight."""
        self._move_due(now)
        if self.stands_by(incarnation, now):
            return None
        if any(self._in_order[1:]) or self._suspects_for(1, admission):
            return 0.0
        return self._due[0][0] - now if self._due else None

    def next_due(self, now: float) -> float | None:
        """When the first of the delayed is due."""
        self._move_due(now)
        return self._due[0][0] if self._due else None

    # Moves

    def add(self, entry: Entry, due: float, now: float, limits: DeadLimits) -> bool:
        """Take a new message, unless it is here in some place or other; False if it is full."""
        if self.find(entry.id, now) is not None:
            return True
        if self._declared.ttl is not None:
            entry = msgspec.structs.replace(entry, until=max(due, now) + self._declared.ttl)
        if due > now:
            self.delay(entry, due)
            return True
        limit = self._declared.max_length
        if limit is None:
            self._append(entry)
            return True
        if self._declared.overflow == "reject" and self._length() >= limit:
            return False
        self._append(entry)
        while self._length() > limit and (line := next(filter(None, self._lines), None)):
            entry = line.popitem(last=False)[1]
            if has_ends(entry.packed):
                self._doom(entry, overflowed(limit))
            else:
                self.bury(entry, overflowed(limit), now, limits)
        return True

    def claim(
        self, incarnation: str, limit: int, admission: Admission, now: float, limits: DeadLimits
    ) -> list[tuple[int, Entry]]:
        """Hand out what is due: suspects, as far as there is room, the doomed, the lines in order.

        Each comes with the number of its claim.

        Raises:
            LeaseLost: this incarnation holds nothing here any more.
        """
        holder = self._holders.get(incarnation)
        if holder is None or holder.ends <= now:
            raise LeaseLost(incarnation)
        self._move_due(now)
        if self.stands_by(incarnation, now):
            return []
        if self._declared.single_active:
            self._active = incarnation
        claimed = [(next(_claims), entry) for entry in self._next(limit, admission, now, limits)]
        holder.in_flight.update({entry.id: (number, entry) for number, entry in claimed})
        return claimed

    def holds(self, incarnation: str, message_id: str, claim: int) -> bool:
        """Whether this worker holds the message, and by this claim."""
        holder = self._holders.get(incarnation)
        return holder is not None and holder.in_flight.get(message_id, (0,))[0] == claim

    def let_go(self, incarnation: str, message_id: str) -> Entry:
        """Take a held message out of this worker's hands; it is in no place then."""
        return self._holders[incarnation].in_flight.pop(message_id)[1]

    def delay(self, entry: Entry, due: float) -> None:
        self._delayed[entry.id] = entry
        heapq.heappush(self._due, (due, next(self._arrivals), entry.id))
        self.wake()  # whoever waits may have to wait less

    def put_first(self, entry: Entry) -> None:
        line = self._line_of(entry)
        line[entry.id] = entry
        line.move_to_end(entry.id, last=False)
        self.wake()

    def bury(
        self,
        entry: Entry,
        reason: str,
        now: float,
        limits: DeadLimits,
        last: LastAttempt | None = None,
    ) -> None:
        """Make a dead letter of it, and let those give way that there are too many of."""
        dead = self._dead
        dead[entry.id] = Dead(entry, reason, now, last)
        gone = 0
        while dead and gone < TRIM_BITE:
            oldest = next(iter(dead.values()))
            if len(dead) <= limits.most and oldest.died_at > now - limits.keep:
                break
            dead.popitem(last=False)
            gone += 1
        limits.note(self.name, gone)

    def replay(self, message_id: str) -> bool:
        if message_id not in self._dead:
            return False
        entry = self._dead.pop(message_id).entry
        self._append(
            msgspec.structs.replace(entry, crashes=0, suspect=False, until=math.inf, verdict="")
        )
        return True

    def purge(self) -> int:
        """Remove what waits, or doom it; what is doomed stays. Returns how many those were."""
        removed: list[Entry] = []
        for place in (*self._in_order, self._delayed):
            leaving = [entry for entry in place.values() if not entry.verdict]
            for entry in leaving:
                del place[entry.id]
            removed += leaving
        self._due = sorted(each for each in self._due if each[-1] in self._delayed)
        for entry in removed:
            if has_ends(entry.packed):
                self._doom(entry, purged())
        return len(removed)

    def dead(self) -> Iterator[Dead]:
        return iter(self._dead.values())

    def waiting(self) -> Iterator[tuple[Entry, float | None]]:
        """What waits, in the order in which it is handed out, and when what is delayed is due."""
        for line in self._in_order:
            for entry in line.values():
                yield entry, None
        for due, _, message_id in sorted(self._due):
            yield self._delayed[message_id], due

    def delete_dead(self, message_id: str) -> bool:
        return self._dead.pop(message_id, None) is not None

    # Leases

    def open_lease(self, incarnation: str, ends: float) -> None:
        holder = self._holders.setdefault(incarnation, Holder(ends))
        holder.ends = max(ends, holder.ends)

    def renew_lease(self, incarnation: str, ends: float, now: float) -> bool:
        holder = self._holders.get(incarnation)
        if holder is None or holder.ends <= now:
            return False
        holder.ends = ends
        return True

    def stands_by(self, incarnation: str, now: float) -> bool:
        """Whether another has this queue for itself."""
        if not self._declared.single_active:
            return False
        active = None if self._active is None else self._holders.get(self._active)
        return active is not None and active.ends > now and self._active != incarnation

    def close_lease(self, incarnation: str) -> None:
        """End it, and give back what is in flight, in the order it was claimed."""
        self._step_down(incarnation)
        holder = self._holders.pop(incarnation, None)
        if holder is not None:
            for _, entry in reversed(holder.in_flight.values()):
                self.put_first(entry)

    def sweep(self, now: float) -> int:
        """Make suspects of what lapsed leases hold. One that was a suspect is guilty, or all."""
        ended = [name for name, holder in self._holders.items() if holder.ends <= now]
        return sum(self.release(incarnation) for incarnation in ended)

    def release(self, incarnation: str) -> int:
        """Make suspects of what this worker holds, whose lease ends."""
        holder = self._holders.pop(incarnation, None)
        if holder is None:
            return 0
        self._step_down(incarnation)
        entries = [entry for _, entry in holder.in_flight.values()]
        caught = any(entry.suspect for entry in entries)
        for entry in entries:
            crashes = entry.crashes + (1 if entry.suspect or not caught else 0)
            self._append(msgspec.structs.replace(entry, suspect=True, crashes=crashes))
        return len(entries)

    # Who waits

    def hang_up(self, wakeup: Wakeup, *, standby: bool) -> None:
        """Wake this one for the next message, or when the active worker steps down."""
        (self._standby if standby else self._wakeups).append(wakeup)

    def take_down(self, wakeup: Wakeup) -> None:
        for wakeups in (self._wakeups, self._standby):
            if wakeup in wakeups:
                wakeups.remove(wakeup)

    def wake(self) -> None:
        """Wake the consumer that has waited longest."""
        while self._wakeups and not self._wakeups.popleft().wake():
            pass  # its loop was closed: the next one

    # Within

    def _next(
        self, limit: int, admission: Admission, now: float, limits: DeadLimits
    ) -> Iterator[Entry]:
        left = limit
        for entry in self._suspects_for(limit, admission):
            left -= 1
            yield self._suspects.pop(entry.id)
        for line in self._in_order[1:]:
            while left > 0 and line:
                entry = line.popitem(last=False)[1]
                if entry.until < math.inf:
                    why = self._why_late(entry, now)
                    if why and not has_ends(entry.packed):
                        self.bury(entry, why, now, limits)
                        continue
                    entry = msgspec.structs.replace(entry, until=math.inf, verdict=why)
                left -= 1
                yield entry

    def _why_late(self, entry: Entry, now: float) -> str:
        """The reason, if it has waited too long."""
        ttl = self._declared.ttl  # None: it had one when this was sent
        return waited_too_long(ttl) if ttl is not None and entry.until <= now else ""

    def _suspects_for(self, limit: int, admission: Admission) -> list[Entry]:
        """The first of the suspects, as far as there is room for them."""
        first = list(islice(self._suspects.values(), limit))
        together = list(takewhile(lambda entry: entry.crashes < admission.together, first))
        return first[:1] if admission.alone and not together else together

    def _doom(self, entry: Entry, verdict: str) -> None:
        self._append(msgspec.structs.replace(entry, until=math.inf, verdict=verdict))

    def _append(self, entry: Entry) -> None:
        self._line_of(entry)[entry.id] = entry
        self.wake()

    def _line_of(self, entry: Entry) -> Line:
        if entry.suspect:
            return self._suspects
        if entry.verdict:
            return self._doomed
        return self._lines[min(entry.priority, self._declared.max_priority or MAX_PRIORITY)]

    def _length(self) -> int:
        return sum(len(line) for line in self._lines) + len(self._suspects)

    def _step_down(self, incarnation: str) -> None:
        if incarnation == self._active:
            self._active = None
            while self._standby and not self._standby.popleft().wake():
                pass  # its loop was closed: the next one

    def _move_due(self, now: float) -> None:
        while self._due and self._due[0][0] <= now:
            _, _, message_id = heapq.heappop(self._due)
            self._append(self._delayed.pop(message_id))
