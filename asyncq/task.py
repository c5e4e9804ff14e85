"""Tasks: registered functions, and the ways to call them."""

import inspect
import math
from collections.abc import Callable, Coroutine
from datetime import datetime, timedelta
from typing import Any, Concatenate, Generic, ParamSpec, Protocol, TypeVar, overload

import msgspec

from asyncq.context import Context
from asyncq.errors import ConfigurationError
from asyncq.message import MAX_PRIORITY, MESSAGE_ID, TASK_NAME
from asyncq.naming import qualified_name
from asyncq.parameters import Parameters, type_hints
from asyncq.policies import Retry
from asyncq.result import Result
from asyncq.signature import CallOptions, Signature
from asyncq.topology import check_exchange_name, check_queue_name, check_routing_key
from asyncq.values import decoder, encode

P = ParamSpec("P")
R = TypeVar("R")

_decode_headers = msgspec.msgpack.Decoder(dict[str, Any]).decode

Register = Callable[[Callable[..., Any], str, "TaskOptions"], "Task[..., Any]"]


class Home(Protocol):
    """Where a task's calls go: its app."""

    async def enqueue(self, signature: Signature[R], /) -> Result[R]: ...

    def result(self, id: str, task: "Task[..., R]", /) -> Result[R]: ...


class TaskOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What a task asks for, every time it is called."""

    queue: str | None = None
    """None leaves it to the app's routes, and then to the queue named default."""
    exchange: str | None = None
    """To be published to instead of a queue."""
    routing_key: str = ""
    priority: int | None = None
    """None leaves it to the app's routes, and then is 0."""
    retry: Retry | None = None
    time_limit: float | None = None
    """Seconds one attempt may take."""
    expires: float | None = None
    """Seconds after which a message that was not started is not started any more."""
    keep_result: float | None = None
    """Seconds to keep the outcome; None is the app's default, 0 keeps nothing."""


class Task(Generic[P, R]):
    """A function that runs on workers. Called, it is still the function."""

    def __init__(
        self, function: Callable[..., Any], name: str, options: TaskOptions, home: Home
    ) -> None:
        check_task_name(name)
        check_destination(options.queue, options.exchange, options.routing_key or None)
        if options.priority is not None:
            check_priority(options.priority)
        for duration in (options.time_limit, options.expires, options.keep_result):
            if duration is not None:
                _seconds(duration)
        self.function = function
        self.name = name
        self.settings = options
        self.is_coroutine = inspect.iscoroutinefunction(function)
        self.parameters = Parameters(function, name)
        self._home = home
        self._read: Callable[[msgspec.Raw], R] | None = None
        self.__doc__ = function.__doc__
        self.__wrapped__ = function

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the function here and now, as if it were no task."""
        return self.function(*args, **kwargs)

    def __repr__(self) -> str:
        return f"<task {self.name}>"

    def s(self, *args: P.args, **kwargs: P.kwargs) -> Signature[R]:
        """The call with these arguments, not sent yet.

        Raises:
            TypeError: an argument is missing, unexpected or given twice.
        """
        self.parameters.check(args, kwargs)
        return Signature(self.name, args, kwargs)

    async def enqueue(self, *args: P.args, **kwargs: P.kwargs) -> Result[R]:
        """Send the call; returns once the broker keeps it.

        Raises:
            TypeError: an argument is missing, unexpected, or cannot be sent. Nothing was sent.
            MessageTooLarge: with its arguments the message exceeds ``max_message_size``.
            BrokerUnavailable: not accepted within ``publish_timeout``.
            QueueFull: its queue has a ``max_length``, and so many wait.
            Unroutable: no queue is bound to its exchange for this routing key.
        """
        self.parameters.check(args, kwargs)
        return await self._home.enqueue(Signature(self.name, args, kwargs))

    def options(
        self,
        *,
        queue: str | None = None,
        exchange: str | None = None,
        routing_key: str | None = None,
        priority: int | None = None,
        delay: float | timedelta | None = None,
        countdown: float | timedelta | None = None,
        eta: datetime | float | None = None,
        expires: float | timedelta | None = None,
        keep_result: float | None = None,
        id: str | None = None,
        headers: dict[str, Any] | None = None,
    ) -> "Call[P, R]":
        """The task with other options, for one or more calls.

        ``exchange`` and ``routing_key`` send it to the queues that are bound there, instead of to
        one ``queue``; the result is that of the first of them. ``delay`` (Celery's ``countdown``)
        is seconds from now, ``eta`` a moment (an aware datetime or Unix seconds), ``expires``
        seconds from now. An ``id`` of your own makes the call repeatable: it is taken once for as
        long as its outcome is kept.

        Raises:
            ValueError: a value is out of range, or two say when to start.
            TypeError: a header cannot be sent.
            ConfigurationError: there can be no queue or exchange of this name, or two say where
                to go.
        """
        starts = [moment for moment in (delay, countdown, eta) if moment is not None]
        if len(starts) > 1:
            raise ValueError("give one of delay, countdown and eta")
        given = self.settings.exchange if exchange is None and queue is None else exchange
        check_destination(queue, given, routing_key)
        if priority is not None:
            check_priority(priority)
        if id is not None and not MESSAGE_ID.fullmatch(id):
            raise ValueError(f"an id has 1 to 128 printable ASCII characters, not {id[:200]!r}")
        if headers is not None:
            check_headers(headers)
        pause = delay if delay is not None else countdown
        options = CallOptions(
            id=id,
            queue=queue if exchange is None else "",
            exchange=exchange,
            routing_key=routing_key,
            priority=priority,
            eta=None if eta is None else _moment(eta),
            delay=None if pause is None else _seconds(pause),
            expires=None if expires is None else _seconds(expires),
            keep_result=None if keep_result is None else _seconds(keep_result),
            headers=headers,
        )
        return Call(self, options, self._home)

    def result(self, id: str) -> Result[R]:
        """The handle to the outcome of an earlier call, by its id, whoever sent it."""
        return self._home.result(id, self)

    def read(self, value: msgspec.Raw) -> R:
        """A return value from its bytes, in the function's annotated type."""
        if self._read is None:
            hint = type_hints(self.function, self.name).get("return", Any)
            try:
                self._read = decoder(hint)
            except ConfigurationError:
                self._read = decoder(Any)  # says nothing that bytes could tell: plain data then
        return self._read(value)


class Call(Generic[P, R]):
    """A task with options of its own: `Task.options`."""

    def __init__(self, task: Task[P, R], options: CallOptions, home: Home) -> None:
        self._task = task
        self._options = options
        self._home = home

    def s(self, *args: P.args, **kwargs: P.kwargs) -> Signature[R]:
        """As `Task.s`."""
        self._task.parameters.check(args, kwargs)
        return Signature(self._task.name, args, kwargs, self._options)

    async def enqueue(self, *args: P.args, **kwargs: P.kwargs) -> Result[R]:
        """As `Task.enqueue`."""
        return await self._home.enqueue(self.s(*args, **kwargs))


class _Anything:
    """Fits only a first parameter that takes everything, and so tells that one from a context."""


class TaskDecorator:
    """Makes functions tasks, with options or without; keeps their types for type checkers.

    A first parameter of type `Context` is the worker's to give, and not the caller's.
    """

    def __init__(self, register: Register, options: dict[str, Any]) -> None:
        self._register = register
        self._options = options

    @overload
    def __call__(
        self, function: Callable[Concatenate[_Anything, P], Coroutine[Any, Any, R]], /
    ) -> Task[Concatenate[Any, P], R]: ...
    @overload
    def __call__(
        self, function: Callable[Concatenate[Context, P], Coroutine[Any, Any, R]], /
    ) -> Task[P, R]: ...
    @overload
    def __call__(self, function: Callable[P, Coroutine[Any, Any, R]], /) -> Task[P, R]: ...
    @overload
    def __call__(
        self, function: Callable[Concatenate[_Anything, P], R], /
    ) -> Task[Concatenate[Any, P], R]: ...
    @overload
    def __call__(self, function: Callable[Concatenate[Context, P], R], /) -> Task[P, R]: ...
    @overload
    def __call__(self, function: Callable[P, R], /) -> Task[P, R]: ...
    @overload
    def __call__(
        self,
        *,
        name: str = ...,
        queue: str | None = ...,
        exchange: str | None = ...,
        routing_key: str = ...,
        priority: int | None = ...,
        retry: Retry | None = ...,
        time_limit: float | None = ...,
        expires: float | None = ...,
        keep_result: float | None = ...,
    ) -> "TaskDecorator": ...
    def __call__(self, *function: Callable[..., Any], **options: Any) -> Any:
        """Register a function, or return a decorator that will, with these options.

        ``name`` is ``module.function`` if not given; the rest is `TaskOptions`.

        Raises:
            ConfigurationError: the name is taken or cannot be one; a parameter cannot be sent.
        """
        merged = {**self._options, **options}
        if not function:
            return TaskDecorator(self._register, merged)
        name = merged.pop("name", None) or qualified_name(function[0])
        return self._register(function[0], name, TaskOptions(**merged))


def check_task_name(name: str) -> None:
    if not TASK_NAME.fullmatch(name):
        raise ConfigurationError(
            f"task name {name[:200]!r}: use 1 to 200 letters, digits and _ . : < > -"
        )


def check_destination(queue: str | None, exchange: str | None, routing_key: str | None) -> None:
    """
    Raises:
        ConfigurationError: a name that cannot be, or a queue and an exchange.
    """
    if queue is not None:
        check_queue_name(queue)
    if exchange is not None:
        check_exchange_name(exchange)
    if queue is not None and exchange is not None:
        raise ConfigurationError(
            f"give queue={queue!r} or exchange={exchange!r}, not both: an exchange finds the "
            "queues by their bindings"
        )
    if routing_key is not None:
        check_routing_key(routing_key)
        if exchange is None:
            raise ConfigurationError(
                f"routing_key={routing_key!r} is for an exchange: give exchange=... with it"
            )


def check_priority(priority: int) -> None:
    if type(priority) is not int or not 0 <= priority <= MAX_PRIORITY:
        raise ValueError(f"a priority is from 0 (lowest) to {MAX_PRIORITY}, not {priority!r}")


def check_headers(headers: dict[str, Any]) -> None:
    """
    Raises:
        TypeError: no broker could carry these.
    """
    try:
        _decode_headers(encode(headers))
    except msgspec.ValidationError as error:
        raise TypeError(f"headers are a dictionary with text keys: {error}") from error


def _seconds(duration: float | timedelta) -> float:
    seconds = duration.total_seconds() if isinstance(duration, timedelta) else float(duration)
    if not 0 <= seconds < math.inf:
        raise ValueError(f"a duration is a number of seconds, not negative: {duration!r}")
    return seconds


def _moment(moment: datetime | float) -> float:
    if not isinstance(moment, datetime):
        if not math.isfinite(moment):
            raise ValueError(f"eta is a moment, not {moment!r}")
        return float(moment)
    if moment.tzinfo is None:
        raise ValueError(f"eta {moment!r} has no time zone: use datetime.now(UTC) or a tzinfo")
    return moment.timestamp()
