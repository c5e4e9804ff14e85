"""Forks: none happens while a thread of ours is inside of SQLite, and a child closes what it got.

SQLite keeps, for each file and for the whole process, which locks it holds. A forked child inherits
that knowledge and none of the locks: what its parent was in the middle of looks locked for ever,
and what the child commits may go into a log that others believe they may delete. So whoever works
on a file holds a seat meanwhile, a fork waits for all seats, and the child closes the connections
before it opens its own. That costs the parent nothing: POSIX locks belong to one process.
"""

import os
import sqlite3
import threading
import time
from contextlib import suppress
from types import TracebackType
from typing import Any, Self

from asyncq.drivers.sqlite.connection import (
    LOG_LOST,
    REPLACED,
    FileMoved,
    Identity,
    connect,
    file_at,
    log_of,
)
from asyncq.errors import ConfigurationError

FORK_PATIENCE = 6.0  # seconds that a fork waits; a writer waits 5 for the locks of others


class Seat:
    """A thread's place at a file. It is inside of SQLite only within ``with seat:``."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.busy = threading.Lock()
        self.connection: sqlite3.Connection | None = None
        self.file: Identity | None = None
        self.log: Identity | None = None
        """What the connection has open."""
        with _seats_lock:
            _seats.add(self)

    def __enter__(self) -> Self:
        self.busy.acquire()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
        /,
    ) -> None:
        self.busy.release()

    def open(self) -> sqlite3.Connection:
        """The connection, opened once; within the seat. Raises as `connect`, and as `check`."""
        if self.connection is not None:
            self.check()
        else:
            if self.path in _unusable:
                raise ConfigurationError(
                    f"{self.path} cannot be opened in this process: it was forked while its parent "
                    "worked on the file. Start processes by 'spawn', or before the app is connected"
                )
            # Copied in one step, and without the lock: who forks holds that, and waits for us.
            for seat in tuple(_seats):
                if seat.path == self.path:
                    seat.check()
            connection = connect(self.path)
            try:
                self.file, self.log = file_at(self.path), log_of(self.path)
            except FileMoved:
                connection.close()
                raise
            self.connection = connection
        return self.connection

    def check(self) -> None:
        """See that the file that is open has its name still: what is written is to be found.

        It is not gone on with another one: their logs have one name, and so one would be read as
        the other's. Nor without its log, which has what was accepted last.

        Raises:
            FileMoved: no file has that name, or another one; or its log is gone.
        """
        if self.file is None:
            return  # nothing is open
        if file_at(self.path) != self.file:
            raise FileMoved(REPLACED)
        if log_of(self.path) != self.log:
            raise FileMoved(LOG_LOST)

    def close(self) -> None:
        """Close the connection, if there is one, and leave."""
        with self.busy:
            connection, self.connection = self.connection, None
            self.file = self.log = None
            if connection is not None:
                connection.close()
        with _seats_lock:
            _seats.discard(self)


_seats: set[Seat] = set()
_seats_lock = threading.Lock()  # held from before a fork until after it, by who forks
_unusable: set[str] = set()  # files whose locks SQLite has wrong ideas of, in this process
_left_by_parent: list[Any] = []  # to collect a connection would close it
_held: list[Seat] = []  # for the time of a fork
_missed: list[Seat] = []


def _wait_for_all() -> None:
    _seats_lock.acquire()
    deadline = time.monotonic() + FORK_PATIENCE
    for seat in _seats:
        got = seat.busy.acquire(timeout=max(0.0, deadline - time.monotonic()))
        (_held if got else _missed).append(seat)


def _go_on() -> None:
    for seat in _held:
        seat.busy.release()
    _held.clear()
    _missed.clear()
    _seats_lock.release()


def _begin_anew() -> None:
    for seat in _held:
        connection, seat.connection = seat.connection, None
        if connection is not None:
            with suppress(sqlite3.Error):
                connection.close()
    for seat in _missed:
        _left_by_parent.append(seat)
        _unusable.add(seat.path)
    _seats.clear()
    _go_on()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_wait_for_all, after_in_parent=_go_on, after_in_child=_begin_anew)
