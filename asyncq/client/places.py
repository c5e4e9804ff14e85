"""Places: where a call is made, and so to which scopes it belongs."""

import asyncio
from collections.abc import Callable, Hashable, Sequence
from contextvars import ContextVar
from typing import Any, Protocol

from asyncq.client.context import Context
from asyncq.client.result import Outcomes, Result


class Opener(Outcomes, Protocol):
    """A client, as scopes know it."""

    @property
    def loop(self) -> asyncio.AbstractEventLoop: ...

    async def open_scope(self, task_id: str | None, told: Callable[[str], None], /) -> str: ...

    async def close_scope(self, name: str, /) -> None: ...

    async def end_scope(self, name: str, reason: str, ids: Sequence[str], /) -> None: ...

    def end_scope_soon(self, name: str, reason: str, ids: Sequence[str], /) -> None: ...


class Place(Protocol):
    """A scope's block, or a task whose message belongs to scopes."""

    @property
    def depth(self) -> int:
        """How many scopes a call made here belongs to."""
        ...

    @property
    def outer(self) -> "Place | None":
        """Where it is itself."""
        ...

    @property
    def is_forsaken(self) -> bool:
        """Whether it was left in another context than it was entered in, where it still is."""
        ...

    async def names(self, client: Opener, /) -> tuple[str, ...]:
        """These scopes, the outermost first, as the client's store knows them.

        Raises:
            RuntimeError: nothing can be sent in them any more.
            ConfigurationError: the client cannot keep them.
            BackendUnavailable, BackendError: they cannot be opened.
        """
        ...

    def add(self, client: Opener, results: Sequence[Result[Any]], /) -> None:
        """These were sent here."""
        ...

    def excuse(self, ids: Sequence[str], /) -> None:
        """These were cancelled on purpose, here."""
        ...


class Inside:
    """A task whose message belongs to scopes: so does what it sends to the same store."""

    outer = None
    is_forsaken = False

    def __init__(self, context: Context, names: tuple[str, ...], store: Hashable) -> None:
        self.depth = len(names)
        self._context = context
        self._names = names
        self._store = store
        self._begun: list[str] = []  # any thread of the task's adds to it

    async def names(self, client: Opener) -> tuple[str, ...]:
        return self._names if client.store == self._store else ()

    def add(self, client: Opener, results: Sequence[Result[Any]]) -> None:
        if client.store == self._store:
            self._begun += [result.id for result in results]
            self._context.begun = self._begun

    def excuse(self, ids: Sequence[str]) -> None:
        pass


_current: ContextVar[Place | None] = ContextVar("asyncq_place", default=None)

set_place = _current.set


def find_place() -> Place | None:
    """Where a call is made that is made now; None where it belongs to no scope."""
    place = _current.get(None)
    while place is not None and place.is_forsaken:
        place = place.outer
    return place
