"""The writer: the one thread of a process that writes to the file.

What comes while a transaction is under way goes into the next one together: the more there is to do
the fewer commits it takes.
"""

import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Any

from asyncq.drivers.sqlite.connection import begin, cut_log, roll_back
from asyncq.drivers.sqlite.forks import Seat
from asyncq.drivers.sqlite.jobs import Job, answer
from asyncq.loggers import get_logger

GROUP_SIZE = 64  # jobs in one transaction
GROUP_TIME = 0.02  # seconds after which no other job is taken into it: others write, too
CUT_EVERY = 5.0  # seconds between two looks at how long the log is

log = get_logger(__name__)


class Writer:
    """Does jobs in the order they come, each wholly or not at all.

    It closes the file after ``others`` have: of two that leave at one moment each may take the
    other for one that stays, and then nobody removes the log.
    """

    def __init__(self, path: str, others: Callable[[], None]) -> None:
        self._path = path
        self._others = others
        self._seat = Seat(path)
        self._jobs: SimpleQueue[Job[Any] | None] = SimpleQueue()
        self._waiting: deque[Job[Any] | None] = deque()  # taken from the queue, not yet done
        self._cut_at = 0.0  # on the monotonic clock
        self._lock = threading.Lock()
        self._stopped = False
        self._thread = threading.Thread(target=self._run, name=f"writes {path}", daemon=True)
        self._thread.start()

    def submit(self, job: Job[Any]) -> None:
        with self._lock:
            if not self._stopped:
                self._jobs.put(job)
                return
        job.fail(sqlite3.ProgrammingError("the file is closed"))
        answer([job])

    def stop(self) -> None:
        """Do what has come so far, and close the file."""
        with self._lock:
            self._stopped = True
            self._jobs.put(None)

    def join(self) -> None:
        """Wait, and block, until the file is closed."""
        self._thread.join()

    def _run(self) -> None:
        try:
            with self._seat:
                self._seat.open()
        except Exception as error:  # noqa: BLE001 - whatever it is, who waits must hear of it
            self._seat.close()
            self._refuse_all(error)
            return
        try:
            while (group := self._next_group()) is not None:
                with self._seat:
                    try:
                        connection = self._seat.open()
                    except Exception as error:  # noqa: BLE001 - as above
                        self._refuse(group, error)
                        continue
                    self._carry_out(connection, group)
                    self._tend_log(connection)
        finally:
            self._others()
            self._seat.close()

    @staticmethod
    def _refuse(group: deque[Job[Any]], error: Exception) -> None:
        for job in group:
            job.fail(error)
        answer(group)

    def _refuse_all(self, error: Exception) -> None:
        while (job := self._jobs.get()) is not None:
            job.fail(error)
            answer([job])

    def _next_group(self) -> deque[Job[Any]] | None:
        """Wait for something to do; None when there will be nothing more."""
        waiting = self._waiting
        if not waiting:
            waiting.append(self._jobs.get())
        try:
            while len(waiting) < GROUP_SIZE:
                waiting.append(self._jobs.get_nowait())
        except Empty:
            pass  # that is all there is for now
        group: deque[Job[Any]] = deque()
        while waiting and (job := waiting[0]) is not None:
            group.append(job)
            waiting.popleft()
        return group or None

    def _carry_out(self, connection: sqlite3.Connection, group: deque[Job[Any]]) -> None:
        """Do these jobs in one transaction, or as many as there is time for."""
        durable = any(job.durable for job in group)
        try:
            begin(connection, durable=durable)
        except sqlite3.Error as error:
            self._refuse(group, error)
            return
        results: list[tuple[Job[Any], Any]] = []
        deadline = time.monotonic() + GROUP_TIME
        try:
            for job in group:
                results.append((job, job.work(connection)))
                if time.monotonic() > deadline:
                    break
            connection.execute("COMMIT")
            self._seat.check()
        except Exception as error:  # noqa: BLE001 - the thread must survive any job
            roll_back(connection)
            self._sort_out(connection, group, error)
            return
        for job, result in results:
            group.popleft()
            job.succeed(result)
        answer([job for job, _ in results])
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
        self, connection: sqlite3.Connection, group: deque[Job[Any]], error: Exception
    ) -> None:
        """Do what failed together one by one: only the one that fails alone has failed."""
        if len(group) > 1:
            for job in group:
                self._carry_out(connection, deque([job]))
            return
        [job] = group
        if job.loop is None:
            log.warning("%s: a write that nobody waits for failed: %s", self._path, error)
        job.fail(error)
        answer(group)
