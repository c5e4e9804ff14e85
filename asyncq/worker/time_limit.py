"""The time limit of an attempt that runs in the event loop."""

import asyncio
from types import TracebackType

from asyncq.errors import TimeLimitExceeded
from asyncq.language.message import Message
from asyncq.worker import tasks

INSIST = 10.0  # seconds that an attempt has to clean up in, until it is cancelled again


class TimeLimit:
    """`asyncio.timeout`, saying whose time it was.

    Code that catches everything, and some that is cancelled as it ends a wait of its own, swallows
    a cancellation and goes on; its slot would be taken for ever. So it is cancelled again, every
    `INSIST` seconds for as long as it goes on.
    """

    def __init__(self, seconds: float, message: Message) -> None:
        self._seconds = seconds
        self._message = message
        self._timeout = asyncio.timeout(seconds)
        self._insisted = 0  # times

    async def __aenter__(self) -> None:
        await self._timeout.__aenter__()
        self._task = asyncio.current_task()
        self._loop = asyncio.get_running_loop()
        self._timer = self._loop.call_later(self._seconds + INSIST, self._insist)

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
        if self._task is not None:
            for _ in range(self._insisted):  # these were ours as well
                self._task.uncancel()
        try:
            return await self._timeout.__aexit__(kind, error, trace)
        except TimeoutError:
            raise TimeLimitExceeded(f"the time limit of {self._seconds} s is over") from None
