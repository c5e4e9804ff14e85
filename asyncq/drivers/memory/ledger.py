"""Latches in this process, next to the outcomes of the same name."""

import heapq
from collections.abc import Callable, Iterator, Sequence
from itertools import chain, islice
from typing import TYPE_CHECKING, Literal

from asyncq.clock import Clock
from asyncq.drivers.latches import NEVER, Latch
from asyncq.language.effects import Arrive, Hold, Send
from asyncq.seams.ledger import (
    PAGE,
    PENDING,
    SENDER_AWAY,
    Due,
    LatchState,
    Missing,
    Part,
    Unsent,
)

if TYPE_CHECKING:
    from asyncq.drivers.memory.store import MemoryStore


class StoredLatch:
    """A latch with all that it has."""

    def __init__(self, hold: Hold, now: float) -> None:
        self.latch = Latch.of(hold, now)
        self.parts: dict[str, Part] = {}
        if not isinstance(hold.parts, int):
            self.parts = {name: Part() for name in hold.parts}
        self.sends: dict[int, Send] = dict(enumerate(hold.sends))
        self.on_failure: dict[int, Send] = dict(enumerate(hold.on_failure))
        self._names = list(self.parts)  # of the parts that are not numbered

    def get(self, name: str) -> Part | None:
        return self.parts.get(name)

    def __setitem__(self, name: str, part: Part) -> None:
        if name not in self.parts and not self.latch.is_numbered(name):
            self._names.append(name)
        self.parts[name] = part

    def pending(self, start: int, stop: int) -> Sequence[str]:
        """The names of those that are, among all from one place to another."""
        count = self.latch.count
        numbers = (str(number) for number in range(start, min(stop, count)))
        names = islice(self._names, max(start - count, 0), max(stop - count, 0))
        return [
            name
            for name in chain(numbers, names)
            if (part := self.parts.get(name, _NEW)).is_member and part.state == PENDING
        ]

    def __len__(self) -> int:
        return self.latch.count + len(self._names)


class StoredLedger:
    """All latches of a store, in plain data; whoever calls holds the store's lock."""

    def __init__(self) -> None:
        self._latches: dict[str, StoredLatch] = {}
        self._looks = _Plan(lambda name: self._time_of(name, "look_at"))
        self._ends = _Plan(lambda name: self._time_of(name, "forget_at"))

    def get(self, name: str, now: float) -> StoredLatch | None:
        found = self._latches.get(name)
        return found if found is not None and found.latch.forget_at > now else None

    def hold(self, hold: Hold, now: float) -> None:
        for name in self._ends.take(now):
            del self._latches[name]
        if self.get(hold.latch, now) is None:
            self._latches[hold.latch] = StoredLatch(hold, now)
            self.plan(hold.latch)

    def take(self, name: str, sender: str, now: float) -> bool:
        """Make this one its sender, if it may be; returns whether it is."""
        found = self.get(name, now)
        if found is None or not found.latch.take(sender, now, SENDER_AWAY):
            return False
        self.plan(name)
        return True

    def plan(self, name: str) -> None:
        """It has changed."""
        self._looks.note(name)
        self._ends.note(name)

    def forget(self, name: str) -> None:
        self._latches.pop(name, None)

    def take_due(self, now: float) -> Iterator[str]:
        """Those to look at; each is to be planned again."""
        return self._looks.take(now)

    def _time_of(self, name: str, which: Literal["look_at", "forget_at"]) -> float:
        found = self._latches.get(name)
        return NEVER if found is None else getattr(found.latch, which)


class _Plan:
    """When something is to be done with which latch."""

    def __init__(self, time_of: Callable[[str], float]) -> None:
        self._time_of = time_of
        self._heap: list[tuple[float, str]] = []  # what has changed since lingers
        self._noted: dict[str, float] = {}

    def note(self, name: str) -> None:
        at = self._time_of(name)
        if at != NEVER and self._noted.get(name) != at:
            self._noted[name] = at
            heapq.heappush(self._heap, (at, name))

    def take(self, now: float) -> Iterator[str]:
        while self._heap and self._heap[0][0] <= now:
            at, name = heapq.heappop(self._heap)
            if self._noted.get(name) == at:
                del self._noted[name]
                if self._time_of(name) == at:
                    yield name


class MemoryLedger:
    """The latches of ``memory://name``."""

    def __init__(self, store: "MemoryStore", clock: Clock) -> None:
        self._store = store
        self._clock = clock

    async def apply(self, effects: Sequence[Hold | Arrive], sender: str) -> Sequence[str]:
        names = dict.fromkeys(effect.latch for effect in effects)
        async with self._store.visit():
            now, ledger = self._clock.now(), self._store.ledger
            for effect in effects:
                if isinstance(effect, Hold):
                    ledger.hold(effect, now)
                found = ledger.get(effect.latch, now)
                if found is None:
                    continue
                if isinstance(effect, Arrive):
                    found.latch.arrive(found, effect, now)
                    ledger.plan(effect.latch)
            return [name for name in names if ledger.take(name, sender, now)]

    async def unsent(
        self, latch: str, sender: str, *, is_failure: bool, limit: int = PAGE
    ) -> Unsent | None:
        async with self._store.visit():
            now, ledger = self._clock.now(), self._store.ledger
            found = ledger.get(latch, now)
            if found is None or not ledger.take(latch, sender, now):
                return None
            page = found.latch.page(limit, is_failure=is_failure)
            if page is None:
                return None
            held = found.on_failure if is_failure else found.sends
            sends = [held[place] for place in range(page.start, page.stop)]
            return Unsent(latch, is_failure, page.start, sends, page.released_at, page.stop)

    async def confirm(self, unsent: Unsent) -> None:
        async with self._store.visit():
            now, ledger = self._clock.now(), self._store.ledger
            if (found := ledger.get(unsent.latch, now)) is None:
                return
            if not found.latch.confirm(unsent, now):
                return
            held = found.on_failure if unsent.is_failure else found.sends
            for place in range(unsent.start, unsent.stop):
                held.pop(place, None)
            ledger.plan(unsent.latch)

    async def due(
        self, sender: str, limit: int = PAGE, *, lease: float = SENDER_AWAY
    ) -> Sequence[Due]:
        due: list[Due] = []
        async with self._store.visit():
            now, ledger = self._clock.now(), self._store.ledger
            for name in islice(ledger.take_due(now), limit):
                if (found := ledger.get(name, now)) is not None:
                    due.append(Due(name, found.latch.look(sender, now, lease)))
                    ledger.plan(name)
        return due

    async def missing(self, latch: str, cursor: str = "", limit: int = PAGE) -> Missing:
        async with self._store.visit():
            found = self._store.ledger.get(latch, self._clock.now())
            if found is None:
                return Missing((), "")
            start = int(cursor or "0")
            names = found.pending(start, start + limit)
            ids = [(name, id) for name in names if (id := found.latch.id_of(name)) is not None]
            return Missing(ids, str(start + limit) if start + limit < len(found) else "")

    async def parts(self, latch: str, names: Sequence[str]) -> Sequence[Part | None]:
        async with self._store.visit():
            found = self._store.ledger.get(latch, self._clock.now())
            return [None if found is None else found.parts.get(name) for name in names]

    async def look(self, latches: Sequence[str]) -> Sequence[LatchState | None]:
        async with self._store.visit():
            now = self._clock.now()
            found = [self._store.ledger.get(name, now) for name in latches]
            return [None if each is None else each.latch.state_at(now) for each in found]

    async def forget_latches(self, latches: Sequence[str]) -> None:
        async with self._store.visit():
            for name in latches:
                self._store.ledger.forget(name)


_NEW = Part()
