"""A wakeup: how one thread wakes a coroutine in the event loop of another, or of its own."""

import asyncio


class Wakeup:
    """Wakes the one coroutine that waits for it, once."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._event = asyncio.Event()
        self.is_set = False

    def wake(self) -> bool:
        """Whether somebody may have heard it."""
        self.is_set = True
        try:
            self._loop.call_soon_threadsafe(self._event.set)
        except RuntimeError:
            return False  # its loop is closed
        return True

    async def wait(self) -> None:
        await self._event.wait()
