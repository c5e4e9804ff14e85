"""Scopes: a task group whose children run anywhere."""

import asyncio
from collections.abc import Hashable, Sequence
from contextlib import suppress
from contextvars import ContextVar, Token
from functools import partial
from types import TracebackType
from typing import Any, Protocol, Self, cast

import anyio

from asyncq.client.context import Context, find_context
from asyncq.client.gathering import End, Ends
from asyncq.client.result import Outcomes, Result
from asyncq.errors import ConfigurationError, TaskCancelled, TaskError, TaskIgnored
from asyncq.language.message import Succeeded
from asyncq.language.quantities import Duration, flag, wait
from asyncq.language.record import Record
from asyncq.language.scopes import MOST_NESTED
from asyncq.texts import counted

END_TIMEOUT = 5.0  # seconds that leaving takes at most until all is told to end
MANY = 1000  # results that are looked over at a time, so that what has ended is forgotten
LEFT_BY_ERROR = "its scope was left by an error"
LEFT_BY_CANCELLATION = "its scope was cancelled"
TOO_LATE = "the time of its scope was over"


class Place(Protocol):
    """Where a call is made: in a scope, or in a task that belongs to some."""

    async def names(self, client: "Opener", /) -> tuple[str, ...]:
        """The scopes that a call made here belongs to, the outermost first."""
        ...

    def add(self, client: "Opener", results: Sequence[Result[Any]], /) -> None:
        """These were sent here."""
        ...

    def excuse(self, ids: Sequence[str], /) -> None:
        """These were cancelled on purpose, here."""
        ...

    @property
    def depth(self) -> int: ...


class Opener(Outcomes, Protocol):
    """A client, as scopes know it."""

    @property
    def store(self) -> Hashable:
        """That of its backend."""
        ...

    @property
    def loop(self) -> asyncio.AbstractEventLoop: ...

    async def open_scope(self, task_id: str | None, /) -> str: ...

    async def close_scope(self, name: str, /) -> None: ...

    async def end_scope(self, name: str, reason: str, ids: Sequence[str], /) -> None: ...


class Inside:
    """In a task whose message belongs to scopes: so does what it sends to the same store."""

    def __init__(self, context: Context, names: tuple[str, ...], store: Hashable) -> None:
        self._context = context
        self._names = names
        self._store = store
        self._begun: list[str] = []
        self.depth = len(names)

    async def names(self, client: Opener) -> tuple[str, ...]:
        return self._names if client.store == self._store else ()

    def add(self, client: Opener, results: Sequence[Result[Any]]) -> None:
        if client.store == self._store:
            self._begun += [result.id for result in results]
            self._context.begun = self._begun

    def excuse(self, ids: Sequence[str]) -> None:
        pass


_current: ContextVar[Place | None] = ContextVar("asyncq_scope", default=None)

find_place = partial(_current.get, None)
"""Where a call belongs that is made here, if it belongs to scopes."""
set_place = _current.set


class Scope:
    """What is begun within ends within: made and entered by `scope`."""

    def __init__(self, timeout: float | None, *, collect: bool) -> None:
        self._seconds = timeout
        self._collect = collect
        self._names: dict[Hashable, str] = {}  # by the store
        self._paths: dict[Opener, tuple[str, ...]] = {}
        self._openers: dict[Hashable, Opener] = {}  # by the store: who opened it there
        self._opening = anyio.Lock()
        self._outer: Place | None = None
        self._context: Context | None = None
        self._loop: asyncio.AbstractEventLoop | None = None  # once entered
        self._is_left = False
        self._is_waiting = False  # for all to end
        self._results: list[Result[Any]] = []  # that nobody has looked at yet
        self._count = 0
        self._ends = Ends(())
        self._own: dict[str, Any] = {}  # by their ids, if all outcomes are told at the end
        self._failures: dict[str, TaskError] = {}
        self._excused: set[str] = set()
        self._is_cancelled = False
        self._deadline: asyncio.Timeout | None = None
        self._token: Token[Place | None] | None = None
        self.depth = 1

    def __repr__(self) -> str:
        state = "left" if self._is_left else "new" if self._loop is None else "open"
        return f"<scope, {state}, of {counted(self._count, 'task')}>"

    @property
    def outcomes(self) -> list[Any]:
        """With ``collect=True``, once it is left: the value of each task that was begun in the
        block, in that order, or the `TaskError` that awaiting it would raise; and behind these the
        errors of what they have begun themselves."""
        others = [error for id, error in self._failures.items() if id not in self._own]
        return [*self._own.values(), *others]

    async def cancel(self, reason: str = "") -> None:
        """Cancel all that belongs to it, children of children included; the block goes on.

        What ends by that is no failure of the block's, and nothing can be sent in it any more.
        """
        self._is_cancelled = True
        for store, name in self._names.items():
            opener = self._openers[store]
            await opener.end_scope(name, reason, self._unended())

    async def __aenter__(self) -> Self:
        if self._loop is not None:
            raise RuntimeError("a scope is entered once: make another one with asyncq.scope()")
        self._outer = find_place()
        self._context = find_context()
        if self._outer is not None:
            self.depth = self._outer.depth + 1
        if self.depth > MOST_NESTED:
            raise ConfigurationError(
                f"scopes are nested at most {MOST_NESTED} deep, those of the tasks included that "
                "began this one: begin it with options(scope=None), or leave out a scope"
            )
        self._loop = asyncio.get_running_loop()
        self._token = set_place(self)
        if self._seconds is not None:
            self._deadline = asyncio.timeout(self._seconds)
            await self._deadline.__aenter__()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        raised = error
        if error is None:
            try:
                await self._until_all_have_ended()
            except BaseException as late:  # noqa: BLE001 - it is raised below
                raised = late
        self._is_left = True
        self._let_go()
        is_late = await self._is_late(raised)
        if raised is not None or is_late:
            await self._end(raised, is_late=is_late)
        else:
            for store, name in self._names.items():
                await self._openers[store].close_scope(name)
        if is_late:
            raise TimeoutError(
                f"the scope was not left in {self._seconds:g} s: its tasks are cancelled"
            ) from None
        if error is None:
            if raised is not None:
                raise raised
            self._tell()

    def _let_go(self) -> None:
        self._ends.close()
        if self._token is not None:
            with suppress(ValueError):  # it is left in another context than it was entered in
                _current.reset(self._token)
            self._token = None

    async def _is_late(self, raised: BaseException | None) -> bool:
        if self._deadline is None:
            return False
        try:
            kind = None if raised is None else type(raised)
            trace = None if raised is None else raised.__traceback__
            await self._deadline.__aexit__(kind, raised, trace)
        except TimeoutError:
            return True
        return False

    async def _end(self, raised: BaseException | None, *, is_late: bool) -> None:
        if is_late:
            reason = TOO_LATE
        elif isinstance(raised, asyncio.CancelledError):
            reason = LEFT_BY_CANCELLATION
        else:
            reason = LEFT_BY_ERROR
        # Shielded: it is what cancelling this block is for. Bounded: it goes on without us.
        with anyio.move_on_after(END_TIMEOUT, shield=True):
            ids = self._unended()
            for store, name in self._names.items():
                await self._openers[store].end_scope(name, reason, ids)

    def _unended(self) -> list[str]:
        """What it has begun itself that has not ended, as far as that is known."""
        expected = [one.id for one in self._ends.expected]
        return expected + [each.id for each in self._results if each.at_hand() is None]

    def _tell(self) -> None:
        """
        Raises:
            ExceptionGroup: some have failed.
        """
        if self._failures and not self._collect:
            what = f"{len(self._failures)} of {counted(self._count, 'task')} in a scope failed"
            raise ExceptionGroup(what, list(self._failures.values()))

    async def names(self, client: Opener) -> tuple[str, ...]:
        """
        Raises:
            RuntimeError: it was left, or cancelled.
            ConfigurationError: nothing can belong to it there.
            BackendUnavailable, BackendError: it cannot be opened.
        """
        if self._is_left or self._is_cancelled:
            raise RuntimeError(
                f"the scope in which this is sent was {'left' if self._is_left else 'cancelled'}: "
                "what is to go on after it is sent with options(scope=None)"
            )
        path = self._paths.get(client)
        if path is None:
            outer = () if self._outer is None else await self._outer.names(client)
            path = self._paths[client] = (*outer, await self._opened_at(client))
        return path

    async def _opened_at(self, client: Opener) -> str:
        store = client.store
        async with self._opening:
            name = self._names.get(store)
            if name is not None:
                return name
            if client.loop is not self._loop:
                raise ConfigurationError(
                    "a scope ends in the event loop where it was begun, and this app is connected "
                    "in another one alone: send something in that loop first, or send this with "
                    "options(scope=None)"
                )
            task_id = None if self._context is None else self._context.id
            name = self._names[store] = await client.open_scope(task_id)
            self._openers[store] = client
            return name

    def add(self, client: Opener, results: Sequence[Result[Any]]) -> None:
        if client.loop is not self._loop:
            here = self._openers[client.store]
            others = [Result[Any](result.id, here) for result in results]
            cast("asyncio.AbstractEventLoop", self._loop).call_soon_threadsafe(self._add, others)
        else:
            self._add(results)

    def _add(self, results: Sequence[Result[Any]]) -> None:
        self._count += len(results)
        if self._collect:
            self._own.update((result.id, None) for result in results)
        self._results += results
        if self._is_waiting or len(self._results) >= MANY:
            self._look_over()

    def excuse(self, ids: Sequence[str]) -> None:
        self._excused.update(ids)
        if self._outer is not None:
            self._outer.excuse(ids)

    async def _until_all_have_ended(self) -> None:
        ends = self._ends
        self._is_waiting = True
        self._look_over()
        while await ends.more(None):
            self._look_over()
        self._look_over()

    def _look_over(self) -> None:
        """Expect what was begun, and forget what has ended."""
        ends = self._ends
        results, self._results = self._results, []
        for result in results:
            ends.expect(result)
        while ends.ended:
            self._take(*ends.ended.popleft())

    def _take(self, result: Result[Any], end: End) -> None:
        """This is how one has ended."""
        if not isinstance(end, Record):
            if not isinstance(end, TaskError):
                raise end
            self._failures[result.id] = end
            if result.id in self._own:
                self._own[result.id] = end
            return
        for id in end.begun:
            self._count += 1
            self._ends.expect(result.beside(id))
        is_own = self._collect and result.id in self._own
        if isinstance(end.outcome, Succeeded) and not is_own:
            return
        try:
            value = result.value_of(end)
        except TaskError as error:
            value = error
            if not self._is_excused(error):
                self._failures[error.task_id] = error
        if is_own:
            self._own[result.id] = value

    def _is_excused(self, error: TaskError) -> bool:
        """Whether nobody needs to know, or whoever does it has asked for it himself."""
        if isinstance(error, TaskCancelled):
            return self._is_cancelled or error.task_id in self._excused
        return isinstance(error, TaskIgnored)


def scope(*, timeout: Duration | None = None, collect: bool = False) -> Scope:
    """A task group whose children run anywhere: ``async with asyncq.scope():``.

    Whatever is sent within belongs to it, and so does what that sends in turn, on whatever worker;
    ``options(scope=None)`` opts out. It works in web requests, scripts and tasks alike, and may be
    nested, eight deep at most.

    - Left normally, it waits for all, children of children included. If some did not succeed it
      raises an `ExceptionGroup` of what awaiting them would raise (`TaskFailed` and the others);
      not so of what raised `Ignore`, or was cancelled with `Result.cancel` in the block. With
      ``collect`` it raises nothing, and `Scope.outcomes` has values and errors.
    - Left by an error, or cancelled, it cancels all of these: what waits never starts, and what
      runs gets its `asyncio.CancelledError` and is not waited for.
    - So it does if it was not left in ``timeout`` seconds, and raises `TimeoutError`.
    - If its process dies, or its event loop stands still for ten seconds (two thirds of
      `Config.lease`), what belongs to it is cancelled by the workers, within that lease. If a task
      has opened it that is run again, what its earlier run began is cancelled first.

    Outcomes of what is sent within are kept for an hour at least. What a task has sent in a run
    whose worker died is not waited for: it runs again and sends anew. It ends with the scope.

    Raises, as something is sent within:
        ConfigurationError: the app's backend keeps no scopes (`rpc`, ``null://``), or it is
            connected in another event loop.
        RuntimeError: the scope was left, or cancelled.
    """
    seconds = None if timeout is None else wait("timeout", timeout)
    return Scope(seconds, collect=flag("collect", collect))
