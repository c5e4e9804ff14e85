"""The end of a worker inside of a program: what it waits for, and how to hasten it.

A server that was told to stop (uvicorn, hypercorn) waits for our block, says nothing of what keeps
it, and takes a second Ctrl-C for the end of its own patience only.
"""

import asyncio
import signal
import threading
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Protocol

from asyncq.loggers import get_logger

log = get_logger(__name__)

SOON = 0.5  # seconds until what it waits for is said
MOST_NAMED = 5  # ids in that line


class Draining(Protocol):
    """What is told to stop: a `Worker`."""

    name: str

    @property
    def grace(self) -> float: ...

    @property
    def running(self) -> Sequence[str]: ...

    def hurry(self) -> None: ...


@contextmanager
def hastened_by_interrupts(worker: Draining) -> Generator[None]:
    """While it drains, have SIGINT end it at once, beside what the program does with it."""
    loop = asyncio.get_running_loop()
    telling = loop.call_later(SOON, _say_what_for, worker)
    previous = signal.getsignal(signal.SIGINT)

    def on_interrupt(number: int, frame: FrameType | None) -> None:
        loop.call_soon_threadsafe(_hurry, worker)
        if callable(previous):
            previous(number, frame)

    # Only the main thread has signals. One that is ignored, or ends the process, goes on to.
    hears = threading.current_thread() is threading.main_thread() and callable(previous)
    if hears:
        signal.signal(signal.SIGINT, on_interrupt)
    try:
        yield
    finally:
        telling.cancel()
        if hears and signal.getsignal(signal.SIGINT) is on_interrupt:
            signal.signal(signal.SIGINT, previous)


def _say_what_for(worker: Draining) -> None:
    running = worker.running
    if not running:
        return
    more = f" and {len(running) - MOST_NAMED} more" if len(running) > MOST_NAMED else ""
    log.warning(
        "worker %s stops and waits up to %.0f s for what runs: %s%s; another Ctrl-C (SIGINT) gives "
        "it back at once",
        worker.name,
        worker.grace,
        ", ".join(running[:MOST_NAMED]),
        more,
    )


def _hurry(worker: Draining) -> None:
    log.warning("SIGINT: worker %s gives back what runs", worker.name)
    worker.hurry()
