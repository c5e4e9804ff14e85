"""Members: what was begun in the block of a scope, and how it ends."""

import asyncio
from collections.abc import Hashable, Sequence
from typing import Any

import anyio

from asyncq.client.context import Context
from asyncq.client.gathering import End, Ends
from asyncq.client.places import Opener, Place
from asyncq.client.result import Result
from asyncq.errors import ConfigurationError, TaskCancelled, TaskError, TaskIgnored
from asyncq.language.message import Succeeded
from asyncq.language.record import Record

MANY = 1000  # results that are looked over at a time, so that what has ended is forgotten


class Members:
    """Those of one scope, which was begun in this loop, ``outer`` place and task."""

    def __init__(self, outer: Place | None, context: Context | None, *, collect: bool) -> None:
        self.depth = 1 if outer is None else outer.depth + 1
        self.count = 0
        """How many there were, children of children included."""
        self.failures: dict[str, TaskError] = {}
        """By their ids."""
        self.own: dict[str, Any] = {}
        """The values of what the block itself has begun, or errors, if they are collected."""
        self.opened: dict[Hashable, tuple[Opener, str]] = {}
        """What the scope is called, and who has opened it, by the store."""
        self.over = ""
        """Why nothing can be sent any more."""
        self._outer = outer
        self._context = context
        self._collect = collect
        self._loop = asyncio.get_running_loop()
        self._paths: dict[Opener, tuple[str, ...]] = {}
        self._opening = anyio.Lock()
        self._results: list[Result[Any]] = []  # that nobody has looked at yet
        self._ends = Ends(())
        self._excused: set[str] = set()
        self._begun: set[str] = set()  # ids that records tell of: each is waited for once
        self._is_awaited = False

    async def names(self, client: Opener) -> tuple[str, ...]:
        self._refuse()
        path = self._paths.get(client)
        if path is None:
            outer = () if self._outer is None else await self._outer.names(client)
            path = self._paths[client] = (*outer, await self._name_for(client))
        return path

    def _refuse(self) -> None:
        if self.over:
            raise RuntimeError(
                f"the scope in which this is sent was {self.over}: what is to go on without it is "
                "sent with options(scope=None)"
            )

    async def _name_for(self, client: Opener) -> str:
        async with self._opening:
            if (opened := self.opened.get(client.store)) is not None:
                return opened[1]
            if client.loop is not self._loop:
                raise ConfigurationError(
                    "a scope is kept up by the event loop that it was begun in, and this is sent "
                    "from another one: send something in that loop first, or send this with "
                    "options(scope=None)"
                )
            name = await client.open_scope(None if self._context is None else self._context.id)
            self.opened[client.store] = client, name
        if self.over:  # meanwhile
            await client.end_scope(name, f"its scope was {self.over}", ())
            self._refuse()
        return name

    def add(self, client: Opener, results: Sequence[Result[Any]]) -> None:
        if client.loop is self._loop:
            self._add(results)
        else:
            here, _ = self.opened[client.store]
            others = [Result[Any](result.id, here) for result in results]
            self._loop.call_soon_threadsafe(self._add, others)

    def _add(self, results: Sequence[Result[Any]]) -> None:
        self.count += len(results)
        if self._collect:
            self.own.update((result.id, None) for result in results)
        self._results += results
        if self._is_awaited or len(self._results) >= MANY:
            self._look_over()

    def excuse(self, ids: Sequence[str]) -> None:
        self._excused.update(ids)
        if self._outer is not None:
            self._outer.excuse(ids)

    def unended(self) -> list[str]:
        """What the block has begun and has not ended, as far as that is known."""
        expected = [one.id for one in self._ends.expected]
        return expected + [each.id for each in self._results if each.at_hand() is None]

    async def all_ended(self) -> None:
        """Wait until all have, and what they begin meanwhile."""
        self._is_awaited = True
        self._look_over()
        while await self._ends.more(None):
            self._look_over()

    def close(self, over: str) -> None:
        """Wait for none any more, and take no others."""
        self.over = over
        self._ends.close()

    def _look_over(self) -> None:
        """Expect what was begun, and forget what has succeeded."""
        ends = self._ends
        results, self._results = self._results, []
        for result in results:
            ends.expect(result)
        while ends.ended:
            self._take(*ends.ended.popleft())

    def _take(self, result: Result[Any], end: End) -> None:
        """This is how one has ended."""
        if isinstance(end, Record):
            new = [id for id in end.begun if id not in self._begun]
            self._begun.update(new)
            self.count += len(new)
            for id in new:
                self._ends.expect(result.beside(id))
            is_own = result.id in self.own
            if is_own or not isinstance(end.outcome, Succeeded):
                self._note(result, end, is_own=is_own)
        elif isinstance(end, TaskError):
            self.failures[result.id] = end
            if result.id in self.own:
                self.own[result.id] = end
        else:
            raise end

    def _note(self, result: Result[Any], record: Record, *, is_own: bool) -> None:
        try:
            value = result.value_of(record)
        except TaskError as error:
            value = error
            if not self._is_excused(error):
                self.failures[result.id] = error
        if is_own:
            self.own[result.id] = value

    def _is_excused(self, error: TaskError) -> bool:
        """Whether nobody needs to know, or the block has asked for it."""
        if isinstance(error, TaskCancelled):
            return bool(self.over) or error.task_id in self._excused
        return isinstance(error, TaskIgnored)
