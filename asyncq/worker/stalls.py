"""Where this process stands when its event loop does not turn: the log says it.

A thread watches. Code that holds the interpreter lock stops it too; so under ``asyncq worker`` the
supervisor watches instead, and asks with a signal. faulthandler writes the stacks from within that,
so that no interpreter lock is needed and the loop may stand as still as it likes. A handler in
Python adds which message is at hand: the main thread runs it as soon as it can, in the middle of a
sleep or of a regular expression, say.
"""

import asyncio
import faulthandler
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from types import FrameType

import anyio

from asyncq.loggers import TRACEBACK, get_logger
from asyncq.worker.pool import Slots

log = get_logger(__name__)

# The one way to see what another thread is doing; documented, in spite of its name.
current_frames: Callable[[], dict[int, FrameType]] = vars(sys)["_current_frames"]

TURN_EVERY = 0.25  # seconds between two signs of life of the loop
STALL = 1.0  # seconds without one after which the loop is said to stand still
STACK_LINES = 8
ASK = signal.SIGUSR2
MESSAGE = "message "  # begins the line that ends an answer to that


class LoopWatch:
    """Watches the loop it is made in, for as long as it runs."""

    def __init__(self, slots: Slots) -> None:
        self._slots = slots
        self._loop = asyncio.get_running_loop()
        self._loop_thread = threading.get_ident()
        self._end = threading.Event()
        self._last_turn = time.monotonic()  # written by the loop, read by the thread
        self._is_named = False  # set by the thread, which has told of what goes on

    async def run(self) -> None:
        """Watch until cancelled."""
        threading.Thread(target=self._watch, name="asyncq-watch", daemon=True).start()
        try:
            while True:
                self._last_turn, before = time.monotonic(), self._last_turn
                self._look_back(self._last_turn - before)
                await anyio.sleep(TURN_EVERY)
        finally:
            self._end.set()

    def _look_back(self, stood: float) -> None:
        """Tell of a stall that is over, where the thread could not: it was stopped as well."""
        is_named, self._is_named = self._is_named, False
        if stood > STALL + TURN_EVERY and not is_named:
            log.error(
                "the worker's event loop %s", told_afterwards(stood, self._slots.some_running())
            )

    def _watch(self) -> None:
        """The thread: log when the loop begins to stand still, and when it moves again."""
        stands, since = False, 0.0
        while not self._end.wait(TURN_EVERY):
            now = time.monotonic()
            silence = now - self._last_turn
            if silence < STALL:
                if stands:
                    log.warning("the worker's event loop runs again, after %.1f s", now - since)
                stands = False
            elif not stands:
                stands, since = True, now - silence
                self._is_named = True
                message = self._slots.message_of(asyncio.current_task(self._loop))
                log.error(
                    "the worker's event loop has been blocked for %.1f s %s",
                    silence,
                    f"in task {message}" if message else "by what is none of its tasks",
                    extra={TRACEBACK: _where(current_frames().get(self._loop_thread))},
                )


def told_afterwards(stood: float, running: Sequence[str]) -> str:
    """A stall that is over, as far as is known of it."""
    had = f"it had {', '.join(running)} at hand" if running else "it had no task at hand"
    return f"was blocked for {stood:.1f} s and runs again; {had} as that ended"


def answer_with_stacks(pipe: int, message_at_hand: Callable[[], str | None]) -> None:
    """Write to ``pipe`` whenever `ASK` comes."""

    def add_message(_number: int, _frame: FrameType | None) -> None:
        with suppress(OSError):  # nobody reads any more; and it must not end up in the task
            os.write(pipe, f"{MESSAGE}{message_at_hand() or ''}\n".encode(errors="replace"))

    signal.signal(ASK, add_message)
    faulthandler.register(ASK, file=pipe, all_threads=True, chain=True)


def answer_no_more() -> None:
    """From here on the signal does nothing: a process that is ending must not be killed by it."""
    faulthandler.unregister(ASK)
    signal.signal(ASK, signal.SIG_IGN)


def _where(frame: FrameType | None) -> str:
    if frame is None:
        return ""
    stack = traceback.extract_stack(frame)[-STACK_LINES:]
    return "\n".join(f"{call.filename}:{call.lineno} in {call.name}" for call in stack)
