"""The memory store: queues, records and who waits for them, in plain data.

A store is found by its name, so that broker and backend, client and worker of one process share it.
Nothing in here waits, and whoever calls holds ``MemoryStore.lock``: a synchronous client lives in
another thread, and a lease is renewed from one.
"""

import heapq
import os
import threading
from collections.abc import AsyncGenerator, Hashable
from contextlib import asynccontextmanager
from typing import Generic, Self, TypeVar

from anyio.lowlevel import checkpoint

from asyncq.clock import Clock
from asyncq.config import Url
from asyncq.drivers.memory.ledger import StoredLedger
from asyncq.drivers.memory.queue import MemoryQueue
from asyncq.drivers.memory.registry import StoredRegistry
from asyncq.drivers.memory.topics import StoredTopics
from asyncq.drivers.subscriptions import Subscriptions
from asyncq.language.record import Record

T = TypeVar("T")


class MemoryStore:
    """Everything that one ``memory://name`` holds."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.lock = threading.Lock()
        self.records: Expiring[Record] = Expiring()
        self.topics = StoredTopics()
        self.ledger = StoredLedger()
        self.registry = StoredRegistry()
        self.published: set[str] = set()
        self._queues: dict[str, MemoryQueue] = {}
        self.subscriptions = Subscriptions()

    @asynccontextmanager
    async def visit(self) -> AsyncGenerator[None]:
        """Hold the lock as over a network: others run before the deed, and after it."""
        await checkpoint()
        with self.lock:
            yield
        await checkpoint()

    @property
    def queues(self) -> list[MemoryQueue]:
        return list(self._queues.values())

    def queue(self, name: str) -> MemoryQueue:
        """The queue of this name, made if there is none."""
        if name not in self._queues:
            self._queues[name] = MemoryQueue(name)
        return self._queues[name]

    def record(self, record: Record, now: float) -> Record | None:
        """Keep and push a record, unless one stands for its id: that is returned."""
        if (standing := self.records.get(record.id, now)) is not None:
            return standing
        if record.keep > 0:
            self.records.put(record.id, record, now, record.keep)
        self.subscriptions.deliver([record])
        return None


class MemoryDriver:
    """A store as its broker and its backend have it."""

    def __init__(self, url: Url, clock: Clock) -> None:
        self._store = open_store(url)
        self._clock = clock

    @property
    def store(self) -> Hashable:
        return ("memory", self._store.name)

    async def __aenter__(self) -> Self:
        await checkpoint()
        return self

    async def __aexit__(self, *_: object) -> None:
        return None


class Expiring(Generic[T]):
    """Values by id, each for a time."""

    def __init__(self) -> None:
        self._values: dict[str, tuple[float, T]] = {}  # id: (when it ends, value)
        self._ends: list[tuple[float, str]] = []  # a heap; what was replaced or removed lingers

    def put(self, message_id: str, value: T, now: float, keep: float) -> None:
        self._clear(now)
        self._values[message_id] = (now + keep, value)
        heapq.heappush(self._ends, (now + keep, message_id))

    def __len__(self) -> int:
        return len(self._values)

    def get(self, message_id: str, now: float) -> T | None:
        ends, value = self._values.get(message_id, (0.0, None))
        return value if ends > now else None

    def remove(self, message_id: str) -> None:
        self._values.pop(message_id, None)

    def _clear(self, now: float) -> None:
        while self._ends and self._ends[0][0] <= now:
            ends, message_id = heapq.heappop(self._ends)
            if self._values.get(message_id, (None,))[0] == ends:
                del self._values[message_id]


_stores: dict[str, MemoryStore] = {}  # for the life of the process, as messages are
_left_by_parent: list[object] = []  # whose locks may be held, and whose wakeups wake elsewhere
_stores_lock = threading.Lock()


def drop_store(url: Url) -> None:
    """Forget a store that nobody uses any more, with all that it holds."""
    with _stores_lock:
        _stores.pop(_name_of(url), None)


def _name_of(url: Url) -> str:
    return url.reveal().partition("://")[2].partition("?")[0]


def open_store(url: Url) -> MemoryStore:
    """The store that ``memory://name`` means in this process."""
    name = _name_of(url)
    with _stores_lock:
        if name not in _stores:
            _stores[name] = MemoryStore(name)
        return _stores[name]


def _forget_parent() -> None:
    """Start empty in a forked child: what waits in the parent is run there, and not here too."""
    global _stores_lock  # noqa: PLW0603 - the parent may have held it
    _left_by_parent.append(dict(_stores))
    _stores.clear()
    _stores_lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_parent)
