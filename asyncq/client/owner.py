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
from asyncq.language.scopes import KEEP_SCOPE, KIND, LOOKS, STANDS, name_of, why_over
from asyncq.outages import Outage
from asyncq.seams.registry import Registry

KEPT = 4  # looks for which an owner that says nothing stands; the others are for who misses it
CLOSE_TIMEOUT = 1.0  # seconds
MOST_TRIES = 5  # of a change that others make at the same moment
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
    ids: Sequence[str]
    """What it is known to have begun."""
    done: asyncio.Event
    is_begun: bool = False


class Owner:
    """That of one client. ``cancel`` is given a scope's name, the reason, and ids that it has."""

    def __init__(self, registry: Registry | None, cancel: Cancel, lease: float) -> None:
        self._registry = registry
        self._cancel = cancel
        self._id = new_id()
        self._look = lease / LOOKS
        self._numbers = 0
        self._opened: dict[str, float] = {}  # names, and when that was said last: loop time
        self._version = 0  # of our entry
        self._said_at = float("-inf")  # that we are there: loop time
        self._saying = anyio.Lock()
        self._endings: list[_Ending] = []
        self._is_over = False
        self._news = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._outage = Outage("scopes cannot be renewed", "scopes are renewed again")

    async def open(self, task_id: str | None) -> str:
        """Open a scope, in the task of a message or in none; returns its name.

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
        self._opened[name] = self._loop.time()
        self._news.set()
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
        if self._is_over:
            return  # and with us all that we have opened
        ending = _Ending(name, reason, ids, asyncio.Event())
        self._endings.append(ending)
        self._news.set()
        await ending.done.wait()

    async def run(self) -> None:
        """Renew what is open and end what is to be ended, until cancelled."""
        if self._registry is None:
            return
        try:
            async with anyio.create_task_group() as group:
                group.start_soon(self._renew, self._registry)
                while True:
                    await self._news.wait()
                    self._news.clear()
                    for ending in self._endings:
                        if not ending.is_begun:
                            ending.is_begun = True
                            group.start_soon(self._end, ending)
        finally:
            self._is_over = True
            for ending in self._endings:
                ending.done.set()
            if self._version:
                with anyio.move_on_after(CLOSE_TIMEOUT, shield=True), suppress(BackendError):
                    await self._registry.remove(KIND, self._id, version=None)

    async def _end(self, ending: _Ending) -> None:
        outage = Outage("a scope cannot be cancelled", "a scope is cancelled after all")
        while True:
            try:
                await self._cancel(ending.name, ending.reason, ending.ids)
            # A component that must survive, whatever a driver raises here.
            except Exception as error:  # noqa: BLE001
                await anyio.sleep(outage.fail(error))
                continue
            if outage.error is not None:
                outage.end()
            self._opened.pop(ending.name, None)
            self._endings.remove(ending)
            ending.done.set()
            return

    async def _renew(self, registry: Registry) -> None:
        while True:
            await anyio.sleep(self._look)
            if not self._opened:
                continue
            try:
                await self._say_that_we_are_there(registry)
                await self._keep_open(registry)
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

    async def _keep_open(self, registry: Registry) -> None:
        """A scope that is open for long would end by itself."""
        before = self._loop.time() - KEEP_SCOPE / 4
        for name in [name for name, at in self._opened.items() if at < before]:
            [entry] = await registry.get(KIND, [name])
            if entry is not None and why_over(entry.data) is None:
                await registry.put(KIND, name, STANDS, version=entry.version, keep=KEEP_SCOPE)
            self._opened[name] = self._loop.time()
