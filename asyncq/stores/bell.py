"""A bell: how one thread wakes a coroutine in the event loop of another, or of its own."""

import asyncio
from contextlib import suppress


class Bell:
    """Wakes the one coroutine that waits for it. It rings once."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._event = asyncio.Event()
        self.has_rung = False

    def ring(self) -> None:
        self.has_rung = True
        with suppress(RuntimeError):  # its loop is closed: nobody waits there any more
            self._loop.call_soon_threadsafe(self._event.set)

    async def wait(self) -> None:
        await self._event.wait()
