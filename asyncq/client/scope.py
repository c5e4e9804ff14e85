"""Scopes: a task group whose children run anywhere."""

import asyncio
from collections.abc import Hashable, Sequence
from contextvars import Token
from types import TracebackType
from typing import Any, Self

import anyio

from asyncq.client.context import find_context
from asyncq.client.members import CANCELLED, LEFT, Members
from asyncq.client.places import Place, find_place, set_place
from asyncq.errors import ConfigurationError
from asyncq.language.marks import check_reason
from asyncq.language.quantities import Duration, flag, wait
from asyncq.language.scopes import MOST_NESTED
from asyncq.texts import counted

END_TIMEOUT = 5.0  # seconds that leaving takes at most until all is told to end


class Scope:
    """What is begun within ends within: made by `scope`, which says how, and entered once."""

    def __init__(self, timeout: float | None, *, collect: bool) -> None:
        self._timeout = timeout
        self._collect = collect
        self._members: Members | None = None  # once entered
        self._deadline: asyncio.Timeout | None = None
        self._token: Token[Place | None] | None = None

    def __repr__(self) -> str:
        members = self._members
        if members is None:
            return "<scope, not entered>"
        return f"<scope of {counted(members.count, 'task')}, {members.over or 'open'}>"

    @property
    def name(self) -> str | None:
        """What it is called by ``app.cancel(scope=...)`` in any process; None before something was
        sent in it."""
        opened = () if self._members is None else self._members.opened.values()
        return next((name for _, name in opened), None)

    def name_in(self, store: Hashable) -> str | None:
        """As `name`, in one of several stores."""
        opened = None if self._members is None else self._members.opened.get(store)
        return None if opened is None else opened[1]

    @property
    def outcomes(self) -> Sequence[Any]:
        """With ``collect=True``, once it is left: what each task returned that was begun in the
        block, in that order, or the `TaskError` that awaiting it raises; and behind these the
        errors of what they have begun themselves. What had not ended when it was left in another
        way has `TaskCancelled` there.

        Raises:
            RuntimeError: it was not left yet, or was not asked to collect.
        """
        members = self._members
        if members is None or members.over != LEFT or not self._collect:
            raise RuntimeError(
                "outcomes are there once the scope is left, and of asyncq.scope(collect=True) alone"
            )
        others = [error for id, error in members.failures.items() if id not in members.own]
        return [*members.own.values(), *others]

    async def cancel(self, reason: str = "") -> None:
        """Cancel all that belongs to it, children of children included; the block goes on.

        What ends by that is no failure of the block's, and nothing can be sent in it any more.
        Returns once it is written; waits while the backend is away.

        Raises:
            RuntimeError: it is not entered, or was left.
            InvalidValue: the reason is no text, or longer than 1,000 characters.
        """
        members = self._members
        if members is None or members.over == LEFT:
            raise RuntimeError(f"this scope {'is not entered' if members is None else 'was left'}")
        check_reason(reason)
        members.cancel(reason)
        await _end(members, reason, members.unended())

    async def __aenter__(self) -> Self:
        if self._members is not None:
            raise RuntimeError("a scope is entered once: make another one with asyncq.scope()")
        members = Members(find_place(), find_context(), collect=self._collect)
        if members.depth > MOST_NESTED:
            raise ConfigurationError(
                f"scopes are nested at most {MOST_NESTED} deep, and those count in which this "
                "task was sent: send it with options(scope=None), or leave one out"
            )
        self._members = members
        self._token = set_place(members)
        if self._timeout is not None:
            self._deadline = asyncio.timeout(self._timeout)
            await self._deadline.__aenter__()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        members, raised = self._members, error
        if members is None:
            return
        if error is None and (self._deadline is None or not self._deadline.expired()):
            try:
                await members.all_ended()
            except BaseException as late:  # noqa: BLE001 - it is raised below
                raised = late
        unended, was_cancelled = members.unended(), members.over == CANCELLED
        members.close()
        if self._token is not None:
            try:
                self._token.var.reset(self._token)
            except ValueError:  # it is left in another context than it was entered in
                members.is_forsaken = True
        is_late = await self._is_late(raised)
        if raised is None and not is_late:
            for opener, name in members.opened.values():
                await opener.close_scope(name)
        else:
            why = _why(raised, is_late=is_late)
            members.give_up((id for _, id in unended), why)
            if not was_cancelled:
                await _end_on_leaving(members, why, unended)
        if is_late:
            raise TimeoutError(
                f"the scope was not left in {self._timeout:g} s: what it had begun is cancelled"
            ) from (None if isinstance(raised, asyncio.CancelledError) else raised)
        if error is None:
            if raised is not None:
                raise raised
            if members.failures and not self._collect:
                failed = f"{len(members.failures)} of {counted(members.count, 'task')}"
                raise ExceptionGroup(f"{failed} of a scope failed", [*members.failures.values()])

    async def _is_late(self, raised: BaseException | None) -> bool:
        if self._deadline is None:
            return False
        if self._deadline.expired() and raised is None:  # the block went on all the same
            raised = asyncio.CancelledError()
        kind = None if raised is None else type(raised)
        try:
            await self._deadline.__aexit__(kind, raised, None)
        except TimeoutError:
            return True
        return False


async def _end_on_leaving(
    members: Members, reason: str, unended: Sequence[tuple[Hashable, str]]
) -> None:
    # Shielded: cancelling these is what the block is left for. Bounded: it is done without us.
    with anyio.move_on_after(END_TIMEOUT, shield=True):
        await _end(members, reason, unended)


async def _end(members: Members, reason: str, unended: Sequence[tuple[Hashable, str]]) -> None:
    for opener, name in members.opened.values():
        ids = [id for store, id in unended if store == opener.store]
        await opener.end_scope(name, reason, ids)


def _why(raised: BaseException | None, *, is_late: bool) -> str:
    if is_late:
        return "the time of its scope was over"
    if isinstance(raised, asyncio.CancelledError):
        return "its scope was cancelled"
    return "its scope was left by an error"


def scope(*, timeout: Duration | None = None, collect: bool = False) -> Scope:
    """A task group whose children run anywhere: ``async with asyncq.scope():``.

    Whatever is sent within belongs to it, and so does what that sends in turn, on whatever worker;
    ``options(scope=None)`` opts out, and what is sent to an exchange does not belong to it: others
    have copies of that. It works in web requests, scripts and tasks alike, and may be nested, eight
    deep at most.

    - Left normally, it waits for all, children of children included. If some did not succeed it
      raises an `ExceptionGroup` of what awaiting them raises (`TaskFailed` and the others); not so
      of what raised `Ignore`, or what the block itself has cancelled. With ``collect`` it raises
      nothing, and `Scope.outcomes` has values and errors.
    - Left by an error, or cancelled, it cancels all of these: what waits never starts, and what
      runs gets its `asyncio.CancelledError` and is not waited for.
    - So it does if it was not left in ``timeout`` seconds, and raises `TimeoutError`.
    - Cancelled by others, by its `Scope.name`, it takes nothing more, waits for what runs to end,
      and raises these `TaskCancelled` as it does failures. The block hears of it within a sixth of
      `Config.lease` (2.5 s), and goes on all the same.
    - If its process dies, or its event loop stands still for two thirds of `Config.lease` (10 s),
      what belongs to it is cancelled by the workers, within that lease. If a task has begun it and
      is run again, as its worker died, what its earlier run began is cancelled first.

    Outcomes of what is sent within are kept for an hour at least; what ended longer ago when the
    task ends that has sent it fails as `UnknownResult`. What a task has sent in a run whose worker
    died is not waited for, since it runs again and sends anew: it ends with the scope. Nor are more
    than the latest 1,000 that a task has sent in attempts which are tried again. What a task sends
    to another store than its own lies in belongs to the scopes that it begins itself, and to no
    other. What waits for a worker that nobody has started is waited for: give a ``timeout``.

    Enter and leave it in one place: a dependency or an async generator that yields within it is
    left when nobody needs the answer any more, or never.

    Raises, as something is sent within:
        ConfigurationError: the app's backend keeps no scopes (`rpc`, ``null://``), or the app is
            connected in another event loop.
        RuntimeError: the scope was left, or cancelled.
    """
    seconds = None if timeout is None else wait("timeout", timeout)
    return Scope(seconds, collect=flag("collect", collect))
