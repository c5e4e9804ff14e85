"""The context: what a running task can know of its message and its worker."""

from asyncio import CancelledError
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from functools import partial
from typing import Any, Protocol

from asyncq.language.effects import MOST_EFFECT_BYTES, MOST_EFFECTS, Effect, Send
from asyncq.language.message import Message, Progress, derived_id
from asyncq.language.quantities import number
from asyncq.language.signature import Signature
from asyncq.seams.topics import Place


class Services(Protocol):
    """What a worker does for the tasks that it runs."""

    async def report(self, id: str, place: Place, progress: Progress, /) -> None:
        """Have this known of the message's progress."""
        ...

    def follow_up(self, signature: Signature[Any], id: str, /) -> Sequence[Send]:
        """What is to be sent for this call once the task has ended."""
        ...

    def why_cancelled(self, id: str, /) -> str | None:
        """Why this message was asked to end, perhaps for no reason (""); None if it was not."""
        ...


class Context:
    """The run of one message. Ask for it by annotation, or with `current_context`."""

    __slots__ = (
        "_reason", "_said", "_services", "_started",
        "begun", "effects", "message", "scopes", "state",
    )  # fmt: skip

    def __init__(
        self, message: Message, state: dict[str, Any], services: Services, started: float
    ) -> None:
        self.message = message
        self.state = state
        """What the worker's start-up hooks made: one dictionary for all its tasks."""
        self._services = services
        self._started = started  # Unix seconds
        self._said = 0  # how many times
        self._reason: str | None = None  # for which it was cancelled
        self.effects: Sequence[Effect] | None = ()
        """What follows if this run's outcome stands; None once it has ended."""
        self.begun: Sequence[str] = ()
        """The ids of what it has sent within the scopes that its message belongs to."""
        self.scopes: tuple[str, ...] = ()
        """Their names."""

    @property
    def id(self) -> str:
        return self.message.header.id

    @property
    def task(self) -> str:
        return self.message.task

    @property
    def attempt(self) -> int:
        """Counted from 1."""
        return self.message.attempt

    @property
    def queue(self) -> str:
        return self.message.header.queue

    @property
    def eta(self) -> float | None:
        """Unix seconds."""
        return self.message.header.eta

    @property
    def enqueued_at(self) -> float:
        """Unix seconds."""
        return self.message.header.sent_at

    @property
    def root_id(self) -> str:
        """The message that began all this; this one, if nothing did."""
        return self.message.root or self.message.header.id

    @property
    def parent_id(self) -> str | None:
        """The message whose task sent this one."""
        return self.message.parent

    @property
    def headers(self) -> dict[str, Any]:
        return self.message.header.headers

    @property
    def cancelled(self) -> bool:
        """Whether somebody has cancelled the task. A coroutine hears of it by itself; a function in
        a thread looks here now and then, or calls `checkpoint`."""
        return self._why_cancelled() is not None

    def checkpoint(self) -> None:
        """End here if the task was cancelled: for functions that run in a thread.

        Raises:
            asyncio.CancelledError: it was; says why. Let it pass.
        """
        reason = self._why_cancelled()
        if reason is not None:
            raise CancelledError(reason)

    def _why_cancelled(self) -> str | None:
        """Once told it stays so, also for a thread that is left behind."""
        if self._reason is None:
            self._reason = self._services.why_cancelled(self.message.header.id)
        return self._reason

    async def progress(self, value: float, total: float | None = None) -> None:
        """Say how far the task is; `Result.progress` and `Result.progress_changes` read it.

        The last 100 are kept, for as long as a result would be. What is said while the backend is
        away is left out: no task fails for it, and the log tells of it.

        Raises:
            InvalidValue: not a finite number, ``total`` aside, which may be None.
        """
        done = number("progress", value, at_least=None)
        whole = None if total is None else number("the progress's total", total, at_least=None)
        # A run that has begun later says more of the task than any before it, zombies among them.
        place = Place(int(self._started * 1000), self._said)
        self._said += 1
        await self._services.report(self.message.header.id, place, Progress(done, whole))

    async def enqueue_after(self, signature: Signature[Any]) -> str:
        """Send this call exactly if the task succeeds: its result and these calls, or none of it.

        It is kept with the outcome, in one write, and sent when that stands: whatever dies in
        between, it is sent, and what a run that failed, was retried or lost its lease wanted to
        send is not. Returns the id that it will have, which depends on this task's id and on how
        many came before: a run that is repeated sends the same.

        ``delay`` and ``expires`` count from this call. The task's outcome is kept for an hour at
        least, whatever its ``keep_result``.

        Raises:
            TypeError, ConfigurationError, MessageTooLarge, Refused: as `Task.enqueue`.
            ConfigurationError: the app's backend keeps no outcomes.
            ValueError: these are more than 500 of one task, or more than 8 MiB in all; or the id
                is that of the task, or of another of these.
            RuntimeError: the task has ended.
        """
        effects = self.effects
        if effects is None:
            raise RuntimeError(
                f"task {self.task} has ended: what follows from it was sent when it did; "
                "use enqueue() here"
            )
        header = self.message.header
        # An id may be used again, for another message.
        id = derived_id(header.id, f"{header.sent_at!r} after {len(effects)}")
        sends = self._services.follow_up(signature, id)
        sent = sends[0].envelope
        size, taken = len(sent.body), sent.id == header.id
        if effects or len(sends) > 1:
            before = [each.envelope for each in effects if isinstance(each, Send)]
            taken = taken or any(each.id == sent.id for each in before)
            size = sum(len(each.body) for each in before)
            size += sum(len(each.envelope.body) for each in sends)
        if taken:
            raise ValueError(
                f"id {sent.id!r} is this task's own, or that of another call which "
                "it sends at its end: give each one of its own, or none"
            )
        effects = [*effects, *sends]
        if len(effects) > MOST_EFFECTS or size > MOST_EFFECT_BYTES:
            raise ValueError(
                f"a task sends at most {MOST_EFFECTS} calls at its end, of 8 MiB in all: have it "
                "send one of a task that sends the others with enqueue_many()"
            )
        self.effects = effects
        return sent.id


_current: ContextVar[Context] = ContextVar("asyncq_context")

# Each delivery runs in a context of its own: what is set here ends with it.
set_context = _current.set


def current_context() -> Context:
    """The context of the task that runs here.

    Raises:
        LookupError: this is not a task.
    """
    try:
        return _current.get()
    except LookupError:
        raise LookupError("there is no context: this code does not run in a task") from None


find_context: Callable[[], Context | None] = partial(_current.get, None)
"""The context of the task that runs here, if one does."""


class Lender(Protocol):
    """What knows which attempts of a worker wait for others, in any thread."""

    def begin(self, context: Context, awaited: str) -> None: ...

    def end(self, context: Context) -> None: ...


_lender: ContextVar[Lender | None] = ContextVar("asyncq_lender", default=None)

# A worker sets it once, and what it runs inherits it: nothing is done for each delivery.
set_lender = _lender.set


class waiting_for:  # noqa: N801 - read as what it does
    """While the block waits for a task's outcome, the task that runs here lends its slot."""

    __slots__ = ("_awaited", "_context", "_lender")

    def __init__(self, awaited: str) -> None:
        self._awaited = awaited
        self._lender = _lender.get()
        self._context = None if self._lender is None else _current.get(None)

    def __enter__(self) -> None:
        if self._lender is not None and self._context is not None:
            self._lender.begin(self._context, self._awaited)

    def __exit__(self, *_: object) -> None:
        if self._lender is not None and self._context is not None:
            self._lender.end(self._context)
