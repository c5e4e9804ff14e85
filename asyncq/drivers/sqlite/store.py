"""The store: one file as the broker and the backend of one process share it.

A store is found by its file, whatever event loop asks, so that what is written by one is known to
all others at once.
"""

import os
import sqlite3
import threading
from collections import defaultdict, deque
from collections.abc import Callable, Generator, Hashable
from contextlib import contextmanager
from typing import Any, Self, TypeVar

from anyio import move_on_after, to_thread

from asyncq.clock import Clock
from asyncq.config import Url
from asyncq.drivers.sqlite.connection import SqliteSettings, translated
from asyncq.drivers.sqlite.ears import SqliteEar, SqliteEars
from asyncq.drivers.sqlite.operations import Operation
from asyncq.drivers.sqlite.reader import Poll, Reader
from asyncq.drivers.sqlite.subscriptions import SqliteSubscriptions
from asyncq.drivers.sqlite.writer import Writer
from asyncq.drivers.subscriptions import Subscription
from asyncq.drivers.wakeup import Wakeup

CLOSE_TIMEOUT = 10.0  # seconds for the last operations and for copying the log into the file

T = TypeVar("T")


class SqliteStore:
    """One open file: a thread that writes, a thread that reads, and who waits for what."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.users = 0  # changed under the registry's lock
        self._reader = Reader(path)
        self._writer = Writer(path, self._reader.join)
        self._lock = threading.Lock()
        # By queue, the longest idle first.
        self._wakeups: dict[str, deque[Wakeup]] = defaultdict(deque)
        self.subscriptions = SqliteSubscriptions(self._writer.submit)
        self.ears = SqliteEars()

    # Work on the file

    async def write(
        self,
        work: Callable[[sqlite3.Connection], T],
        *,
        durable: bool = False,
        committed: Callable[[T], None] | None = None,
    ) -> T:
        """Do this in a transaction; returns once it is in the file.

        ``durable``: and on the disk. ``committed`` hears of it in any case, in another thread. A
        caller that is cancelled stops waiting, and the work is done all the same.

        Raises:
            ConfigurationError: the file cannot be opened, ever.
            sqlite3.Error: nothing was done.
        """
        operation = Operation(work, durable=durable, committed=committed)
        self._writer.submit(operation)
        return await operation.result()

    def write_later(
        self,
        work: Callable[[sqlite3.Connection], T],
        *,
        committed: Callable[[T], None] | None = None,
    ) -> None:
        """Do this after everything that was asked for before. If it fails, that is logged."""
        self._writer.submit(Operation(work, committed=committed, awaited=False))

    async def read(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Do this on what is in the file at one moment.

        Raises:
            sqlite3.Error: nothing could be read.
        """
        operation = Operation(work)
        self._reader.submit(operation)
        return await operation.result()

    # Who waits

    @contextmanager
    def waiting(self, queue: str, wakeup: Wakeup, poll: Poll) -> Generator[None]:
        """Wake this one for the next message, and the poll look for it."""
        with self._lock:
            self._wakeups[queue].append(wakeup)
        self._reader.watch(poll)
        try:
            yield
        finally:
            self._reader.withdraw(poll)
            with self._lock:
                wakeups = self._wakeups[queue]
                if wakeup in wakeups:
                    wakeups.remove(wakeup)
                if not wakeups:
                    del self._wakeups[queue]

    def wake(self, queue: str, times: int = 1) -> None:
        """Wake the consumers of this process that have waited longest."""
        if queue not in self._wakeups:
            return
        with self._lock:
            wakeups = self._wakeups.get(queue, ())
            woken = [wakeups.popleft() for _ in range(min(times, len(wakeups)))] if wakeups else []
        if deserted := sum(not wakeup.wake() for wakeup in woken):
            self.wake(queue, deserted)

    def look_again(self) -> None:
        """Have every poll look: there is something new to wait for."""
        self._reader.look_again()

    @contextmanager
    def subscribed(self, subscription: Subscription[Any]) -> Generator[None]:
        """Hand items for its address to this subscription."""
        with self._lock:
            if self.subscriptions.add(subscription):
                self._reader.watch(self.subscriptions)
        try:
            yield
        finally:
            with self._lock:
                if self.subscriptions.remove(subscription):
                    self._reader.withdraw(self.subscriptions)

    @contextmanager
    def listening(self, ear: SqliteEar) -> Generator[None]:
        """Tell this ear what is new in its topic."""
        with self._lock:
            if self.ears.add(ear):
                self._reader.watch(self.ears)
        try:
            yield
        finally:
            with self._lock:
                if self.ears.remove(ear):
                    self._reader.withdraw(self.ears)

    # The end

    def stop(self) -> None:
        self._reader.stop()
        self._writer.stop()

    def join(self) -> None:
        """Wait, and block, until the file is closed."""
        self._writer.join()


class SqliteDriver:
    """A file as its broker or its backend has it: what SQLite raises is ``unavailable`` there."""

    def __init__(self, url: Url, clock: Clock, unavailable: type[Exception]) -> None:
        self._settings = SqliteSettings(url)
        self._clock = clock
        self._unavailable = unavailable
        self._opened: SqliteStore | None = None

    @property
    def store(self) -> Hashable:
        return ("sqlite", self._settings.path)

    async def __aenter__(self) -> Self:
        with translated(self._settings.path, self._unavailable):
            self._opened = await open_store(self._settings.path)
        return self

    async def __aexit__(self, *_: object) -> None:
        store, self._opened = self._file, None
        await close_store(store)

    @property
    def _file(self) -> SqliteStore:
        if self._opened is None:
            raise self._unavailable(f"{self._settings.path} is not open: enter the app first")
        return self._opened

    async def _write(
        self,
        work: Callable[[sqlite3.Connection], T],
        committed: Callable[[T], None] | None = None,
        *,
        durable: bool | None = None,
    ) -> T:
        """As `SqliteStore.write`; ``durable`` as the URL has it, if nothing is said."""
        durable = self._settings.durable if durable is None else durable
        with translated(self._settings.path, self._unavailable):
            return await self._file.write(work, durable=durable, committed=committed)

    async def _read(self, work: Callable[[sqlite3.Connection], T]) -> T:
        with translated(self._settings.path, self._unavailable):
            return await self._file.read(work)


_stores: dict[str, SqliteStore] = {}
_registry_lock = threading.Lock()


async def open_store(path: str) -> SqliteStore:
    """The store of this file; close it as often as it was opened.

    Raises:
        ConfigurationError: the file cannot be opened, ever.
        sqlite3.Error: it might be opened later.
    """
    with _registry_lock:
        store = _stores.get(path)
        if store is None:
            store = _stores[path] = SqliteStore(path)
        store.users += 1
    try:
        await store.write(lambda _: None)
    except BaseException:
        await close_store(store)
        raise
    return store


async def close_store(store: SqliteStore) -> None:
    """Let go of it; who is the last closes the file."""
    with _registry_lock:
        store.users -= 1
        if store.users:
            return
        if _stores.get(store.path) is store:
            del _stores[store.path]
    store.stop()
    # Shielded: who leaves may delete the file next. Bounded: the threads end by themselves.
    with move_on_after(CLOSE_TIMEOUT, shield=True):
        await to_thread.run_sync(store.join, abandon_on_cancel=True)


_left_by_parent: list[Any] = []


def _forget_parent() -> None:
    """Start anew in a forked child: it has none of the threads, and no connection any more."""
    global _registry_lock  # noqa: PLW0603 - the parent may have held it
    _left_by_parent.append(list(_stores.values()))
    _stores.clear()
    _registry_lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_parent)
