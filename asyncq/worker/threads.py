"""The threads that plain functions run in. No thread can be cancelled; so it is known which run.

What can be done is to have an exception raised in one, at its next line of Python. A thread that
waits in C (``time.sleep``, a driver's call) hears of it when it is back.

Python may call something in between whose errors it drops: a ``__del__``, the callback of a weak
reference or of the garbage collector. What is dropped there is raised once more.
"""

import asyncio
import ctypes
import importlib
import inspect
import logging
import queue
import sys
import threading
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from concurrent import futures
from contextlib import suppress
from functools import cache, partial
from pathlib import Path
from typing import Any

import anyio

from asyncq.worker.failures import is_a

DELICATE = (
    "<frozen importlib",
    str(Path(__file__).parents[1]),
    *(str(Path(module.__file__ or "-").with_suffix("")) for module in (threading, queue, weakref)),
    *(
        str(Path(module.__file__ or "-").parent)
        for module in (logging, asyncio, futures, importlib)
    ),
)
"""How the files begin where nothing is raised from outside."""
LOOKS, AT_ANY_POINT = 20, 1e-5  # seconds
AGAIN, AT_LEAST_EVERY = 0.005, 0.5  # seconds until that is tried again; twice as long each time
MOST_LEFT = 10  # threads that were left behind and make room for others

Interrupt = Callable[["asyncio.Task[Any]", type[BaseException]], bool]

_raise_in = ctypes.pythonapi.PyThreadState_SetAsyncExc
_raise_in.argtypes = (ctypes.c_ulong, ctypes.py_object)


class _Call:
    """One call of a function in a thread, which may be interrupted while it lasts.

    The exception arrives a little after it was asked for. So nothing is asked for once the function
    has ended, and what has not arrived by then is taken back: it would hit our code.
    """

    __slots__ = ("_lock", "_raised", "_thread", "ask_again")

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._thread: int | None = None
        self._raised: type[BaseException] | None = None
        self.ask_again: Callable[[type[BaseException]], object] | None = None
        """What is done, in the thread, where what was raised was dropped."""

    def begin(self) -> None:
        self._thread = threading.get_ident()

    def end(self) -> None:
        """Be interrupted no more. Raises what arrives meanwhile: call it again."""
        with self._lock:
            if (thread := self._thread) is not None:
                self._thread = None
                _raise_in(thread, None)
                _interrupted.pop(thread, None)

    @property
    def is_running(self) -> bool:
        return self._thread is not None

    def interrupt(self, kind: type[BaseException]) -> bool | None:
        """Whether it will be raised; None if it is over. False: not where the thread is now.

        Nobody moves while we have the interpreter's lock, and the exception is raised where that
        frame goes on, or as the first thing in what it calls. So it never hits code that has taken
        a lock and is about to say that it will give it back.
        """
        with self._lock:
            if (thread := self._thread) is None:
                return None
            if not _is_well_placed(thread):
                return False
            _interrupted[thread], self._raised = self, kind
            return bool(_raise_in(thread, kind))

    def was_dropped(self, kind: type[BaseException] | None) -> bool:
        """Whether it was ours, and is raised once more."""
        if kind is None or kind is not self._raised or self.ask_again is None:
            return False
        self._raised = None
        self.ask_again(kind)
        return True


_interrupted: dict[int, _Call] = {}
"""What was raised in which thread; each change is one step."""


@cache
def _hear_of_what_is_dropped() -> None:
    """From now on, in this process; what is none of ours goes to whom it went before."""
    before = sys.unraisablehook

    def hook(dropped: "sys.UnraisableHookArgs", /) -> None:
        call = _interrupted.get(threading.get_ident())
        if call is None or not call.was_dropped(dropped.exc_type):
            before(dropped)

    sys.unraisablehook = hook


def _is_well_placed(thread: int) -> bool:
    """Whether this thread is where something may be raised; looks a few times.

    Threads let go of the interpreter's lock where they write to files, say, and so we would see
    what logs at nothing else. Meanwhile they are made to let go of it anywhere.
    """
    interval = sys.getswitchinterval()
    sys.setswitchinterval(AT_ANY_POINT)
    try:
        for _ in range(LOOKS):
            frame = sys._current_frames().get(thread)  # noqa: SLF001 # pyright: ignore[reportPrivateUsage]
            if frame is not None and not frame.f_code.co_filename.startswith(DELICATE):
                return True
            time.sleep(0)
    finally:
        sys.setswitchinterval(interval)
    return False


class RaisedInThread(Exception):
    """Carries out of a thread what no coroutine can raise as it is: `StopIteration`."""

    def __init__(self, error: BaseException) -> None:
        super().__init__()
        self.error = error


class Threads:
    """Those of one worker; never more than ``limiter`` has tokens for."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._lent = 0
        self.limiter = anyio.CapacityLimiter(size)
        self.alive: set[object] = set()  # written by the threads; one change of a set is atomic
        """What runs at this moment, left behind or not."""
        self._left: set[_Call] = set()  # left behind, as they began to run; written as `alive`
        self._calls: dict[asyncio.Task[Any] | None, _Call] = {}
        self._tickets: dict[asyncio.Task[Any] | None, list[None]] = {}
        """Of the attempts that await a thread: who takes the ticket, the thread as it begins or
        the loop as it gives up, decides whether the function is called."""

    @property
    def left(self) -> int:
        """How many were left behind and go on."""
        return len(self._left)

    def lend(self, lent: int) -> None:
        """Have so many more, for slots that were lent."""
        self._lent = lent
        self._fit()

    def _fit(self) -> None:
        """What was left behind takes a thread, and no slot."""
        wanted = self._size + self._lent + min(len(self._left), MOST_LEFT)
        if self.limiter.total_tokens != wanted:
            self.limiter.total_tokens = wanted

    async def run(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """Call ``function`` in a thread. Cancelled, that is left behind if it has begun."""
        ticket: list[None] = [None]
        attempt = asyncio.current_task()
        if self._left or self.limiter.total_tokens != self._size + self._lent:
            self._fit()
        self._tickets[attempt] = ticket
        call = self._calls[attempt] = _Call()
        try:
            value, error = await anyio.to_thread.run_sync(
                partial(self._call, ticket, call, function, args, kwargs),
                abandon_on_cancel=True,
                limiter=self.limiter,
            )
        except asyncio.CancelledError:
            if not _take(ticket) and call.is_running:
                self._left.add(call)
                if not call.is_running:  # it has ended in between
                    self._left.discard(call)
                self._fit()
            raise
        finally:
            del self._tickets[attempt], self._calls[attempt]
        if error is None:
            return await value if inspect.isawaitable(value) else value
        raise RaisedInThread(error) if is_a(error, StopIteration) else error

    def interrupt(self, attempt: "asyncio.Task[Any]", kind: type[BaseException]) -> bool:
        """Raise this in the thread of an attempt, as soon as that may be; False: it is in none."""
        call = self._calls.get(attempt)
        return call is not None and self._interrupt(call, kind)

    def _interrupt(self, call: _Call, kind: type[BaseException], pause: float = AGAIN) -> bool:
        loop = asyncio.get_running_loop()
        _hear_of_what_is_dropped()
        call.ask_again = partial(_call_soon, loop, self._interrupt, call)
        is_raised = call.interrupt(kind)
        if is_raised is False:  # it may stay there for hours: in a queue that nobody fills, say
            later = min(2 * pause, AT_LEAST_EVERY)
            loop.call_later(pause, self._interrupt, call, kind, later)
        return is_raised is not None

    def has_begun(self, attempt: "asyncio.Task[Any]") -> bool:
        """Whether this attempt is in a thread that runs. If it is about to be, it never will."""
        ticket = self._tickets.get(attempt)
        return ticket is not None and not _take(ticket)

    def runs(self, attempt: "asyncio.Task[Any]") -> bool:
        """Whether this attempt is in a thread that runs."""
        ticket = self._tickets.get(attempt)
        return ticket is not None and not ticket

    def _call(
        self,
        ticket: list[None],
        call: _Call,
        function: Callable[..., Any],
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
    ) -> tuple[Any, BaseException | None]:
        """The thread's side. An exception is handed over as a value: no future takes every kind."""
        if not _take(ticket):
            return None, None
        self.alive.add(key := object())
        value, error = _call(call, function, args, kwargs)
        self.alive.discard(key)
        self._left.discard(call)
        return value, error


def _call(
    call: _Call,
    function: Callable[..., Any],
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
) -> tuple[Any, BaseException | None]:
    """What the function returns or raises; behind this, nothing is raised from outside."""
    value: Any = None
    raised: BaseException | None = None
    has_returned = False
    try:
        call.begin()
        value = function(*args, **kwargs)
        has_returned = True
    except BaseException as error:  # noqa: BLE001 - raised again where the task is awaited
        raised = None if has_returned else error
    while True:
        try:
            call.end()
        except BaseException:  # noqa: BLE001, S112 - an interruption that comes too late
            continue
        return value, raised


def _call_soon(loop: asyncio.AbstractEventLoop, function: Callable[..., Any], *args: Any) -> None:
    with suppress(RuntimeError):  # the loop is closed: nobody waits for it any more
        loop.call_soon_threadsafe(function, *args)


def _take(ticket: list[None]) -> bool:
    try:
        ticket.pop()
    except IndexError:
        return False
    return True
