"""Running a worker in a process of its own: the event loop, and what signals do to it."""

import asyncio
import gc
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Collection, Coroutine
from contextlib import suppress
from importlib import import_module
from importlib.util import find_spec
from typing import Any, NoReturn, Protocol, TypeVar

import anyio
from anyio.abc import TaskStatus

from asyncq.loggers import get_logger
from asyncq.texts import counted
from asyncq.worker.drain import TOLD_AGAIN
from asyncq.worker.worker import Worker

log = get_logger(__name__)

R = TypeVar("R")
LAST_CALL = 1.0  # seconds for what ignored its cancellation to listen to another
TOGETHER = 0.05  # seconds in which further signals mean no more than the first
DRAIN = (
    "%s: draining: no new tasks are taken, running ones may end (told again, they are cancelled)"
)
CANCEL = "%s again: cancelling what runs and requeuing it (told again: exits at once)"
LEAVE = "%s for the third time: exiting at once; what still ran is requeued, as after a crash"


async def run_until_signalled(worker: Worker) -> None:
    """Run ``worker`` until it ends, or until SIGTERM, SIGINT or SIGHUP and then to its end.

    The first signal lets running tasks go on for the grace period, the second cancels and requeues
    them, the third ends the process at once: the lease takes care of what was in flight. What runs
    on in threads past its grace ends with the process, which exits when all else is settled.
    """
    async with anyio.create_task_group() as group:
        await group.start(obey_signals, StopLevel(worker).raise_to)
        is_ours = threading.current_thread() is threading.main_thread()  # the process, that is
        if is_ours:
            worker.drain.remedy = TOLD_AGAIN
        await worker.run(leave=leave_at_once if is_ours else None)
        group.cancel_scope.cancel()


def stop_signals() -> tuple[signal.Signals, ...]:
    """The signals that tell a process to stop.

    A terminal that is closed sends SIGHUP; it is not ours where somebody has decided what it does,
    as ``nohup`` and programs that read their settings anew.
    """
    if signal.getsignal(signal.SIGHUP) is signal.SIG_DFL:
        return (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
    return (signal.SIGTERM, signal.SIGINT)


class Stoppable(Protocol):
    """What can be told to stop: a `Worker`."""

    def stop(self) -> None: ...

    def hurry(self) -> None: ...


class StopLevel:
    """How hard a worker was told to stop: to drain (1), to cancel (2), to leave (3).

    It may be told by signals and by its supervisor, and about one thing by both: what counts is the
    higher of the two, not their sum.
    """

    def __init__(self, worker: Stoppable, level: int = logging.WARNING) -> None:
        self._worker = worker
        self._log_level = level
        self._level = 0

    def raise_to(self, level: int, by: str) -> None:
        """Do what was not done yet of what this level means."""
        for step in range(self._level + 1, level + 1):
            self._level = step
            say_stop(step, by, self._log_level)
            if step == 1:
                self._worker.stop()
            elif step == 2:  # noqa: PLR2004 - the second signal
                self._worker.hurry()
            else:
                logging.shutdown()
                os._exit(1)


def say_stop(level: int, by: str, log_level: int = logging.WARNING) -> None:
    """Log what this level means."""
    if level > 2:  # noqa: PLR2004 - the third signal
        log.critical(LEAVE, by)
    else:
        log.log(log_level, DRAIN if level == 1 else CANCEL, by)


def leave_at_once(code: int = 0) -> NoReturn:
    """End this process, with whatever still runs in its threads."""
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        with suppress(Exception):  # closed, or nobody reads it: no reason to stay
            stream.flush()
    os._exit(code)


def calm_the_collector() -> None:
    """Spare the garbage collector what lives as long as the process, or as briefly as a task.

    Only in a process that is nothing but a worker: another's program may rely on its collector.

    By default it looks at everything again and again while thousands of tasks wait: 10,000 sleepers
    took 1.18 to 1.28 s with its defaults, and 1.13 s so.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)


async def obey_signals(
    tell: Callable[[int, str], object], *, task_status: TaskStatus[None]
) -> None:
    """Tell how often we were told to stop by now, with the name of the signal that said so.

    Until cancelled; only the main thread has any signals. Those that come together count once:
    ``timeout`` sends its signal to the process and then to its group, and systemd may let a SIGHUP
    follow a SIGTERM. Nothing is done and logged before that time is over: whoever has seen that we
    heard the first is heard with the second.
    """
    if threading.current_thread() is not threading.main_thread():
        task_status.started()
        return
    count = 0
    with anyio.open_signal_receiver(*stop_signals()) as signals:
        task_status.started()
        async for number in signals:
            with anyio.move_on_after(TOGETHER):
                while True:
                    await anext(signals)
            count += 1
            tell(count, signal.Signals(number).name)


def run_loop(main: Callable[[], Coroutine[Any, Any, R]]) -> R:
    """Run ``main`` in a new event loop, uvloop's where there is one."""
    has_uvloop = find_spec("uvloop") is not None
    factory = import_module("uvloop").new_event_loop if has_uvloop else None
    with asyncio.Runner(loop_factory=factory) as runner:
        return runner.run(_run_alone(main))


async def _run_alone(main: Callable[[], Coroutine[Any, Any, R]]) -> R:
    """Run ``main``, and then cancel what it left behind."""
    try:
        return await main()
    finally:
        if left := asyncio.all_tasks() - {asyncio.current_task()}:
            await _end(left)


async def _end(left: Collection["asyncio.Task[Any]"]) -> None:
    """Cancel these; without them, leave the process: `Runner` would wait for ever."""
    for task in left:
        task.cancel()
    _, deaf = await asyncio.wait(left, timeout=LAST_CALL)
    if deaf:
        log.critical(
            "exiting without waiting for %s that ignored their cancellation",
            counted(len(deaf), "asyncio task"), exc_info=sys.exception(),
        )  # fmt: skip
        logging.shutdown()
        os._exit(1)
