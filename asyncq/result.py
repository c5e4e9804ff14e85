"""Results: the awaitable handles to outcomes."""

import asyncio
import inspect
from collections import deque
from collections.abc import AsyncIterator, Callable, Generator, Iterable, Sequence
from typing import Any, Generic, Literal, Protocol, Self, TypeVar, cast, overload

import anyio
import msgspec

from asyncq.arrivals import Batch
from asyncq.context import waiting_for
from asyncq.errors import (
    ConfigurationError,
    TaskCancelled,
    TaskError,
    TaskExpired,
    TaskFailed,
    UnreadableResult,
    shown,
)
from asyncq.message import (
    Cancelled,
    Expired,
    Failed,
    Outcome,
    Progress,
    Record,
    Status,
    Succeeded,
    Unreadable,
    status_of,
)
from asyncq.quantities import Duration, wait
from asyncq.reprs import LONGEST, within
from asyncq.shapes import describe_refusal
from asyncq.texts import plain
from asyncq.values import read_plain

R = TypeVar("R")
A = TypeVar("A")
B = TypeVar("B")
C = TypeVar("C")
D = TypeVar("D")
E = TypeVar("E")
F = TypeVar("F")
R_co = TypeVar("R_co", covariant=True)  # results of several types go in one list


class Desk(Protocol):
    """Where results ask: the client that made them."""

    forgotten: set[str]
    """Ids whose outcome was removed by this client: a handle asks for these again."""

    def expect(self, id: str, sent: Batch | None) -> "asyncio.Future[Record]": ...

    def look(self, id: str) -> None: ...

    def why_late(self) -> str | None: ...

    async def status(self, id: str) -> Status: ...

    async def progress(self, id: str) -> Progress | None: ...

    async def forget(self, ids: Sequence[str]) -> None: ...


class Result(Generic[R_co]):
    """The handle to one task's outcome: ``await`` it.

    Awaiting raises `TaskFailed`, `TaskCancelled` or `TaskExpired` where the task did not succeed,
    and `UnknownResult` where its outcome is not kept (any more). Once it has been awaited it keeps
    what it has seen.
    """

    __slots__ = ("_desk", "_read", "_record", "_sent", "id")

    def __init__(
        self,
        id: str,
        desk: Desk,
        read: Callable[[msgspec.Raw], R_co] | None = None,
        sent: Batch | None = None,
    ) -> None:
        self.id = id
        self._desk = desk
        self._read = read
        self._sent = sent
        self._record: Record | None = None

    def __repr__(self) -> str:
        return self.shown("Result")

    def shown(self, kind: str) -> str:
        """Its repr, as what it is called there; asks nobody."""
        record = self.at_hand()
        # Whose handle it is, its reader knows: a slot for it would cost every enqueue.
        reader = getattr(self._read, "__self__", None)
        task = getattr(reader, "name", "") if record is None else record.task
        told = f"{kind} {self.id} of {task}" if task else f"{kind} {self.id}"
        if record is not None:
            told += f": {_how_it_ended(record.outcome)}"
        return within(plain(told))

    def __await__(self) -> Generator[Any, None, R_co]:
        return self.get().__await__()

    async def get(self, timeout: Duration | None = None) -> R_co:
        """The task's return value, once it has one.

        Raises:
            TimeoutError: no outcome within ``timeout`` seconds. The task goes on; ask again.
            InvalidValue: a ``timeout`` that makes no sense; None is for ever.
            TaskFailed, TaskCancelled, TaskExpired, UnknownResult: as the class says.
        """
        record = self.at_hand()
        patience = wait("timeout", timeout)
        return self.value_of(await self._wait(patience) if record is None else record)

    async def _wait(self, timeout: float | None) -> Record:
        future = self.expect()
        try:
            if timeout is None:
                with waiting_for(self.id):
                    return await future
            # Whether the backend answers is to be known by then.
            look = asyncio.get_running_loop().call_later(timeout / 2, self._desk.look, self.id)
            try:
                with waiting_for(self.id), anyio.fail_after(timeout):
                    return await future
            finally:
                look.cancel()
        except TimeoutError:
            why = self._desk.why_late()
            what = "has no outcome" if why is None else "has no outcome that is known here"
            text = f"task {self.id} {what} after {timeout:g} s"
            raise TimeoutError(text if why is None else f"{text}: {why}") from None
        finally:
            future.cancel()

    async def status(self) -> Status:
        """Where the message is now; UNKNOWN if nothing knows its id.

        Raises:
            BackendUnavailable, BrokerUnavailable: they do not answer.
        """
        status = await self._desk.status(self.id)
        if status is Status.UNKNOWN and (record := self.at_hand()) is not None:
            return status_of(record.outcome)
        return status

    async def progress(self) -> Progress | None:
        """What the task last said with `Context.progress`. Raises `BackendUnavailable`."""
        return await self._desk.progress(self.id)

    async def forget(self) -> None:
        """Remove the stored outcome before its time. Raises `BackendUnavailable`."""
        await self._desk.forget([self.id])
        self._record = None

    def expect(self) -> "asyncio.Future[Record]":
        """The record to come, for those who wait for many."""
        future = self._desk.expect(self.id, self._sent)
        future.add_done_callback(self._hold)
        return future

    def at_hand(self) -> Record | None:
        """The record, if it has been seen or has come already. May be asked in any thread."""
        record = self._record
        if record is None:
            sent = self._sent
            if sent is None or (record := sent.take(self.id)) is None:
                return None
            self._record = record
        elif self.id in self._desk.forgotten:
            self._record = None
            return None
        return record

    def _hold(self, future: "asyncio.Future[Record]") -> None:
        if not future.cancelled() and future.exception() is None:
            self._record = future.result()

    def value_of(self, record: Record) -> R_co:
        """The return value a record holds, or the error it stands for."""
        match record.outcome:
            case Succeeded(value):
                if self._read is None:
                    return cast("R_co", read_plain(value))
                try:
                    return self._read(value)
                # What the user's classes raise as they are made, among others.
                except Exception as error:
                    why = f"it is not as annotated: {describe_refusal(error)}"
                    raise UnreadableResult(self.id, why) from error
            case Failed(error):
                raise TaskFailed(self.id, error.type, error.message, error.traceback)
            case Cancelled():
                raise TaskCancelled(self.id)
            case Expired(error):
                raise TaskExpired(self.id, record.attempt, error)
            case Unreadable(why):
                raise UnreadableResult(self.id, why)


def _how_it_ended(outcome: Outcome) -> str:
    if isinstance(outcome, Failed):
        return f"failed, {outcome.error.type}: {outcome.error.message[:LONGEST]}"
    return "unreadable" if isinstance(outcome, Unreadable) else status_of(outcome).value


class as_completed(AsyncIterator[Result[R]]):  # noqa: N801 - asyncio's own name for it
    """Iterate over results in the order in which they end; awaiting one of them returns at once.

    Raises `TimeoutError` when ``timeout`` seconds pass with nothing ending, and
    `ConfigurationError` where it is iterated in another event loop than it was made in.
    """

    def __init__(self, results: Iterable[Result[R]], *, timeout: Duration | None = None) -> None:
        self._timeout = wait("timeout", timeout)
        self._loop: asyncio.AbstractEventLoop | None = None  # that wakes us, if anything has to
        self._ended: deque[Result[R]] = deque()
        self._news = asyncio.Event()
        self._futures: dict[asyncio.Future[Record], str] = {}  # and their ids
        for result in results:
            try:
                at_hand = result.at_hand
            except AttributeError:
                self.close()
                raise _no_result(result) from None
            record = at_hand()
            if record is not None:
                self._ended.append(_Ended(result, record))
                continue
            future = result.expect()
            self._loop = future.get_loop()
            self._futures[future] = result.id
            future.add_done_callback(lambda done, of=result: self._end(of, done))

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Result[R]:
        if self._loop is not None and asyncio.get_running_loop() is not self._loop:
            raise ConfigurationError(
                "as_completed was made in another event loop, and only that one hears of what ends:"
                " call it in the loop that iterates over it"
            )
        while not self._ended:
            if not self._futures:
                raise StopAsyncIteration
            self._news.clear()
            try:
                awaited = next(iter(self._futures.values()))
                with waiting_for(awaited), anyio.fail_after(self._timeout):
                    await self._news.wait()
            except BaseException:
                self.close()
                raise
        return self._ended.popleft()

    def _end(self, result: Result[R], future: "asyncio.Future[Record]") -> None:
        self._futures.pop(future, None)
        if not future.cancelled():
            self._ended.append(_Ended(result, future.exception() or future.result()))
            self._news.set()

    def close(self) -> None:
        """Wait for none of them any more; for who leaves before the last has ended."""
        for future in list(self._futures):
            future.cancel()


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
        super().__init__(result.id, result._desk, result._read)  # noqa: SLF001 - its own class
        self._end = end
        if isinstance(end, Record):
            self._record = end

    async def get(self, timeout: Duration | None = None) -> R:
        if isinstance(self._end, BaseException):
            raise self._end
        return self.value_of(self._end)


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
    ended = as_completed(different)
    try:
        with anyio.fail_after(wait("timeout", timeout)):
            async for result in ended:
                try:
                    values[result.id] = await result
                except TaskError as error:
                    if not return_exceptions:
                        raise
                    values[result.id] = error
    finally:
        ended.close()
    return [values[result.id] for result in results]
