"""Results: the awaitable handles to outcomes."""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Callable, Generator, Hashable, Sequence
from contextlib import contextmanager
from typing import Any, Generic, Protocol, TypeVar, cast

import anyio
import msgspec

from asyncq.client.arrivals import Batch
from asyncq.client.context import waiting_for
from asyncq.client.values.encoding import read_plain
from asyncq.client.values.shapes import describe_refusal
from asyncq.errors import (
    TaskCancelled,
    TaskExpired,
    TaskFailed,
    TaskIgnored,
    UnreadableResult,
)
from asyncq.language.marks import Cancellation
from asyncq.language.message import (
    Cancelled,
    Expired,
    Failed,
    Ignored,
    Outcome,
    Progress,
    Status,
    Succeeded,
    Unreadable,
    status_of,
)
from asyncq.language.quantities import Duration, wait
from asyncq.language.record import Record
from asyncq.reprs import LONGEST, within
from asyncq.texts import plain

R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)  # results of several types go in one list


WHERE = {
    Status.QUEUED: "it waits for a worker",
    Status.SCHEDULED: "it waits until it is due",
    Status.RUNNING: "a worker runs it",
}
"""What is said of a message that has not ended in time."""


class Outcomes(Protocol):
    """Where results ask: the client that made them."""

    forgotten: set[str]
    """Ids whose outcome was removed by this client: a handle asks for these again."""

    @property
    def store(self) -> Hashable:
        """That of its backend."""
        ...

    def expect(self, expectation: "Expectation[Any]") -> None: ...

    def look(self, id: str) -> None: ...

    def place_of(self, id: str) -> Status | None: ...

    def why_late(self) -> str | None: ...

    async def status(self, id: str) -> Status: ...

    async def progress(self, id: str) -> Progress | None: ...

    def progress_changes(self, result: "Result[Any]") -> AsyncGenerator[Progress]: ...

    async def forget(self, ids: Sequence[str]) -> None: ...

    async def cancel(self, ids: Sequence[str], reason: str) -> dict[str, Cancellation]: ...


class Result(Generic[R_co]):
    """The handle to one task's outcome: ``await`` it.

    Awaiting raises `TaskFailed`, `TaskCancelled`, `TaskExpired` or `TaskIgnored` where the task did
    not succeed, and `UnknownResult` where its outcome is not kept (any more). Once it has been
    awaited it keeps what it has seen.
    """

    __slots__ = ("_outcomes", "_read", "_record", "_sent", "id")

    def __init__(
        self,
        id: str,
        outcomes: Outcomes,
        read: Callable[[msgspec.Raw], R_co] | None = None,
        sent: Batch | None = None,
    ) -> None:
        self.id = id
        self._outcomes = outcomes
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
            TaskFailed, TaskCancelled, TaskExpired, TaskIgnored, UnknownResult: as the class says.
        """
        record = self.at_hand()
        patience = None if timeout is None else wait("timeout", timeout)
        return self.value_of(await self._wait(patience) if record is None else record)

    async def _wait(self, timeout: float | None) -> Record:
        future: asyncio.Future[Record] = asyncio.get_running_loop().create_future()
        awaited = _Awaited(self, future)
        self._outcomes.expect(awaited)
        try:
            if timeout is None:
                with waiting_for(self.id):
                    return await future
            with waiting_for(self.id), in_time(timeout, awaited, awaited.late):
                return await future
        finally:
            awaited.leave()

    async def status(self) -> Status:
        """Where the message is now; UNKNOWN if nothing knows its id.

        Raises:
            BackendUnavailable, BrokerUnavailable: they do not answer.
        """
        status = await self._outcomes.status(self.id)
        if status is Status.UNKNOWN and (record := self.at_hand()) is not None:
            return status_of(record.outcome)
        return status

    async def progress(self) -> Progress | None:
        """What the task last said with `Context.progress`. Raises `BackendUnavailable`."""
        return await self._outcomes.progress(self.id)

    def progress_changes(self) -> AsyncGenerator[Progress]:
        """What the task says with `Context.progress`, as it says it: ``async for``.

        Who comes late begins with the earliest that is kept, of the last 100; any number may read
        at once, in any process. When the task runs again it begins anew. It ends when the task
        has, however that was.

        Raises, as it is iterated:
            UnknownResult: nothing is known of such a task.
            BackendUnavailable: iterate anew.
            BackendError: this backend keeps no progress.
        """
        return self._outcomes.progress_changes(self)

    async def cancel(self, reason: str = "") -> Cancellation:
        """Have the task end, and whoever waits for it get `TaskCancelled` with this reason.

        What waits, or is to be tried again later, never runs; in what runs, the coroutine is
        cancelled where it waits, on whatever worker, and may clean up for ``cancel_grace`` seconds.
        A plain function sees `Context.cancelled`. Returns what became of it: who is `ASKED` to end
        may have succeeded by then. RabbitMQ cannot say what runs: a task that has not ended after
        0.3 s is answered for as cancelled there, and is, also if it is still cleaning up. So is an
        id that it never had; while that outcome is kept, whoever awaits what is sent with this id
        later is told so.

        What a latch holds until others have ended is not sent yet: it is `UNKNOWN`.

        What bears the same id and is sent within five seconds from then is cancelled as well: the
        clocks of two machines may differ.

        Raises:
            ConfigurationError: the app's backend keeps no marks (`rpc`, ``null://``).
            BackendUnavailable, BrokerUnavailable: it may be cancelled; to call again is safe.
        """
        return (await self._outcomes.cancel([self.id], reason))[self.id]

    async def forget(self) -> None:
        """Remove the stored outcome before its time. Raises `BackendUnavailable`."""
        await self._outcomes.forget([self.id])
        self._record = None

    def expect(self, expectation: "Expectation[Any]") -> None:
        """Have this told how the task ends, for who waits for many; in the client's event loop."""
        self._outcomes.expect(expectation)

    def beside(self, id: str) -> "Result[Any]":
        """The handle to another outcome that is kept where this one is, whoever sent it."""
        return Result(id, self._outcomes)

    def at_hand(self) -> Record | None:
        """The record, if it has been seen or has come already. May be asked in any thread."""
        record = self._record
        if record is None:
            sent = self._sent
            if sent is None or (record := sent.take(self.id)) is None:
                return None
            self._record = record
        elif self.id in self._outcomes.forgotten:
            self._record = None
            return None
        return record

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
            case Cancelled(reason, error):
                raise TaskCancelled(self.id, reason, error)
            case Expired(error):
                raise TaskExpired(self.id, record.attempt, error)
            case Ignored(reason):
                raise TaskIgnored(self.id, reason)
            case Unreadable(why):
                raise UnreadableResult(self.id, why)


async def record_of(result: Result[Any]) -> Record:
    """How the task ended, whatever that is; raises where that cannot be known any more."""
    record = result.at_hand()
    if record is None:
        record = await result._wait(None)  # noqa: SLF001 # pyright: ignore[reportPrivateUsage]
    return record


def store_of(result: Result[Any]) -> Hashable:
    """Where its outcome is kept."""
    return result._outcomes.store  # noqa: SLF001 # pyright: ignore[reportPrivateUsage]


@contextmanager
def in_time(
    timeout: float | None, awaited: "Expectation[Any] | None", late: Callable[[], str]
) -> Generator[None]:
    """Wait within, for no more than ``timeout`` seconds; among others for what is ``awaited``.

    Raises:
        TimeoutError: it took longer; says what is ``late``, and why that is not heard, if known.
    """
    if timeout is None or awaited is None:
        yield
        return
    # Whether the backend answers is to be known by then.
    loop = asyncio.get_running_loop()
    look = loop.call_later(timeout / 2, awaited.look)
    try:
        with anyio.fail_after(timeout):
            yield
    except TimeoutError:
        why = awaited.why_late()
        text = late() if why is None else f"{late()} that is known here"
        text = f"{text} after {timeout:g} s"
        why = why or awaited.where()
        raise TimeoutError(text if why is None else f"{text}: {why}") from None
    finally:
        look.cancel()


class Waited(Protocol):
    """Where an expectation waits."""

    def leave(self, expectation: "Expectation[Any]", /) -> None: ...


class Expectation(ABC, Generic[R_co]):
    """Somebody waits for what this handle stands for; the handle keeps what comes.

    It is told once, at once, and in the client's event loop. Where many are waited for, a future
    for each would cost more than all else that is done for it.
    """

    # A part of `Result`, and so it knows what that keeps to itself.
    __slots__ = ("at", "id", "result", "sent")

    def __init__(self, result: Result[R_co]) -> None:
        self.id = result.id
        self.result = result
        self.sent = result._sent  # noqa: SLF001 # pyright: ignore[reportPrivateUsage]
        """The batch in which this client sent the message; None if it did not."""
        self.at: Waited | None = None
        """Where it waits, as long as it does."""

    def leave(self) -> None:
        """Wait no more."""
        if self.at is not None:
            self.at.leave(self)

    def meet(self, record: Record) -> None:
        """This is how it ended."""
        self.result._record = record  # noqa: SLF001 # pyright: ignore[reportPrivateUsage]
        self.tell(record)

    def look(self) -> None:
        """Read it soon, if it is waited for still."""
        self.result._outcomes.look(self.id)  # noqa: SLF001 # pyright: ignore[reportPrivateUsage]

    def why_late(self) -> str | None:
        """What keeps outcomes from being heard of, if anything does."""
        return self.result._outcomes.why_late()  # noqa: SLF001 # pyright: ignore[reportPrivateUsage]

    def where(self) -> str | None:
        """Where the message is that is late, in words; None where that is not known."""
        return None

    @abstractmethod
    def tell(self, end: Record | BaseException) -> None:
        """This is its end, and the handle knows; or it will not come, and this is why."""


class _Awaited(Expectation[R_co]):
    """Who waits for a single one."""

    __slots__ = ("_future",)

    def __init__(self, result: Result[R_co], future: "asyncio.Future[Record]") -> None:
        super().__init__(result)
        self._future = future

    def late(self) -> str:
        return f"task {self.id} has no outcome"

    def where(self) -> str | None:
        place = self.result._outcomes.place_of(self.id)  # noqa: SLF001 # pyright: ignore[reportPrivateUsage]
        return None if place is None else WHERE.get(place)

    def tell(self, end: Record | BaseException) -> None:
        if self._future.done():
            return
        if isinstance(end, Record):
            self._future.set_result(end)
        else:
            self._future.set_exception(end)


def _how_it_ended(outcome: Outcome) -> str:
    if isinstance(outcome, Failed):
        return f"failed, {outcome.error.type}: {outcome.error.message[:LONGEST]}"
    return "unreadable" if isinstance(outcome, Unreadable) else status_of(outcome).value
