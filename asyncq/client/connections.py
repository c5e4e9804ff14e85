"""An app's clients: one for each event loop of this process in which the app is connected.

A future belongs to its loop, a socket to its process: nobody ever waits, here, on what another loop
or the parent of a fork has opened. Who asks where the app is not connected is told so at once.
"""

import asyncio
import os
from collections.abc import Callable
from types import TracebackType
from typing import Any, Protocol
from weakref import WeakSet

from asyncq.client.client import Client
from asyncq.errors import ConfigurationError

Here = Callable[[], Client]
"""The client of the loop that asks."""


class Connections:
    """The clients of one app, by their loops.

    There is no lock: a loop's entry is written by that loop alone, those of closed loops are taken
    out by whoever comes, and each of these is one step of a dictionary. So a fork finds none held.
    """

    def __init__(self, make: Callable[[Here], Client]) -> None:
        self._make = make
        self._connected: dict[asyncio.AbstractEventLoop, Client] = {}
        self._was_connected = False
        self._loop_was_closed = False  # and the app not left before
        self._was_forked = False  # and this is a child of the process that was connected
        forked.add(self)

    @property
    def client(self) -> Client:
        """The client of this loop.

        Raises:
            ConfigurationError: it has none; says where there is one, and what to write.
        """
        try:
            return self._connected[asyncio.get_running_loop()]
        except (KeyError, RuntimeError):
            raise ConfigurationError(self._complaint()) from None

    def here(self) -> Client:
        """As `client`, to be handed on."""
        return self.client

    async def enter(self) -> None:
        """Connect in this loop, or join who has."""
        loop = asyncio.get_running_loop()
        self._drop_closed()
        client = self._connected.get(loop)
        if client is None:
            client = self._connected[loop] = self._make(self.here)
        try:
            await client.__aenter__()
        except BaseException:
            if client.entered == 0 and self._connected.get(loop) is client:
                del self._connected[loop]
            raise
        self._was_connected = True
        self._loop_was_closed = self._was_forked = False

    async def leave(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Leave in this loop; who leaves last closes its connections.

        Raises:
            ConfigurationError: it was not entered in this loop.
        """
        loop = _running_loop()
        client = None if loop is None else self._connected.get(loop)
        if loop is None or client is None:
            if self._was_forked:
                return  # a block that the parent has entered: its connections are not ours
            raise ConfigurationError(self._complaint())
        if client.entered == 1:
            del self._connected[loop]  # whoever enters from now on begins anew
        await client.__aexit__(kind, error, trace)

    def _drop_closed(self) -> None:
        """Forget the loops that ended without leaving; pytest and a second Ctrl-C do that."""
        for loop in list(self._connected):
            if loop.is_closed() and self._connected.pop(loop, None) is not None:
                self._loop_was_closed = True

    def forget_parent(self) -> None:
        """In a forked child: the parent's clients are neither used nor closed."""
        if self._connected:
            left_by_parent.append(self._connected)
            self._connected = {}
            self._was_forked = True

    def _complaint(self) -> str:
        """What is wrong where there is no client, and what to write."""
        self._drop_closed()
        if self._was_forked:
            why = "but in the parent of this forked process, which cannot use its connections"
        elif self._connected:
            why = "but in another event loop, and each has connections of its own"
        elif self._loop_was_closed:
            why = "but was in another event loop, which has been closed"
        else:
            where = "is not connected any more" if self._was_connected else "is not connected"
            return f"the app {where}: {_REMEDY}"
        where = "here, without an event loop" if _running_loop() is None else "in this event loop"
        return f"the app is not connected {where}, {why}: {_REMEDY}"


_REMEDY = (
    "write 'async with app:' around what uses it here, or 'with app.sync() as client:' where there "
    "is no event loop"
)


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


class Forked(Protocol):
    """What has something open that a child of this process must not use."""

    def forget_parent(self) -> None: ...


forked: WeakSet[Forked] = WeakSet()
left_by_parent: list[Any] = []
"""Kept for as long as the child lives: to collect a transport would close its socket, and may take
it out of the poll set that the child shares with its parent."""


def _forget_parent() -> None:
    for each in list(forked):
        each.forget_parent()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_parent)
