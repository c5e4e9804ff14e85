"""A worker beside the code of a block, in the same event loop.

It runs in a task of its own, and not in the one that entered the block: pytest's fixtures, for one,
are left by another task than entered them.
"""

import asyncio
import signal
import threading
from collections.abc import Generator
from contextlib import contextmanager, suppress
from types import FrameType, TracebackType

import anyio

from asyncq.errors import first_error
from asyncq.loggers import get_logger
from asyncq.worker.worker import Worker

log = get_logger(__name__)

INTERRUPTED = "another Ctrl-C (SIGINT) requeues them at once"


class Embedded:
    """Consuming when entered, drained when left; given back at once when what leaves is cancelled.

    What ends the worker cancels the task that entered, if it is still there, and comes out of the
    block in place of whatever that made of it.
    """

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._started = asyncio.Event()
        self._task: asyncio.Task[None]
        self._host: asyncio.Task[object] | None = None
        self._has_told = False

    async def __aenter__(self) -> Worker:
        loop = asyncio.get_running_loop()
        # A bare task, and owned all the same: whoever leaves the block waits for it.
        self._task = loop.create_task(self._run())
        starting = loop.create_task(self._started.wait())
        try:
            await asyncio.wait({self._task, starting}, return_when=asyncio.FIRST_COMPLETED)
        except BaseException:
            await self._until_ended()
            raise
        finally:
            starting.cancel()
        if self._task.done():
            self._raise_what_ended_it()
        self._host = asyncio.current_task()
        self._task.add_done_callback(self._tell_host)
        return self._worker

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
        /,
    ) -> None:
        try:
            host, self._host = self._host, None
            if self._has_told and host is not None and host is asyncio.current_task():
                host.uncancel()
            with _hastened_by_interrupts(self._worker):
                self._worker.stop()
                if error is not None and not isinstance(error, Exception):
                    self._task.cancel()
                await asyncio.wait({self._task})
        finally:  # a Ctrl-C may end all that at any point
            await self._until_ended()
        self._raise_what_ended_it()

    async def _run(self) -> None:
        async with anyio.create_task_group() as group:
            await group.start(self._worker.run)
            self._started.set()

    async def _until_ended(self) -> None:
        """Cancel it if it runs, and wait for it, whatever ends us meanwhile."""
        if self._task.done():
            return
        self._task.cancel()
        # Shielded: what it holds is given back. Without a deadline, as each step of that has its
        # own.
        with anyio.CancelScope(shield=True):
            while not self._task.done():
                with suppress(asyncio.CancelledError):
                    await asyncio.wait({self._task})

    def _raise_what_ended_it(self) -> None:
        if not self._task.cancelled() and (failure := self._task.exception()) is not None:
            raise first_error(failure) from None

    def _tell_host(self, task: "asyncio.Task[None]") -> None:
        """Nobody would hear of it otherwise before the block ends by itself."""
        if self._host is None or task.cancelled() or task.exception() is None:
            return
        self._has_told = self._host.cancel("the worker has failed")


@contextmanager
def _hastened_by_interrupts(worker: Worker) -> Generator[None]:
    """While it drains, have SIGINT end it at once, beside what the program does with it."""
    loop = asyncio.get_running_loop()
    previous = signal.getsignal(signal.SIGINT)

    def on_interrupt(number: int, frame: FrameType | None) -> None:
        loop.call_soon_threadsafe(_hurry, worker)
        if callable(previous):
            previous(number, frame)

    # Only the main thread has signals. One that is ignored, or ends the process, goes on to.
    hears = threading.current_thread() is threading.main_thread() and callable(previous)
    if hears:
        worker.drain.remedy = INTERRUPTED
        signal.signal(signal.SIGINT, on_interrupt)
    try:
        yield
    finally:
        if hears and signal.getsignal(signal.SIGINT) is on_interrupt:
            signal.signal(signal.SIGINT, previous)


def _hurry(worker: Worker) -> None:
    log.warning("SIGINT: worker %s requeues what runs", worker.name)
    worker.hurry()
