"""Topics in this process, next to the outcomes of the same name."""

import heapq
import threading
from collections import deque
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from itertools import islice
from typing import TYPE_CHECKING

from anyio import move_on_after
from anyio.lowlevel import checkpoint

from asyncq.clock import Clock
from asyncq.drivers.wakeup import Wakeup
from asyncq.language.effects import Append
from asyncq.seams.topics import Ear, Item, Place

if TYPE_CHECKING:
    from asyncq.drivers.memory.store import MemoryStore

LONGEST_WAIT = 1.0  # seconds; after that an ear says that there may be something


class StoredTopics:
    """All topics of a store, in plain data; whoever calls holds the store's lock."""

    def __init__(self) -> None:
        self._topics: dict[str, _Topic] = {}
        self._ends: list[tuple[float, str]] = []  # a heap; one of each topic, maybe too early
        self._ears: dict[str, list[MemoryEar]] = {}

    def append(self, append: Append, now: float) -> bool:
        """Whether it is later than all in its topic; else nothing happens."""
        self._clear(now)
        topic = self._topics.get(append.topic)
        if topic is None:
            topic = self._topics[append.topic] = _Topic()
            heapq.heappush(self._ends, (now + append.keep, append.topic))
        place = Place(append.epoch, append.number)
        if not topic.add(Item(place, append.item), append.most):
            return False
        topic.ends = now + append.keep
        for ear in self._ears.get(append.topic, ()):
            ear.tell()
        return True

    def items(self, topic: str, now: float) -> Sequence[Item]:
        self._clear(now)
        found = self._topics.get(topic)
        return () if found is None else found.items

    def forget(self, topic: str) -> None:
        if (found := self._topics.get(topic)) is not None:
            found.items.clear()
            found.ends = 0.0  # its entry in the heap is the last that is left of it

    def add(self, topic: str, ear: "MemoryEar") -> None:
        self._ears.setdefault(topic, []).append(ear)

    def remove(self, topic: str, ear: "MemoryEar") -> None:
        ears = self._ears[topic]
        ears.remove(ear)
        if not ears:
            del self._ears[topic]

    def _clear(self, now: float) -> None:
        while self._ends and self._ends[0][0] <= now:
            _, name = self._ends[0]
            ends = self._topics[name].ends
            if ends > now:
                heapq.heapreplace(self._ends, (ends, name))
            else:
                heapq.heappop(self._ends)
                del self._topics[name]


class _Topic:
    def __init__(self) -> None:
        self.items: deque[Item] = deque()
        self.ends = 0.0

    def add(self, item: Item, most: int) -> bool:
        """Whether it is later than all that is there."""
        items = self.items
        if items and item.place <= items[-1].place:
            return False
        if items and item.place.epoch > items[-1].place.epoch:
            items.clear()
        items.append(item)
        while len(items) > most:
            items.popleft()
        return True


class MemoryTopics:
    """The topics of ``memory://name``."""

    def __init__(self, store: "MemoryStore", clock: Clock) -> None:
        self._store = store
        self._clock = clock

    async def append(self, appends: Sequence[Append]) -> None:
        async with self._store.visit():
            now = self._clock.now()
            for append in appends:
                self._store.topics.append(append, now)

    async def read(
        self, topic: str, *, after: Place | None = None, limit: int = 100
    ) -> Sequence[Item]:
        async with self._store.visit():
            items = self._store.topics.items(topic, self._clock.now())
            later = (item for item in items if after is None or item.place > after)
            return list(islice(later, limit))

    async def last(self, topics: Sequence[str]) -> Sequence[Item | None]:
        async with self._store.visit():
            now = self._clock.now()
            found = [self._store.topics.items(topic, now) for topic in topics]
            return [items[-1] if items else None for items in found]

    async def forget_topics(self, topics: Sequence[str]) -> None:
        async with self._store.visit():
            for topic in topics:
                self._store.topics.forget(topic)

    @asynccontextmanager
    async def listen(self, topic: str) -> AsyncGenerator[Ear]:
        await checkpoint()
        ear = MemoryEar()
        with self._store.lock:
            self._store.topics.add(topic, ear)
        try:
            yield ear
        finally:
            with self._store.lock:
                self._store.topics.remove(topic, ear)


class MemoryEar:
    """Told of news in whatever thread they come from."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._wakeup = Wakeup()

    def tell(self) -> None:
        with self._lock:
            self._wakeup.wake()

    async def wait(self) -> None:
        with move_on_after(LONGEST_WAIT):
            await self._wakeup.wait()
        with self._lock:
            self._wakeup = Wakeup()
        await checkpoint()
