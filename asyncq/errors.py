"""Every exception of asyncq, in one tree.

AsyncqError
├── ConfigurationError          the set-up cannot work; says what to change
│   ├── InvalidValue            a setting's value makes no sense; a ValueError too
│   └── UnknownOption           there is no such setting; a TypeError too
├── BrokerError
│   ├── BrokerUnavailable       try again later; publishing again is safe
│   │   └── QueueUnavailable    ... for this queue; others can be used
│   ├── Refused                 this envelope is not taken
│   │   ├── MessageTooLarge
│   │   ├── Unroutable          no queue is bound where it was sent
│   │   └── QueueFull           its queue has as many as it may have
│   └── LeaseLost               what this worker held belongs to others
├── BackendError
│   └── BackendUnavailable
├── BadArguments                what a message brings does not fit its task; a TypeError too
├── TimeLimitExceeded           an attempt took longer than its time_limit; a TimeoutError too
├── SoftTimeLimitExceeded       ... than its soft_time_limit; raised inside of it, once; a
│                               CancelledError too
├── Undecodable                 bytes that are no message
│   └── NewerVersion            ... that this version can read
└── TaskError                   how a task ended, raised where its result is awaited
    ├── TaskFailed
    ├── TaskCancelled
    ├── TaskExpired
    ├── TaskIgnored
    ├── UnknownResult           nobody has seen this id, or its outcome was forgotten
    └── UnreadableResult        there is an outcome, and it cannot be read
Directive                       what a running task says to its worker; not an error
├── RetryLater                  run me again later, as another attempt
├── Snooze                      run me again later, as this attempt
├── Reject                      this call can never succeed: to the dead letters
└── Ignore                      nobody needs to know how this ended
"""

from asyncio.exceptions import CancelledError
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import timedelta
from typing import Any, cast

from asyncq.naming import exception_name
from asyncq.reprs import shown_value
from asyncq.texts import counted

LONGEST = 1e9  # seconds, of any duration: 31 years, which every store can count


class AsyncqError(Exception):
    """The root of what asyncq raises."""


class ConfigurationError(AsyncqError):
    """The set-up cannot work as it is written; the message says what to change."""


class InvalidValue(ConfigurationError, ValueError):
    """A setting or an option was given a value that makes no sense."""

    def __init__(self, setting: str, value: Any, allowed: str) -> None:
        super().__init__(f"{setting} is {allowed}; not {shown(value)}")
        self.setting = setting
        self.allowed = allowed


class UnknownOption(ConfigurationError, TypeError):
    """There is no setting or option of this name; the message says what there is."""

    def __init__(self, where: str, option: str, instead: str) -> None:
        super().__init__(f"{where} has no option {option!r}: {instead}")
        self.option = option


class BrokerError(AsyncqError):
    """Something went wrong between asyncq and a broker."""


class BrokerUnavailable(BrokerError):
    """The broker did not answer in time. What was sent may have arrived; sending again is safe."""

    def __init__(self, message: str, envelope_ids: Iterable[str] = ()) -> None:
        super().__init__(message)
        self.envelope_ids = frozenset(envelope_ids)
        """What it has not taken, where it has taken all the rest; empty where that is not known."""


class QueueUnavailable(BrokerUnavailable):
    """One queue cannot be used just now, or as it is there; the broker's others can."""

    def __init__(self, queue: str, message: str) -> None:
        super().__init__(message)
        self.queue = queue


class Refused(BrokerError):
    """The broker does not take this envelope; sending it again by itself changes nothing."""

    def __init__(self, envelope_id: str, why: str) -> None:
        super().__init__(f"message {envelope_id} was refused: {why}")
        self.envelope_id = envelope_id
        self.envelope_ids = frozenset({envelope_id})
        """All that were refused for this reason in one call."""
        self.why = why


class MessageTooLarge(Refused):
    """The encoded message is larger than ``max_message_size`` bytes, or than its broker takes."""

    def __init__(
        self, envelope_id: str, what: str, size: int, limit: int, remedy: str = ""
    ) -> None:
        super().__init__(
            envelope_id,
            f"{what} has {counted(size, 'byte')} and the limit is {limit}: "
            f"pass a reference (a path, a key) instead, or {remedy or 'raise max_message_size'}",
        )
        self.size = size
        self.limit = limit


class Unroutable(Refused):
    """No queue is bound to the exchange for this routing key and these headers."""

    def __init__(self, envelope_id: str, exchange: str, routing_key: str) -> None:
        super().__init__(
            envelope_id,
            f"no queue takes what goes to exchange {exchange!r} with routing key {routing_key!r}: "
            "bind one in App(queues=[Queue(..., bindings=[...])])",
        )
        self.exchange = exchange
        self.routing_key = routing_key


class QueueFull(Refused):
    """The queue has as many messages as its ``max_length`` allows. Nothing of these was stored."""

    def __init__(self, envelope_ids: Sequence[str], queue: str, limit: int) -> None:
        super().__init__(
            envelope_ids[0],
            f"queue {queue} is full: {counted(limit, 'message waits', 'messages wait')}, which "
            "is its max_length; try again when workers have caught up",
        )
        self.envelope_ids = frozenset(envelope_ids)
        self.queue = queue
        self.limit = limit


NOT_RENEWED = "it was not renewed in time"


class LeaseLost(BrokerError):
    """This worker's lease ended; what it held belongs to others now."""

    def __init__(self, incarnation: str, why: str = NOT_RENEWED) -> None:
        super().__init__(f"lease {incarnation} ended: {why}")
        self.incarnation = incarnation


class BackendError(AsyncqError):
    """Something went wrong between asyncq and a backend."""


class BackendUnavailable(BackendError):
    """The backend did not answer in time. Storing again is safe."""


class BadArguments(AsyncqError, TypeError):
    """What a message brings does not fit the task's parameters; names the argument."""


class TimeLimitExceeded(AsyncqError, TimeoutError):
    """The attempt took longer than the task's ``time_limit``.

    A `TimeoutError`, as from `asyncio.timeout`, for who retries on those. No caller mistakes it for
    the time-out of a wait: what ``result.get(timeout=5)`` raises for it is `TaskFailed`.

    A function in a thread may go on after it, in C or where it is told at its next line of Python:
    what it returns then changes nothing, and the next attempt does not wait for it. Have what it
    writes bear that, or give the task no retries on this.

    A coroutine that blocks the event loop, or C code that keeps the interpreter's lock, hears of no
    limit before it lets go. The log names it meanwhile.
    """

    def __init__(self, message: str = "the time limit is over") -> None:
        super().__init__(message)  # a thread raises the class, without words


class SoftTimeLimitExceeded(AsyncqError, CancelledError):
    """The attempt took longer than its ``soft_time_limit``.

    Raised inside of the task, once, where it waits (a plain function: at its next line of Python),
    so that it can bring what it does to an end before its ``time_limit``. Not caught, it is a
    failure like any other.

    A `CancelledError` as well as an `Exception`: libraries expect nothing else to be raised where
    they wait, and let go then of what they hold, of a connection in the middle of a reply say. And
    no `TimeoutError`, which is an `OSError`: what tries one address after the other swallows those.
    """

    def __init__(self, message: str = "the soft time limit is over") -> None:
        super().__init__(message)


class Undecodable(AsyncqError):
    """These bytes are not a message of asyncq."""


class NewerVersion(Undecodable):
    """The message was made by a newer asyncq than this one."""

    def __init__(self, version: int, known: int) -> None:
        super().__init__(
            f"the message has version {version} and this worker knows {known}: upgrade the worker"
        )
        self.version = version
        self.known = known


class TaskError(AsyncqError):
    """A task did not succeed; raised where its result is awaited."""

    def __init__(self, task_id: str, message: str) -> None:
        super().__init__(message)
        self.task_id = task_id


class TaskFailed(TaskError):
    """The task raised, and was not tried again.

    Facts about the remote exception are text, never an object: ``message`` is its text,
    ``traceback`` its formatted traceback (truncated to 16 KiB), and ``type`` the name of its class:

    - ``shop.Declined``, with its module, as others import it, also if that ran as a program;
    - ``ValueError``, ``CancelledError``: Python's own, without;
    - ``asyncq.TimeLimitExceeded``: ours, as ``asyncq`` exports them;
    - a word of `FailureType`, as ``WorkerCrashed``, where the task itself raised nothing.

    `is_a` compares it with a class.
    """

    def __init__(self, task_id: str, type: str, message: str, traceback: str = "") -> None:
        super().__init__(task_id, f"task {task_id} failed: {type}: {message}")
        self.type = type
        self.message = message
        self.traceback = traceback

    def is_a(self, kind: "type[BaseException] | str") -> bool:
        """Whether the task failed with this exception or a subclass, as far as names can tell.

        Of the subclasses those count that this process has imported. ``kind`` may be a name as
        well: ``is_a("shop.Declined")``, ``is_a(FailureType.WORKER_CRASHED)``.
        """
        told = self.type.removeprefix(_OURS)
        if isinstance(kind, str):
            return told == kind.removeprefix(_OURS)
        return any(told == exception_name(each).removeprefix(_OURS) for each in _family(kind))


class TaskCancelled(TaskError):
    """The task was cancelled before it ended.

    ``reason`` is what the canceller said, and ``last_error`` what the task had raised, if it did.
    """

    def __init__(self, task_id: str, reason: str = "", last_error: str = "") -> None:
        text = f"task {task_id} was cancelled{reason and ': '}{reason}"
        super().__init__(task_id, text + (f" (it had raised {last_error})" if last_error else ""))
        self.reason = reason
        self.last_error = last_error


class TaskExpired(TaskError):
    """The task's ``expires`` passed before a worker started it, or started it again.

    ``attempts`` is how often it had failed by then, and ``last_error`` what the last one raised.
    """

    def __init__(self, task_id: str, attempt: int = 1, last_error: str = "") -> None:
        self.attempts = attempt - 1
        self.last_error = last_error
        text = f"task {task_id} expired before it was started"
        if self.attempts > 0:
            times = "once" if self.attempts == 1 else f"{self.attempts} times"
            text += f" again; it had failed {times}"
            text += f", the last time with {last_error}" if last_error else ""
        super().__init__(task_id, text)


class UnknownResult(TaskError):
    """There is no outcome, and none can come: a wrong id, or it was forgotten, or is not kept."""

    def __init__(self, task_id: str, why: str = "") -> None:
        why = why or (
            "no broker has it and no outcome of it is kept: the id is wrong, or its time is over "
            "(keep_result), or somebody has forgotten it, or its broker was restarted and had not "
            "kept it"
        )
        super().__init__(task_id, f"nothing is known of task {task_id}: {why}")


class UnreadableResult(TaskError):
    """There is an outcome, and it cannot be read: it is not what the task's annotation says, or
    other hands wrote something into the backend."""

    def __init__(self, task_id: str, why: str) -> None:
        super().__init__(task_id, f"the return value of task {task_id} cannot be read: {why}")


class TaskIgnored(TaskError):
    """The task ended with `Ignore`: there is no return value, and it did not fail."""

    def __init__(self, task_id: str, reason: str = "") -> None:
        super().__init__(task_id, f"task {task_id} was to be ignored{reason and ': '}{reason}")
        self.reason = reason


class Directive(Exception):
    """Raised by a task to tell its worker what to do; not an error."""


class _Later(Directive):
    def __init__(self, delay: float | timedelta = 0.0) -> None:
        pause: Any = delay.total_seconds() if isinstance(delay, timedelta) else delay
        known = isinstance(pause, int | float) and not isinstance(pause, bool)
        if not known or not 0 <= pause <= LONGEST:
            allowed = f"a number of seconds or a timedelta, not negative and at most {LONGEST:.0f}"
            raise InvalidValue("a delay", delay, allowed)
        self.delay = float(pause)
        super().__init__(f"run again in {self.delay} s")


class RetryLater(_Later):
    """Run this message again in ``delay`` seconds, whatever its retry policy says.

    It is another attempt. ``args`` and ``kwargs``, if given, take the place of those that the task
    was called with; they have to fit its parameters, or it fails with `BadArguments`.
    """

    def __init__(
        self,
        delay: float | timedelta = 0.0,
        *,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(delay)
        for name, given, kind, what in (
            ("args", args, (list, tuple), "a list or a tuple of the positional arguments"),
            ("kwargs", kwargs, (Mapping,), "a dictionary of the arguments that have names"),
        ):
            if given is not None and not isinstance(given, kind):
                raise InvalidValue(f"RetryLater's {name}", given, what)
        self.args_then = None if args is None else tuple(args)
        self.kwargs_then = None if kwargs is None else dict(kwargs)


class Snooze(_Later):
    """Run this message again in ``delay`` seconds, and count no attempt.

    For what cannot be done yet: nothing is used up, however often; ``expires`` bounds it.
    """


class Reject(Directive):
    """This call can never succeed: it fails at once, with this reason, whatever its retry policy
    says, and goes to the dead letters. Who waits gets `TaskFailed` of type ``Rejected``."""

    def __init__(self, reason: str = "") -> None:
        self.reason = reason if isinstance(cast("Any", reason), str) else str(reason)
        super().__init__(self.reason)


class Ignore(Directive):
    """There is nothing to do and nothing to tell: the task ends, without a return value and without
    a failure. Who waits gets `TaskIgnored`, and nothing of `Context.enqueue_after` is sent."""

    def __init__(self, reason: str = "") -> None:
        self.reason = reason if isinstance(cast("Any", reason), str) else str(reason)
        super().__init__(self.reason)


_OURS = "asyncq."  # what no task raised is told without: MessageTooLarge, as `FailureType` says


def _family(kind: type[BaseException]) -> Iterator[type[BaseException]]:
    """A class and all below it."""
    if not isinstance(cast("Any", kind), type):
        raise TypeError(f"is_a takes an exception's class or its name, not {shown(kind)}")
    seen, left = {kind}, [kind]
    while left:
        each = left.pop()
        yield each
        below = set(type.__subclasses__(each)) - seen
        seen |= below
        left += below


def first_error(error: BaseException) -> BaseException:
    """The first plain exception in what a task group raised."""
    while isinstance(error, BaseExceptionGroup):
        error = cast("BaseExceptionGroup[BaseException]", error).exceptions[0]
    return error


def shown(value: Any) -> str:
    """A value in an error's text: bounded, and whatever its ``repr`` does."""
    return shown_value(value)
