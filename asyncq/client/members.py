"""Members: what was begun in the block of a scope, and how it ends."""

import asyncio
from collections.abc import Hashable, Iterable, Sequence
from typing import Any

import anyio

from asyncq.client.context import Context
from asyncq.client.gathering import End, Ends
from asyncq.client.places import Opener, Place
from asyncq.client.result import Result, store_of
from asyncq.errors import (
    ConfigurationError,
    TaskCancelled,
    TaskError,
    TaskIgnored,
    UnknownResult,
)
from asyncq.language.message import Succeeded
from asyncq.language.record import Record

LEFT, CANCELLED = "left", "cancelled"
COMING = 60.0  # seconds in which what a task has sent at its end is there, whoever sends it
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
        """Why nothing can be sent any more: `LEFT` or `CANCELLED`."""
        self.outer = outer
        self.is_forsaken = False
        self._context = context
        self._collect = collect
        self._loop = asyncio.get_running_loop()
        self._paths: dict[Opener, tuple[str, ...]] = {}
        self._opening = anyio.Lock()
        self._results: list[Result[Any]] = []  # that nobody has looked at yet
        self._ends = Ends(())
        self._excused: set[str] = set()
        self._begun: dict[str, float] = {}  # ids that records tell of, and since when: loop time
        self._is_awaited = False
        self._reason = ""  # for which it was cancelled
        self._is_own_doing = False  # that it was

    async def names(self, client: Opener) -> tuple[str, ...]:
        self._refuse()
        path = self._paths.get(client)
        if path is None:
            outer = () if self.outer is None else await self.outer.names(client)
            path = self._paths[client] = (*outer, await self._name_for(client))
        return path

    def _refuse(self) -> None:
        if self.over:
            raise RuntimeError(
                f"the scope in which this is sent was {self.over}: what is to go on without it is "
                "sent with options(scope=None)"
            )

    async def _name_for(self, client: Opener) -> str:
        if (opened := self.opened.get(client.store)) is not None:
            return opened[1]
        if client.loop is not self._loop:
            raise ConfigurationError(
                "a scope is kept up by the event loop that it was begun in, and this is sent from "
                "another one: send something in that loop first, or send this with "
                "options(scope=None)"
            )
        async with self._opening:
            if (opened := self.opened.get(client.store)) is not None:
                return opened[1]
            task_id = None if self._context is None else self._context.id
            name = await client.open_scope(task_id, self._is_told)
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
        if self.over == CANCELLED:  # while these were on their way
            self._end([(store_of(result), result.id) for result in results])
        if self._is_awaited or len(self._results) >= MANY:
            self._look_over()

    def excuse(self, ids: Sequence[str]) -> None:
        self._excused.update(ids)
        if self.outer is not None:
            self.outer.excuse(ids)

    def unended(self) -> list[tuple[Hashable, str]]:
        """What has not ended, as far as that is known: its store and its id."""
        expected = [(store_of(one.result), one.id) for one in self._ends.expected]
        return expected + [
            (store_of(each), each.id) for each in self._results if each.at_hand() is None
        ]

    def cancel(self, reason: str) -> None:
        """The block itself is about to say that it is over."""
        self.over, self._reason, self._is_own_doing = CANCELLED, reason, True

    def _is_told(self, reason: str) -> None:
        """Others have said that it is over."""
        if self.over:
            return
        self.over, self._reason = CANCELLED, reason
        self._end(self.unended())

    def _end(self, members: Sequence[tuple[Hashable, str]]) -> None:
        """It is over, so these are not to wait until a worker comes to them."""
        for opener, name in self.opened.values():
            if ids := [id for store, id in members if store == opener.store]:
                opener.end_scope_soon(name, self._reason, ids)

    async def all_ended(self) -> None:
        """Wait until all have, and what they begin meanwhile."""
        self._is_awaited = True
        self._look_over()
        while await self._ends.more(None):
            self._look_over()

    def close(self) -> None:
        """Wait for none any more, and take no others."""
        self.over = LEFT
        ended = [(each, each.at_hand()) for each in self._results] if self._collect else []
        for result, end in (*ended, *self._ends.ended):
            if isinstance(end, Record):
                self._note(result, end, is_own=result.id in self.own)
        self._ends.close()

    def give_up(self, ids: Iterable[str], reason: str) -> None:
        """These had not ended, and are cancelled."""
        self.own.update((id, TaskCancelled(id, reason)) for id in ids if id in self.own)

    def _look_over(self) -> None:
        """Expect what was begun, and forget what has succeeded."""
        ends, begun = self._ends, list[Result[Any]]()
        results, self._results = self._results, []
        for result in results:
            ends.expect(result)
        while ends.ended:
            begun += self._take(*ends.ended.popleft())
        if begun and self.over == CANCELLED:
            self._end([(store_of(result), result.id) for result in begun])

    def _take(self, result: Result[Any], end: End) -> Sequence[Result[Any]]:
        """This is how one has ended; returns what it is now known to have begun."""
        if isinstance(end, Record):
            now, begun = self._loop.time(), list[Result[Any]]()
            for id in end.begun:
                if id not in self._begun:
                    self._begun[id] = now
                    begun.append(result.beside(id))
            self.count += len(begun)
            for each in begun:
                self._ends.expect(each)
            is_own = result.id in self.own
            if is_own or not isinstance(end.outcome, Succeeded):
                self._note(result, end, is_own=is_own)
            return begun
        if not isinstance(end, TaskError):
            raise end
        told = self._begun.get(result.id)
        if isinstance(end, UnknownResult) and told and self._loop.time() - told < COMING:
            self._ends.expect(result)
        else:
            self._fail(result.id, end)
        return ()

    def _note(self, result: Result[Any], record: Record, *, is_own: bool) -> None:
        try:
            value = result.value_of(record)
        except TaskError as error:
            error.__traceback__ = None  # it was raised elsewhere: that is in its text
            if self._is_excused(error):
                value = error
            else:
                self._fail(result.id, error)
                return
        if is_own:
            self.own[result.id] = value

    def _fail(self, id: str, error: TaskError) -> None:
        self.failures[id] = error
        if id in self.own:
            self.own[id] = error

    def _is_excused(self, error: TaskError) -> bool:
        """Whether nobody needs to know, or the block has asked for it."""
        if isinstance(error, TaskCancelled):
            return self._is_own_doing or error.task_id in self._excused
        return isinstance(error, TaskIgnored)
