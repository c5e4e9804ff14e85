"""The reader: the one thread of a process that reads the file, and looks out for what others write.

Other processes wake no wakeup here. The reader asks SQLite every few milliseconds whether anything
was written at all (a counter in shared memory), less often the longer nothing was, and looks only
then.
"""

import sqlite3
import threading
from queue import Empty
from typing import Any, Protocol

from asyncq.drivers.sqlite.connection import PATIENCE
from asyncq.drivers.sqlite.operations import Operation, Signal, StoreThread, answer, refuse
from asyncq.outages import Outage

SHORTEST_PAUSE = 0.005  # seconds between two questions, while something happens
LONGEST_PAUSE = 0.1  # ... while nothing does
SLOWING = 1.25  # from one to the next


class Poll(Protocol):
    """Somebody who waits for something in the file."""

    def pause(self) -> float:
        """Seconds until it must look even if nothing is written; ``inf`` for never."""
        ...

    def look(self, connection: sqlite3.Connection) -> None:
        """See whether it is there."""
        ...

    def give_up(self) -> None:
        """The file cannot be read now."""
        ...


class Reader(StoreThread):
    """Does reading operations, and has polls look whenever something was written."""

    def __init__(self, path: str) -> None:
        super().__init__("reads", path)
        self._lock = threading.Lock()
        self._polls: dict[Poll, bool] = {}  # and whether it must look, come what may
        self._version: int = -1  # of the data, as it was when all had looked
        self._pause = SHORTEST_PAUSE
        self._outage = Outage(f"{path} cannot be read", f"{path} is read again")
        self.start()

    def watch(self, poll: Poll) -> None:
        """Have it look now, and whenever something was written."""
        with self._lock:
            self._polls[poll] = True
        self._operations.put(Signal.LOOK)

    def withdraw(self, poll: Poll) -> None:
        with self._lock:
            del self._polls[poll]

    def look_again(self) -> None:
        """Have everyone look: there is something new to wait for."""
        with self._lock:
            idle = not self._polls
            for poll in self._polls:
                self._polls[poll] = True
        if not idle:
            self._operations.put(Signal.LOOK)

    def run(self) -> None:
        try:
            while (operation := self._next()) is not Signal.STOP:
                with self._access:
                    if (connection := self._open(operation)) is None:
                        continue
                    if isinstance(operation, Operation):
                        self._do(operation, connection)
                    self._poll_all(connection)
        finally:
            self._access.close()

    def _next(self) -> Operation[Any] | Signal:
        try:
            return self._operations.get(timeout=self._time_to_look())
        except Empty:
            return Signal.LOOK

    def _time_to_look(self) -> float | None:
        with self._lock:
            if not self._polls:
                return None
            soonest = min(poll.pause() for poll in self._polls)
        # Never shorter: what is due and was not taken yet is no reason to look without pause.
        return max(SHORTEST_PAUSE / 5, min(soonest, self._pause))

    def _open(self, operation: Operation[Any] | Signal) -> sqlite3.Connection | None:
        before = self._access.connection
        try:
            connection = self._access.open()
        except Exception as error:  # noqa: BLE001 - whatever it is, who waits must hear of it
            self._pause = LONGEST_PAUSE
            if isinstance(operation, Operation):
                refuse([operation], error)
            if self._polls:
                is_known = self._outage.error is not None
                self._outage.fail(error)
                if not is_known:
                    self._tell_polls()
            return None
        if connection is before:
            return connection
        connection.execute(f"PRAGMA busy_timeout = {int(PATIENCE * 1000)}")
        connection.execute("PRAGMA query_only = ON")
        return connection

    def _do(self, operation: Operation[Any], connection: sqlite3.Connection) -> None:
        try:
            connection.execute("BEGIN")  # all that one operation reads is of one moment
            try:
                result = operation.work(connection)
            finally:
                connection.execute("COMMIT")
            operation.succeed(result)
        except Exception as error:  # noqa: BLE001 - the thread must survive any operation
            refuse([operation], error)
        else:
            answer([operation])

    def _poll_all(self, connection: sqlite3.Connection) -> None:
        with self._lock:
            is_idle = not self._polls
        try:
            if not is_idle:
                self._look(connection)
        except sqlite3.Error as error:
            self._outage.fail(error)
            self._pause = LONGEST_PAUSE
            self._tell_polls()
        else:
            self._outage.end()

    def _tell_polls(self) -> None:
        with self._lock:
            polls = list(self._polls)
        for poll in polls:
            poll.give_up()

    def _look(self, connection: sqlite3.Connection) -> None:
        version: int = connection.execute("PRAGMA data_version").fetchone()[0]
        changed = version != self._version
        if changed:
            self._version = version
            self._pause = SHORTEST_PAUSE
        else:
            self._pause = min(self._pause * SLOWING, LONGEST_PAUSE)
        with self._lock:
            due = [
                poll for poll, must in self._polls.items() if must or changed or poll.pause() <= 0
            ]
            for poll in due:
                self._polls[poll] = False
        for poll in due:
            poll.look(connection)
