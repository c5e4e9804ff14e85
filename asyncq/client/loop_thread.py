"""A client in an event loop of its own, in a thread: what the synchronous client asks.

The thread ends when it is told to, with the process, or not at all in a forked child, which has no
such thread. Nobody who waits for an answer waits for a thread that has ended.
"""

import asyncio
import os
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import CancelledError, Future, InvalidStateError
from contextlib import suppress
from typing import Any, TypeVar

from asyncq.client.client import Client
from asyncq.errors import ConfigurationError
from asyncq.loggers import get_logger

log = get_logger(__name__)

T = TypeVar("T")

CLOSE_TIMEOUT = 10.0  # seconds for the client to leave; then its thread is left to itself
LATE = 1.0  # seconds after a call's own time-out, for a loop that does not answer

Ask = Callable[[Client], Coroutine[Any, Any, T]]


class LoopThread:
    """Runs a client until stopped."""

    def __init__(self, make_client: Callable[[], Client]) -> None:
        self._make_client = make_client
        self._process = os.getpid()
        self._loop = asyncio.new_event_loop()
        self._stopped = asyncio.Event()
        self._opened: Future[Client] = Future()
        self._calls: set[Future[Any]] = set()  # added to by callers, emptied as the thread ends
        self._tasks: dict[Future[Any], asyncio.Task[None]] = {}  # the loop's
        self._opening: asyncio.Task[Any] | None = None
        self.is_over = False
        """Nothing can be asked any more."""
        # A daemon: who forgets to leave does not keep the interpreter from ending.
        self._thread = threading.Thread(target=self._run, name="asyncq-sync", daemon=True)

    @property
    def client(self) -> Client:
        """Once it is open."""
        return self._opened.result()

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        return self._loop

    def open(self) -> None:
        """Begin; returns once the client is connected. Raises what that raises."""
        self._thread.start()
        try:
            self._opened.result()
        except BaseException:
            self.close()
            raise

    def call(self, ask: Ask[T], timeout: float | None = None) -> T:
        """Do this in the loop and wait for it; ``timeout`` is its own, in seconds.

        Raises:
            ConfigurationError: the client was closed meanwhile.
            TimeoutError: the loop does not answer, not even that its time is up.
        """
        answer: Future[T] = Future()
        self._calls.add(answer)
        try:
            self._loop.call_soon_threadsafe(self._begin, ask, answer)
        except RuntimeError:  # the loop is closed
            answer.cancel()
        if self.is_over:  # and the thread has not seen this one
            answer.cancel()
        try:
            return answer.result(None if timeout is None else timeout + LATE)
        except CancelledError:
            raise ConfigurationError(
                "this client was closed before it had an answer: keep 'with app.sync()' open for "
                "as long as any thread uses it"
            ) from None
        except BaseException as error:
            if answer.done():
                raise  # what the call itself has raised
            self._give_up(answer)
            if isinstance(error, TimeoutError):
                raise TimeoutError(
                    f"the client's event loop has not answered in {timeout} s"
                ) from None
            raise
        finally:
            self._calls.discard(answer)

    def stop(self) -> None:
        """Have it leave; waits for nothing, so that the garbage collector may call this."""
        if self._process == os.getpid():
            with suppress(RuntimeError):  # it has left
                self._loop.call_soon_threadsafe(self._leave)

    def close(self) -> None:
        """Have it leave, and wait until it has."""
        self.stop()
        self._thread.join(CLOSE_TIMEOUT)
        if self._thread.is_alive():
            log.warning("a client has not closed its connections after %.0f s", CLOSE_TIMEOUT)

    # In the thread

    def _run(self) -> None:
        try:
            with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
                runner.run(self._live())
        # For who opens it, whatever it is; one that was open has logged what ended it.
        except BaseException as error:  # noqa: BLE001
            if not self._opened.done():
                self._opened.set_exception(error)
        finally:
            self.is_over = True
            for answer in list(self._calls):
                answer.cancel()

    async def _live(self) -> None:
        self._opening = asyncio.current_task()
        if self._stopped.is_set():
            raise ConfigurationError("this client was closed before it was connected")
        async with self._make_client() as client:
            self._opened.set_result(client)
            await self._stopped.wait()

    def _leave(self) -> None:
        self._stopped.set()
        if self._opening is not None and not self._opened.done():
            self._opening.cancel()

    def _begin(self, ask: Ask[Any], answer: "Future[Any]") -> None:
        task = self._loop.create_task(self._do(ask, answer))
        self._tasks[answer] = task
        task.add_done_callback(lambda _: self._tasks.pop(answer, None))

    async def _do(self, ask: Ask[Any], answer: "Future[Any]") -> None:
        try:
            value = await ask(self.client)
        except asyncio.CancelledError:
            answer.cancel()
            raise
        except Exception as error:  # noqa: BLE001 - for who asked, whatever it is
            with suppress(InvalidStateError):  # who asked has gone
                answer.set_exception(error)
        else:
            with suppress(InvalidStateError):
                answer.set_result(value)

    def _give_up(self, answer: "Future[Any]") -> None:
        answer.cancel()
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._cancel, answer)

    def _cancel(self, answer: "Future[Any]") -> None:
        if (task := self._tasks.get(answer)) is not None:
            task.cancel()
