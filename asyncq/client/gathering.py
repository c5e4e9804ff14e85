"""Waiting for many results: as they end, or for all of them."""

import asyncio
import inspect
from collections import deque
from collections.abc import AsyncIterator, Iterable
from contextlib import suppress
from typing import Any, Literal, Self, TypeVar, overload

from asyncq.client.context import waiting_for
from asyncq.client.result import Expectation, Result, in_time
from asyncq.errors import ConfigurationError, TaskError, shown
from asyncq.language.quantities import Duration, wait
from asyncq.language.record import Record
from asyncq.texts import counted

R = TypeVar("R")
A = TypeVar("A")
B = TypeVar("B")
C = TypeVar("C")
D = TypeVar("D")
E = TypeVar("E")
F = TypeVar("F")

End = Record | BaseException
"""How a task ended, or why that is not known."""


class as_completed(AsyncIterator[Result[R]]):  # noqa: N801 - asyncio's own name for it
    """Iterate over results in the order in which they end; awaiting one of them returns at once.

    Raises `TimeoutError` when ``timeout`` seconds pass with nothing ending; ask for the next once
    more to wait on. And `ConfigurationError` where it is iterated in another event loop than it was
    made in.
    """

    def __init__(self, results: Iterable[Result[R]], *, timeout: Duration | None = None) -> None:
        self._timeout = wait("timeout", timeout)
        self._ends = Ends(results)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Result[R]:
        ends = self._ends
        if not ends.ended and not await ends.more(self._timeout):
            raise StopAsyncIteration
        return _Ended(*ends.ended.popleft())

    def close(self) -> None:
        """Wait for none of them any more; for who leaves before the last has ended."""
        self._ends.close()

    def __del__(self) -> None:
        if (ends := getattr(self, "_ends", None)) is not None:  # None if it was not made after all
            ends.abandon()


class Ends:
    """How these results end, in the order in which they do."""

    def __init__(self, results: Iterable[Result[Any]]) -> None:
        self.ended: deque[tuple[Result[Any], End]] = deque()
        """What nobody has looked at yet."""
        self.expected: set[_OneOfMany] = set()
        self._loop: asyncio.AbstractEventLoop | None = None  # that wakes us, if anything has to
        self._news = asyncio.Event()
        if not isinstance(results, Iterable):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError(f"as_completed takes the results in a list, not {shown(results)}")
        try:
            for result in results:
                self.expect(result)
        except BaseException:
            self.close()
            raise

    def expect(self, result: Result[Any]) -> None:
        """Wait for this one as well."""
        try:
            at_hand = result.at_hand
        except AttributeError:
            raise _no_result(result) from None
        record = at_hand()
        if record is not None:
            self.ended.append((result, record))
            return
        if self._loop is None:
            self._loop = asyncio.get_running_loop()
        one = _OneOfMany(result, self)
        self.expected.add(one)
        result.expect(one)

    def tell(self, one: "_OneOfMany", end: End) -> None:
        self.expected.discard(one)
        self.ended.append((one.result, end))
        self._news.set()

    async def more(self, timeout: float | None) -> bool:
        """Wait until something has ended; False if nothing is waited for any more.

        However this is left, all is waited for still: what is asked for next goes on from there.

        Raises:
            TimeoutError: nothing has in ``timeout`` seconds; says how many are waited for, and why
                nothing is heard, if that is known.
            ConfigurationError: another event loop hears of it.
        """
        if self._loop is not None and asyncio.get_running_loop() is not self._loop:
            raise ConfigurationError(
                "as_completed was made in another event loop, and only that one hears of what ends:"
                " call it in the loop that iterates over it"
            )
        while not self.ended:
            if not self.expected:
                return False
            self._news.clear()
            awaited = next(iter(self.expected))
            with waiting_for(awaited.id), in_time(timeout, awaited, self.late):
                await self._news.wait()
        return True

    def late(self) -> str:
        return f"none of {counted(len(self.expected), 'result')} has an outcome"

    def close(self) -> None:
        for one in self.expected:
            one.leave()
        self.expected.clear()

    def abandon(self) -> None:
        """As `close`, from wherever it is collected."""
        loop = self._loop
        if not self.expected or loop is None or loop.is_closed():
            return
        if asyncio._get_running_loop() is loop:  # noqa: SLF001 - as asyncio's own generators do
            self.close()
        else:
            with suppress(RuntimeError):  # it is closed at this moment
                loop.call_soon_threadsafe(self.close)


class _OneOfMany(Expectation[Any]):
    __slots__ = ("_ends",)

    def __init__(self, result: Result[Any], ends: Ends) -> None:
        super().__init__(result)
        self._ends = ends

    def tell(self, end: End) -> None:
        self._ends.tell(self, end)


def _no_result(*given: object) -> TypeError:
    """Something that was given to be waited for is no handle: a coroutine, most likely."""
    found = next(each for each in given if not isinstance(each, Result))
    if inspect.iscoroutine(found):
        return TypeError(
            f"this waits for results, and {shown(found)} has sent nothing yet: write "
            "'await task.enqueue(...)'"
        )
    return TypeError(
        f"this waits for results, as 'await task.enqueue(...)' returns them, not {shown(found)}; "
        "one of app.sync() has a get() of its own"
    )


class _Ended(Result[R]):
    """A result whose record is here, or why there is none."""

    __slots__ = ("_end",)

    def __init__(self, result: Result[R], end: Record | BaseException) -> None:
        super().__init__(result.id, result._outcomes, result._read)  # noqa: SLF001 - its own class
        self._end = end
        if isinstance(end, Record):
            self._record = end

    async def get(self, timeout: Duration | None = None) -> R:
        return _value(self, self._end)


@overload
async def gather(
    r1: Result[A], /, *, return_exceptions: Literal[False] = False, timeout: Duration | None = None
) -> tuple[A]: ...
@overload
async def gather(
    r1: Result[A],
    r2: Result[B],
    /,
    *,
    return_exceptions: Literal[False] = False,
    timeout: Duration | None = None,
) -> tuple[A, B]: ...
@overload
async def gather(
    r1: Result[A],
    r2: Result[B],
    r3: Result[C],
    /,
    *,
    return_exceptions: Literal[False] = False,
    timeout: Duration | None = None,
) -> tuple[A, B, C]: ...
@overload
async def gather(
    r1: Result[A],
    r2: Result[B],
    r3: Result[C],
    r4: Result[D],
    /,
    *,
    return_exceptions: Literal[False] = False,
    timeout: Duration | None = None,
) -> tuple[A, B, C, D]: ...
@overload
async def gather(
    r1: Result[A],
    r2: Result[B],
    r3: Result[C],
    r4: Result[D],
    r5: Result[E],
    /,
    *,
    return_exceptions: Literal[False] = False,
    timeout: Duration | None = None,
) -> tuple[A, B, C, D, E]: ...
@overload
async def gather(
    r1: Result[A],
    r2: Result[B],
    r3: Result[C],
    r4: Result[D],
    r5: Result[E],
    r6: Result[F],
    /,
    *,
    return_exceptions: Literal[False] = False,
    timeout: Duration | None = None,
) -> tuple[A, B, C, D, E, F]: ...
@overload
async def gather(
    *results: Result[R], return_exceptions: Literal[False] = False, timeout: Duration | None = None
) -> list[R]: ...
@overload
async def gather(
    r1: Result[A], /, *, return_exceptions: Literal[True], timeout: Duration | None = None
) -> tuple[A | TaskError]: ...
@overload
async def gather(
    r1: Result[A],
    r2: Result[B],
    /,
    *,
    return_exceptions: Literal[True],
    timeout: Duration | None = None,
) -> tuple[A | TaskError, B | TaskError]: ...
@overload
async def gather(
    r1: Result[A],
    r2: Result[B],
    r3: Result[C],
    /,
    *,
    return_exceptions: Literal[True],
    timeout: Duration | None = None,
) -> tuple[A | TaskError, B | TaskError, C | TaskError]: ...
@overload
async def gather(
    r1: Result[A],
    r2: Result[B],
    r3: Result[C],
    r4: Result[D],
    /,
    *,
    return_exceptions: Literal[True],
    timeout: Duration | None = None,
) -> tuple[A | TaskError, B | TaskError, C | TaskError, D | TaskError]: ...
@overload
async def gather(
    r1: Result[A],
    r2: Result[B],
    r3: Result[C],
    r4: Result[D],
    r5: Result[E],
    /,
    *,
    return_exceptions: Literal[True],
    timeout: Duration | None = None,
) -> tuple[A | TaskError, B | TaskError, C | TaskError, D | TaskError, E | TaskError]: ...
@overload
async def gather(
    r1: Result[A],
    r2: Result[B],
    r3: Result[C],
    r4: Result[D],
    r5: Result[E],
    r6: Result[F],
    /,
    *,
    return_exceptions: Literal[True],
    timeout: Duration | None = None,
) -> tuple[
    A | TaskError, B | TaskError, C | TaskError, D | TaskError, E | TaskError, F | TaskError
]: ...
@overload
async def gather(
    *results: Result[R], return_exceptions: Literal[True], timeout: Duration | None = None
) -> list[R | TaskError]: ...
async def gather(
    *results: Result[R], return_exceptions: bool = False, timeout: Duration | None = None
) -> Any:
    """The values of these results, in their order: a list, typed by its places up to six of them.

    The first failure to come is raised, unless ``return_exceptions`` puts failures in their places.
    The other tasks go on either way. `TimeoutError` if they have not all ended in ``timeout``
    seconds.
    """
    values: dict[str, Any] = {}
    try:
        different = {result.id: result for result in results}.values()
    except AttributeError:
        raise _no_result(*results) from None
    ends = Ends(different)
    first = next(iter(ends.expected), None)

    def late() -> str:
        return f"{len(ends.expected)} of {counted(len(different), 'result')} have no outcome"

    try:
        with in_time(wait("timeout", timeout), first, late):
            while ends.ended or await ends.more(None):
                result, end = ends.ended.popleft()
                try:
                    values[result.id] = _value(result, end)
                except TaskError as error:
                    if not return_exceptions:
                        raise
                    values[result.id] = error
    finally:
        ends.close()
    return [values[result.id] for result in results]


def _value(result: Result[R], end: End) -> R:
    if isinstance(end, BaseException):
        raise end
    return result.value_of(end)
