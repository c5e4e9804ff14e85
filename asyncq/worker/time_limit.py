"""The time limits of an attempt: the hard one cancels it, the soft one tells it."""

import asyncio
from collections.abc import Awaitable, Generator
from functools import partial
from types import TracebackType
from typing import Any

from asyncq.errors import SoftTimeLimitExceeded, TimeLimitExceeded
from asyncq.language.message import Message
from asyncq.worker import tasks
from asyncq.worker.threads import Interrupt

INSIST = 10.0  # seconds that an attempt has to clean up in, until it is cancelled again


class TimeLimit:
    """`asyncio.timeout`, saying whose time it was.

    Code that catches everything, and some that is cancelled as it ends a wait of its own, swallows
    a cancellation and goes on; its slot would be taken for ever. So it is cancelled again, every
    `INSIST` seconds for as long as it goes on.
    """

    def __init__(self, seconds: float, message: Message, interrupt: Interrupt | None) -> None:
        self._seconds = seconds
        self._interrupt = interrupt
        self._message = message
        self._timeout = asyncio.timeout(seconds)
        self._insisted = 0  # times
        self._leaving: asyncio.TimerHandle | None = None

    async def __aenter__(self) -> None:
        await self._timeout.__aenter__()
        self._task = asyncio.current_task()
        self._loop = asyncio.get_running_loop()
        self._timer = self._loop.call_later(self._seconds + INSIST, self._insist)
        if self._interrupt is not None and (end := self._timeout.when()) is not None:
            self._leaving = self._loop.call_at(end, self._leave, self._interrupt)

    def _leave(self, interrupt: Interrupt) -> None:
        """The thread is left behind now: may it end, where it can hear."""
        if self._task is not None:
            interrupt(self._task, TimeLimitExceeded)

    def _insist(self) -> None:
        task = self._task
        if task is None or not self._timeout.expired():
            return
        if not self._insisted:
            tasks.overtime(self._message, self._seconds, INSIST)
        self._insisted += 1
        task.cancel()
        self._timer = self._loop.call_later(INSIST, self._insist)

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> bool | None:
        self._timer.cancel()
        if self._leaving is not None:
            self._leaving.cancel()
        if self._task is not None:
            for _ in range(self._insisted):  # these were ours as well
                self._task.uncancel()
        try:
            return await self._timeout.__aexit__(kind, error, trace)
        except TimeoutError:
            raise TimeLimitExceeded(f"the time limit of {self._seconds} s is over") from None


class SoftTimeLimit:
    """Awaits what it is given, and raises `SoftTimeLimitExceeded` inside of it when time is over.

    A coroutine that waits can be woken by nothing but a cancellation. So it is cancelled, and what
    arrives here on its way in, before the coroutine sees it, is made the other. A cancellation that
    somebody else wants at the same time goes before.
    """

    def __init__(self, run: Awaitable[Any], seconds: float, interrupt: Interrupt | None) -> None:
        self._run = run
        self._seconds = seconds
        self._interrupt = interrupt
        self._task: asyncio.Task[Any] | None = None
        self._before = 0  # how often the task was cancelled before
        self._is_told = False

    def __await__(self) -> Generator[Any, Any, Any]:
        self._task = task = asyncio.current_task()
        before = self._before = 0 if task is None else task.cancelling()
        timer = asyncio.get_running_loop().call_later(self._seconds, self._tell)
        inner = self._run.__await__()
        step = partial(next, inner)
        try:
            while True:
                try:
                    waits_for = step()
                except StopIteration as end:
                    return end.value
                try:
                    answer = yield waits_for
                except GeneratorExit:
                    inner.close()
                    raise
                except BaseException as error:  # noqa: BLE001 - handed on, whatever it is
                    told = self._was_told(before)
                    if told and not isinstance(error, asyncio.CancelledError):
                        # What it waited for has made something else of that: it is told again.
                        told = False
                        asyncio.get_running_loop().call_soon(self._tell)
                    step = partial(inner.throw, self._error() if told else error)
                else:
                    # What it waited for may have swallowed that: it is told all the same.
                    told = self._was_told(before)
                    step = (
                        partial(inner.throw, self._error()) if told else partial(inner.send, answer)
                    )
        finally:
            timer.cancel()
            self._was_told(before)

    def _tell(self) -> None:
        task = self._task
        if task is None or task.done() or task.cancelling() > self._before:
            return  # what somebody has cancelled cleans up, and is not disturbed
        if self._interrupt is not None and self._interrupt(task, SoftTimeLimitExceeded):
            return
        self._is_told = True
        task.cancel()

    def _was_told(self, before: int) -> bool:
        """Whether it was told since this was asked last, and nobody else cancels it."""
        if not self._is_told or self._task is None:
            return False
        self._is_told = False
        return self._task.uncancel() <= before

    def _error(self) -> SoftTimeLimitExceeded:
        return SoftTimeLimitExceeded(f"the soft time limit of {self._seconds:g} s is over")
