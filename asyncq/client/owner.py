"""The owner: what stands for the scopes that are opened through one client, while it is there.

Nobody has to do anything when its process is killed: it is not renewed any more, and what belongs
to its scopes ends (`asyncq.language.scopes`, `asyncq.worker.scopes`).
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress

import anyio
import msgspec

from asyncq.errors import BackendError, BackendUnavailable, ConfigurationError
from asyncq.language.message import new_id
from asyncq.language.scopes import (
    IT_IS_OVER,
    KEEP_SCOPE,
    KIND,
    LOOKS,
    STANDS,
    name_of,
    why_over,
)
from asyncq.outages import Outage
from asyncq.seams.registry import Registry

KEPT = 4  # looks for which an owner that says nothing stands; the others are for who misses it
CLOSE_TIMEOUT = 1.0  # seconds
MOST_TRIES = 5  # of a change that others make at the same moment
MOST_NAMES = 500  # that are looked up at a time
NO_REGISTRY = (
    "what belongs to a scope is kept in the backend, and this app's backend keeps nothing of the "
    "kind: give the app one that does, as in backend='redis://localhost', or send this outside of "
    "it, with options(scope=None)"
)

Cancel = Callable[[str, str, Sequence[str]], Awaitable[None]]


class _Ending(msgspec.Struct, eq=False):
    """A scope that is being cancelled."""

    name: str
    reason: str
    ids: list[str]
    """What it is known to have begun."""
    done: asyncio.Event
    is_begun: bool = False


class _Opened(msgspec.Struct, eq=False):
    """A scope that is open."""

    told: Callable[[str], None]
    """Say why it is over, if others have ended it."""
    said_at: float
    """When it was said last that it is open: loop time."""


class Owner:
    """That of one client."""

    def __init__(self, registry: Registry | None, lease: float) -> None:
        self._registry = registry
        self._id = new_id()
        self._look = lease / LOOKS
        self._numbers = 0
        self._opened: dict[str, _Opened] = {}  # by their names
        self._version = 0  # of our entry
        self._said_at = float("-inf")  # that we are there: loop time
        self._saying = anyio.Lock()
        self._endings: list[_Ending] = []
        self._is_over = False
        self._news = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._outage = Outage("scopes cannot be renewed", "scopes are renewed again")

    async def open(self, task_id: str | None, told: Callable[[str], None]) -> str:
        """Open a scope, in the task of a message or in none; returns its name. ``told`` is called
        if others have ended it, within a sixth of the lease, with the reason.

        Raises:
            ConfigurationError: the backend keeps no scopes.
            BackendUnavailable, BackendError: it was not opened.
        """
        registry = self._registry
        if registry is None:
            raise ConfigurationError(NO_REGISTRY)
        self._numbers += 1
        name = name_of(task_id, self._id, self._numbers)
        await self._say_that_we_are_there(registry)
        await registry.put(KIND, name, STANDS, version=0, keep=KEEP_SCOPE)
        self._opened[name] = _Opened(told, self._loop.time())
        return name

    async def close(self, name: str) -> None:
        """All that belongs to it has ended."""
        self._opened.pop(name, None)
        if self._registry is not None:
            with suppress(BackendError):  # it ends by itself
                await self._registry.remove(KIND, name, version=None)

    async def end(self, name: str, reason: str, ids: Sequence[str]) -> None:
        """Cancel what belongs to it; returns once that is written. Who is cancelled meanwhile may
        leave: it is done all the same."""
        await self.end_soon(name, reason, ids).wait()

    def end_soon(self, name: str, reason: str, ids: Sequence[str]) -> asyncio.Event:
        """As `end`; what is returned is set once it is written."""
        for ending in self._endings:
            if ending.name == name and not ending.is_begun:
                ending.ids += ids
                return ending.done
        done = asyncio.Event()
        if self._is_over:  # and with us all that we have opened
            done.set()
        else:
            self._endings.append(_Ending(name, reason, [*ids], done))
            self._news.set()
        return done

    def hear(self, name: str, reason: str) -> None:
        """It is over, as somebody has said through this client; it may be one of ours."""
        if (opened := self._opened.pop(name, None)) is not None:
            opened.told(reason or IT_IS_OVER)

    async def run(self, cancel: Cancel) -> None:
        """Renew what is open and end what is to be ended, by ``cancel``, until cancelled. That is
        given a scope's name, the reason, and ids that it has."""
        if self._registry is None:
            return
        try:
            async with anyio.create_task_group() as group:
                group.start_soon(self._renew, self._registry)
                while True:
                    await self._news.wait()
                    self._news.clear()
                    under_way = {ending.name for ending in self._endings if ending.is_begun}
                    for ending in self._endings:
                        if not ending.is_begun and ending.name not in under_way:
                            ending.is_begun = True
                            group.start_soon(self._end, ending, cancel)
        finally:
            self._is_over = True
            for ending in self._endings:
                ending.done.set()
            if self._version:
                with anyio.move_on_after(CLOSE_TIMEOUT, shield=True), suppress(BackendError):
                    await self._registry.remove(KIND, self._id, version=None)

    async def _end(self, ending: _Ending, cancel: Cancel) -> None:
        outage = Outage("a scope cannot be cancelled", "a scope is cancelled after all")
        while True:
            try:
                await cancel(ending.name, ending.reason, ending.ids)
            # A component that must survive, whatever a driver raises here.
            except Exception as error:  # noqa: BLE001
                await anyio.sleep(outage.fail(error))
                continue
            if outage.error is not None:
                outage.end()
            self._opened.pop(ending.name, None)
            self._endings.remove(ending)
            ending.done.set()
            self._news.set()  # what was added to it meanwhile may be next
            return

    async def _renew(self, registry: Registry) -> None:
        while True:
            await anyio.sleep(self._look)
            if not self._opened:
                continue
            try:
                await self._say_that_we_are_there(registry)
                await self._look_after(registry)
            # As above.
            except Exception as error:  # noqa: BLE001
                await anyio.sleep(min(self._outage.fail(error), self._look))
            else:
                if self._outage.error is not None:
                    self._outage.end()

    async def _say_that_we_are_there(self, registry: Registry) -> None:
        async with self._saying:
            begun = self._loop.time()
            if begun - self._said_at < self._look / 2:
                return
            for _ in range(MOST_TRIES):
                entry = await registry.put(
                    KIND, self._id, STANDS, version=self._version, keep=KEPT * self._look
                )
                if entry is not None:
                    self._version, self._said_at = entry.version, begun
                    return
                # It had ended, or an answer was lost.
                [stands] = await registry.get(KIND, [self._id])
                self._version = 0 if stands is None else stands.version
            raise BackendUnavailable("whether scopes are renewed cannot be known")

    async def _look_after(self, registry: Registry) -> None:
        """Others may have ended what is open; and if it is open for long it would end by itself."""
        names, before = list(self._opened), self._loop.time() - KEEP_SCOPE / 4
        for start in range(0, len(names), MOST_NAMES):
            some = names[start : start + MOST_NAMES]
            for name, entry in zip(some, await registry.get(KIND, some), strict=True):
                opened = self._opened.get(name)
                if opened is None:
                    continue  # it was closed meanwhile
                why = IT_IS_OVER if entry is None else why_over(entry.data)
                if why is not None:
                    self.hear(name, why)
                elif entry is not None and opened.said_at < before:
                    await registry.put(KIND, name, STANDS, version=entry.version, keep=KEEP_SCOPE)
                    opened.said_at = self._loop.time()
