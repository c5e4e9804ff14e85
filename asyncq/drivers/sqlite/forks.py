"""Forks: none happens while a thread of ours is inside of SQLite, and a child closes what it got.

SQLite keeps, for each file and for the whole process, which locks it holds. A forked child inherits
that knowledge and none of the locks: what its parent was in the middle of looks locked for ever,
and what the child commits may go into a log that others believe they may delete. So whoever works
on a file holds an access meanwhile, a fork waits for every one, and the child closes the
connections before it opens its own. That costs the parent nothing: POSIX locks belong to one
process.
"""

import os
import sqlite3
import threading
import time
from contextlib import suppress
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


class Access:
    """A thread's access to a file. It is inside of SQLite only within ``with access:``."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.busy = threading.Lock()
        self.connection: sqlite3.Connection | None = None
        self.file: Identity | None = None
        self.log: Identity | None = None
        """What the connection has open."""
        with _lock:
            _all.add(self)

    def __enter__(self) -> Self:
        self.busy.acquire()
        return self

    def __exit__(self, *_: object) -> None:
        self.busy.release()

    def open(self) -> sqlite3.Connection:
        """The connection, opened once; within the access. Raises as `connect`, and as `check`."""
        if self.connection is not None:
            self.check()
        else:
            if self.path in _unusable:
                raise ConfigurationError(
                    f"{self.path} cannot be opened in this process: it was forked while its parent "
                    "worked on the file. Start processes by 'spawn', or before the app is connected"
                )
            # Copied in one step, and without the lock: who forks holds that, and waits for us.
            for access in tuple(_all):
                if access.path == self.path:
                    access.check()
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
        file, log = self.file, self.log
        if file is None:
            return  # nothing is open
        try:
            why = REPLACED if file_at(self.path) != file else ""
            why = why or (LOG_LOST if log_of(self.path) != log else "")
        except FileMoved as error:
            why = str(error)
        # It may have been closed meanwhile in its own thread, and its log with it.
        if why and self.file is not None:
            raise FileMoved(why)

    def close(self) -> None:
        """Close the connection, if there is one, and leave."""
        with self.busy:
            connection, self.connection = self.connection, None
            self.file = self.log = None
            if connection is not None:
                connection.close()
        with _lock:
            _all.discard(self)


_all: set[Access] = set()
_lock = threading.Lock()  # held from before a fork until after it, by who forks
_unusable: set[str] = set()  # files whose locks SQLite has wrong ideas of, in this process
_left_by_parent: list[Any] = []  # to collect a connection would close it
_held: list[Access] = []  # for the time of a fork
_missed: list[Access] = []


def _wait_for_all() -> None:
    _lock.acquire()
    deadline = time.monotonic() + FORK_PATIENCE
    for access in _all:
        got = access.busy.acquire(timeout=max(0.0, deadline - time.monotonic()))
        (_held if got else _missed).append(access)


def _go_on() -> None:
    for access in _held:
        access.busy.release()
    _held.clear()
    _missed.clear()
    _lock.release()


def _begin_anew() -> None:
    for access in _held:
        connection, access.connection = access.connection, None
        if connection is not None:
            with suppress(sqlite3.Error):
                connection.close()
    for access in _missed:
        _left_by_parent.append(access)
        _unusable.add(access.path)
    _all.clear()
    _go_on()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_wait_for_all, after_in_parent=_go_on, after_in_child=_begin_anew)
