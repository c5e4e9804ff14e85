"""Looks for suspects, as far as the consumers of one process have to know of each other's."""

import asyncio
from collections.abc import Generator
from contextlib import contextmanager


class Looks:
    """Those under way. One may take all the room there is in the quarantine, for a moment."""

    def __init__(self) -> None:
        self._count = 0
        self._ended = asyncio.Event()

    @property
    def are_under_way(self) -> bool:
        return self._count > 0

    @contextmanager
    def one(self) -> Generator[None]:
        self._count += 1
        try:
            yield
        finally:
            self._count -= 1
            self._ended.set()
            self._ended = asyncio.Event()

    async def next_end(self) -> None:
        """Return when one of them has ended."""
        if self._count:
            await self._ended.wait()
