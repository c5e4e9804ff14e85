"""Tasks: registered functions, and the ways to call them."""

import math
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from datetime import datetime
from types import EllipsisType
from typing import Any, Concatenate, Generic, Never, ParamSpec, Protocol, TypeVar, cast, overload

import msgspec

from asyncq.client.context import Context
from asyncq.client.result import Result
from asyncq.client.values.encoding import encode, read_plain
from asyncq.client.values.functions import (
    callable_of,
    check_nameable,
    is_asynchronous,
    refuse_descriptors,
)
from asyncq.client.values.hints import resolve_result
from asyncq.client.values.parameters import Parameters
from asyncq.client.values.shapes import PLAIN_SHAPE, Shape, shape_of
from asyncq.errors import ConfigurationError, InvalidValue, shown
from asyncq.language.message import LAST_ERROR, MAX_PRIORITY, MESSAGE_ID, TASK_NAME
from asyncq.language.policies import Errors, Retry, as_retry, check_errors
from asyncq.language.quantities import (
    Duration,
    SecondsOrNone,
    count,
    flag,
    is_endless,
    moment,
    no_default,
    optional_seconds,
    seconds,
)
from asyncq.language.scopes import BEGUN, SCOPE
from asyncq.language.signature import NO_OPTIONS, CallOptions, Signature
from asyncq.language.spelling import parameters_of, unknown_option
from asyncq.language.topology import check_exchange_name, check_queue_name, check_routing_key
from asyncq.naming import qualified_name
from asyncq.reprs import shown_options, within
from asyncq.shown import Shown

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")

Register = Callable[[Callable[..., Any], str, "TaskOptions"], "Task[..., Any]"]


class Sender(Protocol):
    """What sends calls: an app's client."""

    async def enqueue(self, signature: Signature[R], /) -> Result[R]: ...


class Home(Protocol):
    """Where a task's calls go: its app."""

    @property
    def client(self) -> Sender:
        """Of the event loop that asks. Raises `ConfigurationError` where there is none."""
        ...

    def result(self, id: str, task: "Task[..., R]", /) -> Result[R]: ...


class TaskOptions(Shown, frozen=True, kw_only=True):
    """What a task asks for, every time it is called.

    Raises:
        InvalidValue: a value that makes no sense; names the option and what is allowed.
        ConfigurationError: there can be no queue or exchange of this name, or both are given.
    """

    queue: str | None = None
    """None leaves it to the app's routes, and then to the queue named default."""
    exchange: str | None = None
    """To be published to instead of a queue."""
    routing_key: str = ""
    priority: int | None = None
    """None leaves it to the app's routes, and then is 0."""
    retry: Retry | None = None
    """Also how many times (3 is ``Retry(times=3)``), or True for ``Retry()``."""
    time_limit: SecondsOrNone = no_default()
    """Seconds one attempt may take. A coroutine is cancelled then, and if it goes on all the same
    again every ten seconds; what a plain function does in its thread is left behind, and ends at
    its next line of Python. The task has failed then, with `TimeLimitExceeded`. What never comes
    back from C, and holds the event loop or the interpreter lock, no limit reaches: that is what
    `Config.stall_limit` is for, and the task has cost its worker then."""
    soft_time_limit: SecondsOrNone = no_default()
    """Seconds after which `SoftTimeLimitExceeded` is raised inside of an attempt, once: where the
    coroutine waits, or at the next line of Python of a plain function. (What waits in C, as
    ``time.sleep(60)`` does, hears of it when it is back.)"""
    expires: SecondsOrNone = no_default()
    """Seconds after which a message that was not started is not started any more."""
    keep_result: SecondsOrNone = no_default()
    """Seconds to keep the outcome; None is the app's default, 0 keeps nothing."""
    dead_letter: bool = True
    """Whether a message that failed for good goes to the dead letters, with its error."""
    throws: Errors = ()
    """What the task may raise in the ordinary course of things: a failure like any other, but for
    the log, where it is one line and no error. One class of exceptions, or several."""
    aliases: Sequence[str] = ()
    """Names that it had before, which messages on their way may still bear. A text is one."""

    def __post_init__(self) -> None:
        check_destination(self.queue, self.exchange, self.routing_key or None)
        plain: dict[str, Any] = {
            "priority": None if self.priority is None else check_priority(self.priority),
            "retry": as_retry(self.retry),
            "time_limit": optional_seconds("time_limit", self.time_limit, above=0),
            "soft_time_limit": optional_seconds("soft_time_limit", self.soft_time_limit, above=0),
            "expires": optional_seconds("expires", self.expires),
            "keep_result": check_keep(self.keep_result),
            "dead_letter": flag("dead_letter", self.dead_letter),
            "throws": check_errors("throws", self.throws),
            "aliases": check_aliases(self.aliases),
        }
        check_limits(plain["soft_time_limit"], plain["time_limit"])
        for name, value in plain.items():
            msgspec.structs.force_setattr(self, name, value)

    def __repr__(self) -> str:
        return within(shown_options(self, TaskOptions()), kind="TaskOptions({})")


RESERVED = frozenset({LAST_ERROR, SCOPE, BEGUN})
"""Headers that are ours, and of one message alone."""
OPTIONS = ("name", *TaskOptions.__struct_fields__)


class Task(Generic[P, R]):
    """A function that runs on workers. Called, it is still the function."""

    def __init__(
        self, function: Callable[..., Any], name: str, options: TaskOptions, home: Home
    ) -> None:
        check_task_name(name)
        self.function = function
        self.name = name
        self.settings = options
        self.is_coroutine = is_asynchronous(function)
        """Called on the event loop; otherwise in a thread."""
        self.parameters = Parameters(function, name)
        self._home = home
        self._result: Shape | None = None
        self.__doc__ = function.__doc__
        self.__wrapped__ = function

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        """Run the function here and now, as if it were no task."""
        return self.function(*args, **kwargs)

    def __repr__(self) -> str:
        return f"<task {self.name}>"

    def s(self, /, *args: P.args, **kwargs: P.kwargs) -> Signature[R]:
        """The call with these arguments, not sent yet.

        Raises:
            TypeError: an argument is missing, unexpected, given twice, or of another type.
        """
        self.parameters.check(args, kwargs)
        return Signature(self.name, args, kwargs)

    async def enqueue(self, /, *args: P.args, **kwargs: P.kwargs) -> Result[R]:
        """Send the call; returns once the broker keeps it.

        Raises:
            TypeError: an argument is missing, unexpected, of another type, or cannot be sent as it
                is. Nothing was sent.
            MessageTooLarge: with its arguments the message exceeds ``max_message_size``.
            BrokerUnavailable: not accepted within ``publish_timeout``.
            QueueFull: its queue has a ``max_length``, and so many wait.
            Unroutable: no queue is bound to its exchange for this routing key.
        """
        self.parameters.check(args, kwargs)
        return await self._home.client.enqueue(Signature(self.name, args, kwargs))

    def options(
        self,
        *,
        queue: str | None = None,
        exchange: str | None = None,
        routing_key: str | None = None,
        priority: int | None = None,
        delay: Duration | None = None,
        countdown: Duration | None = None,
        eta: datetime | float | None = None,
        expires: Duration | None = None,
        keep_result: Duration | None = None,
        time_limit: Duration | None = None,
        soft_time_limit: Duration | None = None,
        id: str | None = None,
        headers: dict[str, Any] | None = None,
        scope: EllipsisType | None = ...,
        **unknown: Never,
    ) -> "Call[P, R]":
        """The task with other options, for one or more calls.

        ``exchange`` and ``routing_key`` send it to the queues that are bound there, instead of to
        one ``queue``; the result is that of the first of them. ``delay`` (Celery's ``countdown``)
        and ``expires`` are seconds from now, or a `timedelta`, ``eta`` is a moment (an aware
        datetime or Unix seconds); an infinite ``expires`` is never, an infinite ``time_limit`` or
        ``soft_time_limit`` none. An ``id`` of your own makes the
        call repeatable: it is taken once for as long as its outcome is kept, or its dead letter.
        ``scope=None`` sends it outside of the `asyncq.scope` that it is called in.

        Raises:
            ValueError: a value makes no sense (`InvalidValue`), or two say when to start.
            TypeError: a header cannot be sent; an option is unknown (`UnknownOption`).
            ConfigurationError: there can be no queue or exchange of this name, or two say where
                to go.
        """
        if unknown:
            raise unknown_option("options", unknown, parameters_of(self.options))
        starts = [each for each in (delay, countdown, eta) if each is not None]
        if len(starts) > 1:
            raise ValueError("give one of delay, countdown and eta")
        given = self.settings.exchange if exchange is None and queue is None else exchange
        check_destination(queue, given, routing_key)
        if id is not None:
            check_id(id)
        hard, soft = _limit("time_limit", time_limit), _limit("soft_time_limit", soft_time_limit)
        check_limits(soft, self.settings.time_limit if hard is None else hard)
        pause = delay if delay is not None else countdown
        options = CallOptions(
            id=id,
            queue=queue,
            exchange=exchange,
            routing_key=routing_key,
            priority=None if priority is None else check_priority(priority),
            eta=None if eta is None else moment("eta", eta),
            delay=None if pause is None else seconds("delay", pause),
            expires=None if expires is None else _expiry(expires),
            keep_result=check_keep(keep_result),
            time_limit=hard,
            soft_time_limit=soft,
            headers=None if headers is None else plain_headers(headers),
            is_scoped=check_scope(scope),
        )
        return Call(self, options, self._home)

    def result(self, id: str) -> Result[R]:
        """The handle to the outcome of an earlier call, by its id, whoever sent it."""
        return self._home.result(id, self)

    def read(self, value: msgspec.Raw) -> R:
        """A return value from its bytes, in the function's annotated type."""
        return self.result_shape.decode(value)

    @property
    def result_shape(self) -> Shape:
        """Of what the function returns; plain data where its annotation says nothing of use."""
        if self._result is None:
            try:
                self._result = shape_of(resolve_result(self.function))
            # The user's text, run as Python: what it means is of interest to type checkers alone.
            except Exception:  # noqa: BLE001
                self._result = PLAIN_SHAPE
        return self._result


class Call(Generic[P, R]):
    """A task with options of its own: `Task.options`."""

    def __init__(self, task: Task[P, R], options: CallOptions, home: Home) -> None:
        self._task = task
        self._options = options
        self._home = home

    def __repr__(self) -> str:
        return within(f"task {self._task.name}, {shown_options(self._options, NO_OPTIONS)}")

    def s(self, /, *args: P.args, **kwargs: P.kwargs) -> Signature[R]:
        """As `Task.s`."""
        self._task.parameters.check(args, kwargs)
        return Signature(self._task.name, args, kwargs, self._options)

    async def enqueue(self, /, *args: P.args, **kwargs: P.kwargs) -> Result[R]:
        """As `Task.enqueue`."""
        return await self._home.client.enqueue(self.s(*args, **kwargs))


class FunctionTask(Task[P, R], Generic[P, R, T]):
    """A task that is called with the arguments that it is sent with; called, it gives ``T``."""

    def __call__(self, /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Run the function here and now, as if it were no task."""
        return self.function(*args, **kwargs)


class ContextTask(Task[P, R], Generic[P, R, T]):
    """A task whose function takes a `Context` first: from the worker, or from who calls it here."""

    def __call__(self, context: Context, /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Run the function here and now, as if it were no task."""
        return self.function(context, *args, **kwargs)


def make_task(
    function: Callable[..., Any], name: str, options: TaskOptions, home: Home
) -> Task[..., Any]:
    """
    Raises:
        ConfigurationError: the name cannot be one, or a parameter cannot be sent.
    """
    task: Task[..., Any] = FunctionTask[..., Any, Any](function, name, options, home)
    if task.parameters.layout.context_first:
        return ContextTask[..., Any, Any](function, name, options, home)
    return task


_BY_NAME = "options are given by their names, as in @app.task(name=..., queue=...)"


class _Anything:
    """Fits only a first parameter that takes everything, and so tells that one from a context."""


class TaskDecorator:
    """Makes functions tasks, with options or without; keeps their types for type checkers.

    A first parameter of type `Context` is the worker's to give, and not the caller's. What is
    awaitable is awaited: the result is that of a coroutine function as of a decorator around one.
    """

    def __init__(self, register: Register, options: dict[str, Any]) -> None:
        self._register = register
        self._options = options

    # The first that fits counts; what a later one says of the same function is right as well, only
    # less exact.
    @overload
    def __call__(  # pyright: ignore[reportOverlappingOverload]
        self, function: Callable[Concatenate[_Anything, P], Coroutine[Any, Any, R]], /
    ) -> FunctionTask[Concatenate[Any, P], R, Coroutine[Any, Any, R]]: ...
    @overload
    def __call__(  # pyright: ignore[reportOverlappingOverload]
        self, function: Callable[Concatenate[Context, P], Coroutine[Any, Any, R]], /
    ) -> ContextTask[P, R, Coroutine[Any, Any, R]]: ...
    @overload
    def __call__(
        self, function: Callable[P, Coroutine[Any, Any, R]], /
    ) -> FunctionTask[P, R, Coroutine[Any, Any, R]]: ...
    @overload
    def __call__(
        self, function: Callable[Concatenate[_Anything, P], Awaitable[R]], /
    ) -> FunctionTask[Concatenate[Any, P], R, Awaitable[R]]: ...
    @overload
    def __call__(
        self, function: Callable[Concatenate[Context, P], Awaitable[R]], /
    ) -> ContextTask[P, R, Awaitable[R]]: ...
    @overload
    def __call__(
        self, function: Callable[P, Awaitable[R]], /
    ) -> FunctionTask[P, R, Awaitable[R]]: ...
    @overload
    def __call__(
        self, function: Callable[Concatenate[_Anything, P], R], /
    ) -> FunctionTask[Concatenate[Any, P], R, R]: ...
    @overload
    def __call__(
        self, function: Callable[Concatenate[Context, P], R], /
    ) -> ContextTask[P, R, R]: ...
    @overload
    def __call__(self, function: Callable[P, R], /) -> FunctionTask[P, R, R]: ...
    @overload
    def __call__(
        self,
        *,
        name: str = ...,
        queue: str | None = ...,
        exchange: str | None = ...,
        routing_key: str = ...,
        priority: int | None = ...,
        retry: Retry | int | None = ...,
        time_limit: Duration | None = ...,
        soft_time_limit: Duration | None = ...,
        expires: Duration | None = ...,
        keep_result: Duration | None = ...,
        dead_letter: bool = ...,
        throws: Errors = ...,
        aliases: Sequence[str] = ...,
    ) -> "TaskDecorator": ...
    def __call__(self, *function: Callable[..., Any], **options: Any) -> Any:
        """Register a function, or return a decorator that will, with these options.

        ``name`` is ``module.function`` if not given; the rest is `TaskOptions`.

        Raises:
            ConfigurationError: the name is taken or cannot be one; a parameter cannot be sent; an
                option is unknown (`UnknownOption`) or makes no sense (`InvalidValue`).
        """
        if function:
            refuse_descriptors(function[0])
        if function and not callable(function[0]):
            raise InvalidValue("what @app.task decorates", function[0], f"a function; {_BY_NAME}")
        if not options.keys() <= set(OPTIONS):
            raise unknown_option("@app.task", options, OPTIONS)
        merged = {**self._options, **options}
        TaskOptions(**{name: value for name, value in merged.items() if name != "name"})
        if not function:
            return TaskDecorator(self._register, merged)
        given = function[0]
        if isinstance(given, Task):
            raise ConfigurationError(
                f"{given!r} is a task already: for one with other options, give its function, "
                "app.task(name=...)(the_task.function)"
            )
        called = callable_of(given)
        name = merged.pop("name", None)
        if name is None:
            check_nameable(called)
            name = qualified_name(called)
        return self._register(called, name, TaskOptions(**merged))


def check_task_name(name: Any) -> None:
    if not isinstance(name, str) or not TASK_NAME.fullmatch(name):
        raise ConfigurationError(
            f"task name {shown(name)}: use 1 to 200 letters, digits and _ . : < > -"
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


def check_priority(priority: Any) -> int:
    return count("priority", priority, most=MAX_PRIORITY)


def plain_headers(headers: dict[str, Any]) -> dict[str, Any]:
    """Headers as they will arrive: plain data.

    Raises:
        TypeError: no broker could carry these; names the header.
    """
    if not isinstance(cast("Any", headers), dict):
        raise TypeError(f"headers are a dictionary, not a {type(headers).__qualname__}")
    plain: dict[str, Any] = {}
    for name, value in headers.items():
        if not isinstance(cast("Any", name), str):
            raise TypeError(f"headers have text for names, not {name!r:.200}")
        if name in RESERVED:
            continue  # of the message that these were taken from
        try:
            plain[str.__str__(name)] = read_plain(encode(value))
        except TypeError as error:
            raise TypeError(f"header {name!r:.200}: {error}") from error
    return plain


def check_scope(scope: Any) -> bool:
    """
    Raises:
        InvalidValue: it is given, and not None.
    """
    if scope is not None and scope is not ...:
        allowed = "None, to belong to no scope: what is sent in the block of one belongs to it"
        raise InvalidValue("scope", scope, allowed)
    return scope is ...


def check_keep(keep: Any) -> float | None:
    return None if keep is None else seconds("keep_result", keep)


def check_aliases(aliases: Any) -> tuple[str, ...]:
    """
    Raises:
        InvalidValue: no names.
        ConfigurationError: one that no task can have.
    """
    names = (aliases,) if isinstance(aliases, str) else aliases
    if not isinstance(names, Iterable):
        raise InvalidValue("aliases", aliases, "the names that the task had before, or one of them")
    found = tuple(cast("Iterable[Any]", names))
    for name in found:
        check_task_name(name)
    return tuple(dict.fromkeys(found))


def check_limits(soft: float | None, hard: float | None) -> None:
    """
    Raises:
        InvalidValue: the soft limit would never be reached.
    """
    if soft is not None and hard is not None and math.inf > soft >= hard:
        allowed = f"less than the time_limit, which is {hard:g} s"
        raise InvalidValue("soft_time_limit", soft, allowed)


def _limit(name: str, value: Any) -> float | None:
    """Seconds; infinity is no limit, also for a task that has one."""
    if value is None:
        return None
    return math.inf if is_endless(value) else seconds(name, value, above=0)


def check_id(id: Any) -> None:
    if not isinstance(id, str) or not MESSAGE_ID.fullmatch(id):
        raise InvalidValue("an id", id, "1 to 128 printable ASCII characters")


def _expiry(expires: Any) -> float:
    """Seconds; infinity is never, also for a task whose messages expire otherwise."""
    return math.inf if is_endless(expires) else seconds("expires", expires)
