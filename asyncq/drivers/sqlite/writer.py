"""The writer: the one thread of a process that writes to the file.

What comes while a transaction is under way goes into the next one together: the more there is to do
the fewer commits it takes.
"""

import sqlite3
import time
from collections import deque
from collections.abc import Callable
from queue import Empty
from typing import Any

from asyncq.drivers.sqlite.connection import begin, cut_log, roll_back
from asyncq.drivers.sqlite.operations import Operation, Signal, StoreThread, answer, refuse
from asyncq.loggers import get_logger

GROUP_SIZE = 64  # operations in one transaction
GROUP_TIME = 0.02  # seconds after which no other operation is taken into it: others write, too
CUT_EVERY = 5.0  # seconds between two looks at how long the log is

log = get_logger(__name__)


class Writer(StoreThread):
    """Does operations in the order they come, each wholly or not at all.

    It closes the file after ``others`` have: of two that leave at one moment each may take the
    other for one that stays, and then nobody removes the log.
    """

    def __init__(self, path: str, others: Callable[[], None]) -> None:
        super().__init__("writes", path)
        self._others = others
        # Taken from the queue, and not yet done.
        self._waiting: deque[Operation[Any] | Signal] = deque()
        self._cut_at = 0.0  # on the monotonic clock
        self.start()

    def run(self) -> None:
        try:
            with self._access:
                self._access.open()
        except Exception as error:  # noqa: BLE001 - whatever it is, who waits must hear of it
            self._access.close()
            while isinstance(operation := self._operations.get(), Operation):
                refuse([operation], error)
            return
        try:
            while (group := self._next_group()) is not None:
                with self._access:
                    try:
                        connection = self._access.open()
                    except Exception as error:  # noqa: BLE001 - as above
                        refuse(group, error)
                        continue
                    self._carry_out(connection, group)
                    self._tend_log(connection)
        finally:
            self._others()
            self._access.close()

    def _next_group(self) -> deque[Operation[Any]] | None:
        """Wait for something to do; None when there will be nothing more."""
        waiting = self._waiting
        if not waiting:
            waiting.append(self._operations.get())
        try:
            while len(waiting) < GROUP_SIZE:
                waiting.append(self._operations.get_nowait())
        except Empty:
            pass  # that is all there is for now
        group: deque[Operation[Any]] = deque()
        while waiting and isinstance(operation := waiting[0], Operation):
            group.append(operation)
            waiting.popleft()
        return group or None

    def _carry_out(self, connection: sqlite3.Connection, group: deque[Operation[Any]]) -> None:
        """Do these operations in one transaction, or as many as there is time for."""
        durable = any(operation.durable for operation in group)
        try:
            begin(connection, durable=durable)
        except sqlite3.Error as error:
            refuse(group, error)
            return
        results: list[tuple[Operation[Any], Any]] = []
        deadline = time.monotonic() + GROUP_TIME
        try:
            for operation in group:
                results.append((operation, operation.work(connection)))
                if time.monotonic() > deadline:
                    break
            connection.execute("COMMIT")
            self._access.check()
        except Exception as error:  # noqa: BLE001 - the thread must survive any operation
            roll_back(connection)
            self._sort_out(connection, group, error)
            return
        for operation, result in results:
            group.popleft()
            operation.succeed(result)
        answer([operation for operation, _ in results])
        self._waiting.extendleft(reversed(group))

    def _tend_log(self, connection: sqlite3.Connection) -> None:
        if time.monotonic() < self._cut_at:
            return
        try:
            cut_log(connection, self._path)
        except sqlite3.Error as error:
            log.warning("%s: its write-ahead log cannot be truncated: %s", self._path, error)
        self._cut_at = time.monotonic() + CUT_EVERY

    def _sort_out(
        self, connection: sqlite3.Connection, group: deque[Operation[Any]], error: Exception
    ) -> None:
        """Do what failed together one by one: only the one that fails alone has failed."""
        if len(group) > 1:
            for operation in group:
                self._carry_out(connection, deque([operation]))
            return
        [operation] = group
        if operation.loop is None:
            log.warning("%s: a write that nobody waits for failed: %s", self._path, error)
        refuse(group, error)
