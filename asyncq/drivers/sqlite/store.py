"""The store: one file as the broker and the backend of one process share it.

A store is found by its file, whatever event loop asks, so that what is written by one is known to
all others at once.
"""

import os
import sqlite3
import threading
from collections import defaultdict, deque
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any, TypeVar

from anyio import move_on_after, to_thread

from asyncq.drivers.bell import Bell
from asyncq.drivers.sqlite.jobs import Job
from asyncq.drivers.sqlite.mail import Mail, Mailbox
from asyncq.drivers.sqlite.reader import Lookout, Reader
from asyncq.drivers.sqlite.writer import Writer

CLOSE_TIMEOUT = 10.0  # seconds for the last jobs and for copying the log into the file

T = TypeVar("T")


class SqliteStore:
    """One open file: a thread that writes, a thread that reads, and who waits for what."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.users = 0  # changed under the registry's lock
        self._reader = Reader(path)
        self._writer = Writer(path, self._reader.join)
        self._lock = threading.Lock()
        self._bells: dict[str, deque[Bell]] = defaultdict(deque)  # by queue, the longest idle first
        self.mail = Mail(self._writer.submit)

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
        job = Job(work, durable=durable, committed=committed)
        self._writer.submit(job)
        return await job.result()

    def write_later(
        self,
        work: Callable[[sqlite3.Connection], T],
        *,
        committed: Callable[[T], None] | None = None,
    ) -> None:
        """Do this after everything that was asked for before. If it fails, that is logged."""
        self._writer.submit(Job(work, committed=committed, awaited=False))

    async def read(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Do this on what is in the file at one moment.

        Raises:
            sqlite3.Error: nothing could be read.
        """
        job = Job(work)
        self._reader.submit(job)
        return await job.result()

    # Who waits

    @contextmanager
    def hung_up(self, queue: str, bell: Bell, lookout: Lookout) -> Generator[None]:
        """Have this bell rung for the next message, and the lookout look for it."""
        with self._lock:
            self._bells[queue].append(bell)
        self._reader.post(lookout)
        try:
            yield
        finally:
            self._reader.withdraw(lookout)
            with self._lock:
                bells = self._bells[queue]
                if bell in bells:
                    bells.remove(bell)
                if not bells:
                    del self._bells[queue]

    def ring(self, queue: str, times: int = 1) -> None:
        """Wake the consumers of this process that have waited longest."""
        if queue not in self._bells:
            return
        with self._lock:
            bells = self._bells.get(queue, ())
            woken = [bells.popleft() for _ in range(min(times, len(bells)))] if bells else []
        if deserted := sum(not bell.ring() for bell in woken):
            self.ring(queue, deserted)

    def look_again(self) -> None:
        """Have every lookout look: there is something new to wait for."""
        self._reader.look_again()

    @contextmanager
    def put_up(self, box: Mailbox) -> Generator[None]:
        """Have records for its address put into this mailbox."""
        with self._lock:
            if self.mail.add(box):
                self._reader.post(self.mail)
        try:
            yield
        finally:
            with self._lock:
                if self.mail.remove(box):
                    self._reader.withdraw(self.mail)

    # The end

    def stop(self) -> None:
        self._reader.stop()
        self._writer.stop()

    def join(self) -> None:
        """Wait, and block, until the file is closed."""
        self._writer.join()


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
