"""Operations: what a coroutine has done in one of the store's threads, and how it hears of it."""

import asyncio
import sqlite3
import threading
from collections import defaultdict
from collections.abc import Callable, Collection
from contextlib import suppress
from enum import Enum
from queue import SimpleQueue
from typing import Any, Generic, TypeVar

from asyncq.drivers.sqlite.forks import Access

T = TypeVar("T")


class Signal(Enum):
    """What a thread is told that is no operation."""

    LOOK = "look"
    STOP = "stop"


class Operation(Generic[T]):
    """Some work on the file, and who waits for its result.

    The work may be done twice: what failed in one transaction with others is tried again alone.
    ``committed`` hears of the result in the store's thread, before anyone else does, and whether or
    not somebody still waits.
    """

    __slots__ = ("_future", "_outcome", "committed", "durable", "loop", "work")

    def __init__(
        self,
        work: Callable[[sqlite3.Connection], T],
        *,
        durable: bool = False,
        committed: Callable[[T], None] | None = None,
        awaited: bool = True,
    ) -> None:
        self.work = work
        self.durable = durable
        self.committed = committed
        self._outcome: Callable[[asyncio.Future[T]], None] | None = None
        self.loop = asyncio.get_running_loop() if awaited else None
        self._future: asyncio.Future[T] | None = self.loop.create_future() if self.loop else None

    async def result(self) -> T:
        """Wait until it is done. A caller that is cancelled stops waiting, and no more."""
        assert self._future is not None  # noqa: S101 - what nobody awaits has no future
        return await self._future

    def succeed(self, result: T) -> None:
        if self.committed is not None:
            self.committed(result)
        self._outcome = lambda future: future.set_result(result)

    def fail(self, error: BaseException) -> None:
        self._outcome = lambda future: future.set_exception(error)

    def wake(self) -> None:
        """Tell who waits; in its event loop."""
        future, outcome = self._future, self._outcome
        if future is not None and outcome is not None and not future.done():
            outcome(future)


def answer(operations: Collection[Operation[Any]]) -> None:
    """Wake who waits for these operations: each event loop once."""
    by_loop: dict[asyncio.AbstractEventLoop, list[Operation[Any]]] = defaultdict(list)
    for operation in operations:
        if operation.loop is not None:
            by_loop[operation.loop].append(operation)
    for loop, done in by_loop.items():
        with suppress(RuntimeError):  # it is closed: nobody waits there any more
            loop.call_soon_threadsafe(_wake_all, done)


def _wake_all(operations: Collection[Operation[Any]]) -> None:
    for operation in operations:
        operation.wake()


def refuse(operations: Collection[Operation[Any]], error: BaseException) -> None:
    """Tell who waits for these that they failed."""
    for operation in operations:
        operation.fail(error)
    answer(operations)


class StoreThread(threading.Thread):
    """One of the two threads of a store: it does operations, and when it ends it closes the file.

    To join it is to wait, and block, until it has.
    """

    def __init__(self, does: str, path: str) -> None:
        super().__init__(name=f"{does} {path}", daemon=True)
        self._path = path
        self._access = Access(path)
        self._operations: SimpleQueue[Operation[Any] | Signal] = SimpleQueue()
        self._closing = threading.Lock()
        self._is_closed = False

    def submit(self, operation: Operation[Any]) -> None:
        with self._closing:
            if not self._is_closed:
                self._operations.put(operation)
                return
        refuse([operation], sqlite3.ProgrammingError("the file is closed"))

    def stop(self) -> None:
        """Do what has come so far, and close the file."""
        with self._closing:
            self._is_closed = True
            self._operations.put(Signal.STOP)
