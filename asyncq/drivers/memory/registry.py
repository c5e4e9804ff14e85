"""Entries in this process, next to the outcomes of the same name."""

import heapq
from bisect import bisect_left, bisect_right, insort
from collections.abc import Sequence
from typing import TYPE_CHECKING

from asyncq.clock import Clock
from asyncq.language.effects import Append, Hold
from asyncq.seams.registry import PAGE, Entry, Page, change

if TYPE_CHECKING:
    from asyncq.drivers.memory.store import MemoryStore

FEW = 64  # ends that are noted for nothing do no harm


class StoredRegistry:
    """All entries of a store, in plain data; whoever calls holds the store's lock."""

    def __init__(self) -> None:
        self._kinds: dict[str, _Kind] = {}
        self._ends: list[tuple[float, str, str]] = []  # a heap; what was replaced lingers
        self._ending = 0  # how many entries have an end

    @property
    def noted(self) -> int:
        """How many ends are noted, of those that were replaced as well."""
        return len(self._ends)

    def kind(self, kind: str) -> "_Kind":
        return self._kinds.get(kind) or _Kind()

    def get(self, kind: str, name: str, now: float) -> Entry | None:
        entry = self.kind(kind).entries.get(name)
        return None if entry is None or entry.has_ended(now) else entry

    def count(self, kind: str) -> int:
        """The number of a change that happens now."""
        of_kind = self._kinds.setdefault(kind, _Kind())
        of_kind.changes += 1
        return of_kind.changes

    def put(self, entry: Entry, now: float) -> None:
        self._clear(now)
        self._ending -= self._kinds[entry.kind].put(entry)
        if entry.ends is not None:
            self._ending += 1
            heapq.heappush(self._ends, (entry.ends, entry.kind, entry.name))
        if len(self._ends) > 2 * self._ending + FEW:
            self._ends = list({each for each in self._ends if self._stands(*each)})
            heapq.heapify(self._ends)

    def remove(self, kind: str, name: str) -> None:
        self._ending -= self._kinds[kind].remove(name)

    def _stands(self, ends: float, kind: str, name: str) -> bool:
        entry = self._kinds[kind].entries.get(name)
        return entry is not None and entry.ends == ends

    def _clear(self, now: float) -> None:
        while self._ends and self._ends[0][0] <= now:
            _, kind, name = heapq.heappop(self._ends)
            entry = self._kinds[kind].entries.get(name)
            if entry is not None and entry.has_ended(now):
                self.remove(kind, name)


class _Kind:
    def __init__(self) -> None:
        self.entries: dict[str, Entry] = {}
        self.names: list[str] = []  # in order
        self.changes = 0

    def put(self, entry: Entry) -> bool:
        """Whether one is replaced that had an end."""
        before = self.entries.get(entry.name)
        self.entries[entry.name] = entry
        if before is None:
            insort(self.names, entry.name)
        return before is not None and before.ends is not None

    def remove(self, name: str) -> bool:
        """Whether it had an end."""
        del self.names[bisect_left(self.names, name)]
        return self.entries.pop(name).ends is not None


class MemoryRegistry:
    """The entries of ``memory://name``."""

    def __init__(self, store: "MemoryStore", clock: Clock) -> None:
        self._store = store
        self._clock = clock

    async def put(
        self,
        kind: str,
        name: str,
        data: bytes,
        *,
        version: int,
        keep: float | None,
        holds: Sequence[Hold] = (),
    ) -> Entry | None:
        async with self._store.visit():
            now, store = self._clock.now(), self._store
            before = store.registry.get(kind, name, now)
            if version != (0 if before is None else before.version):
                return None
            for hold in holds:
                store.ledger.hold(hold, now)
            number = store.registry.count(kind)
            entry = Entry(kind, name, number, data, None if keep is None else now + keep)
            store.registry.put(entry, now)
            self._tell(change(kind, name, number), now)
            return entry

    async def remove(self, kind: str, name: str, *, version: int | None) -> bool:
        async with self._store.visit():
            now, store = self._clock.now(), self._store
            before = store.registry.get(kind, name, now)
            if before is None or version not in (None, before.version):
                return False
            store.registry.remove(kind, name)
            number = store.registry.count(kind)
            self._tell(change(kind, name, number, is_removed=True), now)
            return True

    async def get(self, kind: str, names: Sequence[str]) -> Sequence[Entry | None]:
        async with self._store.visit():
            now = self._clock.now()
            return [self._store.registry.get(kind, name, now) for name in names]

    async def list(self, kind: str, *, after: str = "", limit: int = PAGE) -> Page:
        async with self._store.visit():
            now, found = self._clock.now(), self._store.registry.kind(kind)
            start = bisect_right(found.names, after)
            names = found.names[start : start + limit]
            entries = [found.entries[name] for name in names]
            further = names[-1] if start + limit < len(found.names) else ""
            return Page(
                [each for each in entries if not each.has_ended(now)], further, found.changes
            )

    def _tell(self, append: Append, now: float) -> None:
        topics = self._store.topics
        if not topics.append(append, now):
            topics.forget(append.topic)  # others wrote there
            topics.append(append, now)
