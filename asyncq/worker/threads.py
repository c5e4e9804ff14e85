"""The threads that plain functions run in. No thread can be cancelled; so it is known which run."""

import asyncio
import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import anyio

from asyncq.worker.failures import is_a


class RaisedInThread(Exception):
    """Carries out of a thread what no coroutine can raise as it is: `StopIteration`."""

    def __init__(self, error: BaseException) -> None:
        super().__init__()
        self.error = error


class Threads:
    """Those of one worker; never more than ``limiter`` has tokens for."""

    def __init__(self, size: int) -> None:
        self.limiter = anyio.CapacityLimiter(size)
        self.alive: set[object] = set()  # written by the threads; one change of a set is atomic
        """What runs at this moment, left behind or not."""
        self._tickets: dict[asyncio.Task[Any] | None, list[None]] = {}
        """Of the attempts that await a thread: who takes the ticket, the thread as it begins or
        the loop as it gives up, decides whether the function is called."""

    async def run(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """Call ``function`` in a thread. Cancelled, that is left behind if it has begun."""
        ticket: list[None] = [None]
        attempt = asyncio.current_task()
        self._tickets[attempt] = ticket
        try:
            value, error = await anyio.to_thread.run_sync(
                partial(self._call, ticket, function, args, kwargs),
                abandon_on_cancel=True,
                limiter=self.limiter,
            )
        except asyncio.CancelledError:
            ticket.clear()
            raise
        finally:
            del self._tickets[attempt]
        if error is None:
            return await value if inspect.isawaitable(value) else value
        raise RaisedInThread(error) if is_a(error, StopIteration) else error

    def has_begun(self, attempt: "asyncio.Task[Any]") -> bool:
        """Whether this attempt is in a thread that runs. If it is about to be, it never will."""
        ticket = self._tickets.get(attempt)
        return ticket is not None and not _take(ticket)

    def runs(self, attempt: "asyncio.Task[Any]") -> bool:
        """Whether this attempt is in a thread that runs."""
        ticket = self._tickets.get(attempt)
        return ticket is not None and not ticket

    def _call(
        self,
        ticket: list[None],
        function: Callable[..., Any],
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
    ) -> tuple[Any, BaseException | None]:
        """The thread's side. An exception is handed over as a value: no future takes every kind."""
        self.alive.add(key := object())
        try:
            return (function(*args, **kwargs), None) if _take(ticket) else (None, None)
        except BaseException as error:  # noqa: BLE001 - raised again where the task is awaited
            return None, error
        finally:
            self.alive.discard(key)


def _take(ticket: list[None]) -> bool:
    try:
        ticket.pop()
    except IndexError:
        return False
    return True
