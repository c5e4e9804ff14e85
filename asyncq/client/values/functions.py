"""Functions: what can be a task, how it is called, and what to write where it cannot be one."""

import functools
import inspect
from collections.abc import Callable
from typing import Any, NoReturn, cast

from asyncq.client.values.hints import origin_of, returns_awaitable
from asyncq.errors import ConfigurationError

CACHED = "cache_info"  # what functools' caches have and nothing else does


def callable_of(given: Any) -> Callable[..., Any]:
    """The function that a decorator was given, which can be called: what a ``staticmethod`` holds,
    else itself.

    Raises:
        ConfigurationError: it can be no task; says what to write.
    """
    if isinstance(given, staticmethod):
        given = cast("Callable[..., Any]", given.__func__)
    if isinstance(given, type):
        _refuse(given, "is a class", "write a function that makes what you need")
    function = cast("Callable[..., Any]", given)
    _refuse_generators(function)
    _refuse_unbound_methods(function)
    if hasattr(function, CACHED) and inspect.iscoroutinefunction(origin_of(function)):
        _refuse(
            function,
            "caches coroutines, and each can be awaited once",
            "cache what it returns instead",
        )
    try:
        inspect.signature(function)
    except (TypeError, ValueError):
        _refuse(
            function,
            "does not say which parameters it has",
            "write a function around it that does",
        )
    return function


def check_nameable(function: Callable[..., Any]) -> None:
    """
    Raises:
        ConfigurationError: it has no name that a worker could find it by.
    """
    names = (getattr(function, "__qualname__", None), getattr(function, "__module__", None))
    if not all(isinstance(name, str) for name in names):  # of a list's method it has no module
        _refuse(function, "has no name of its own", 'give it one with app.task(name="...")')
    if "<lambda>" in function.__qualname__.rpartition(".")[2]:
        _refuse(function, "is a lambda", 'give it a name with app.task(name="..."), or use def')


def is_asynchronous(function: Callable[..., Any]) -> bool:
    """Whether it is called on the event loop: a coroutine function, or a plain one around it, or
    one that says that it returns what is awaited.

    Any other runs in a thread.
    """
    called = _called(function)
    if inspect.iscoroutinefunction(called) or inspect.iscoroutinefunction(function):
        return True
    origin = origin_of(function)
    flags = getattr(getattr(origin, "__code__", None), "co_flags", 0)
    if inspect.iscoroutinefunction(origin) or flags & inspect.CO_ITERABLE_COROUTINE:
        return True
    return returns_awaitable(function)


def _called(function: Any) -> Any:
    """What runs when it is called: the method, of an object that can be."""
    if inspect.isroutine(function) or isinstance(function, functools.partial):
        return cast("Any", function)
    return type(function).__call__


def refuse_descriptors(given: Any) -> None:
    """
    Raises:
        ConfigurationError: it belongs to a class or an object, or is a call already.
    """
    if isinstance(given, classmethod):
        _refuse(
            given,
            "is a class method of a class that is not there yet",
            "write app.task(TheClass.method) below the class",
        )
    kind = cast("type[Any]", type(given))
    if issubclass(kind, property | functools.cached_property | functools.partialmethod):
        _refuse(
            given,
            f"is a {kind.__name__}, which belongs to an object",
            "write a function, or app.task(the_object.method)",
        )
    if inspect.iscoroutine(given):
        given.close()
        _refuse(given, "is a call", "give the function itself, without calling it")


def _refuse_generators(function: Callable[..., Any]) -> None:
    called = _called(function)
    origin = origin_of(function)
    flags = getattr(getattr(origin, "__code__", None), "co_flags", 0)
    if flags & inspect.CO_ITERABLE_COROUTINE or inspect.iscoroutinefunction(called):
        return
    # A plain wrapper around an asynchronous generator can only hand it on; one around a plain
    # generator may well make a list of it.
    if inspect.isasyncgenfunction(called) or inspect.isasyncgenfunction(origin):
        _refuse(function, "is an async generator", "return a list, or enqueue a task for each item")
    if inspect.isgeneratorfunction(called):
        _refuse(function, "is a generator", "return a list, or enqueue a task for each item")


def _refuse_unbound_methods(function: Callable[..., Any]) -> None:
    """A function in a class whose first parameter nobody would give."""
    origin = origin_of(function)
    if inspect.ismethod(function) or not inspect.isfunction(origin):
        return
    parent = origin.__qualname__.rpartition(".")[0]
    if not parent or parent.endswith("<locals>") or not inspect.isroutine(function):
        return
    first = next(iter(inspect.signature(function).parameters.values()), None)
    if first is None or first.name not in {"self", "cls"} or first.annotation is not first.empty:
        return
    if hasattr(function, "register"):
        _refuse(
            function,
            "is a singledispatchmethod, which does not say which parameters it has",
            "write a function around it that does",
        )
    _refuse(
        function,
        f"is a method, and no message can bring its {first.name!r}",
        f"make it a @staticmethod below @app.task, or write app.task(the_object.{origin.__name__})",
    )


def _refuse(given: Any, why: str, remedy: str) -> NoReturn:
    name = getattr(given, "__qualname__", None)
    shown = name if isinstance(name, str) else f"what was given ({type(given).__name__})"
    raise ConfigurationError(f"{shown} can be no task: it {why}; {remedy}")
