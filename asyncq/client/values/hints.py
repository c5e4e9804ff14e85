"""Hints: what the annotations of a task's function mean, each by itself.

Names that are missing now may be defined further down; names that only type checkers see are never
there.
"""

import asyncio
import functools
import inspect
import types
import typing
from collections.abc import Awaitable, Callable, Coroutine
from typing import Annotated, Any, Union, cast, get_args, get_origin

from asyncq.client.context import Context

_ALWAYS_KNOWN = {"Context": Context, "asyncq": types.SimpleNamespace(Context=Context)}
"""Imported for type checkers alone, these are meant all the same."""

_AWAITABLE = (Awaitable, Coroutine, asyncio.Future, asyncio.Task)


def origin_of(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function that was written, below its wrappers: annotations are read in its module."""
    current: Any = function
    for _ in range(100):  # a chain that is a ring ends somewhere
        if isinstance(current, functools.partial):
            current = cast("Any", current).func
        elif inspect.ismethod(current):
            current = current.__func__
        elif isinstance(current, staticmethod | classmethod) or "__wrapped__" in _names_of(current):
            current = cast("Any", current).__wrapped__
        elif not inspect.isroutine(current) and not isinstance(current, type):
            current = type(current).__call__
        else:
            break
    return current


def resolve(annotation: Any, function: Callable[..., Any]) -> Any:
    """What this annotation of the function means; `Any` if there is none.

    Raises:
        NameError: it names something that is not defined (yet).
        TypeError, AttributeError, SyntaxError: it is no type.
    """
    if annotation is inspect.Parameter.empty:
        return Any
    holder = types.SimpleNamespace(__annotations__={"it": annotation})
    scope = _scope_of(function)
    try:
        return typing.get_type_hints(holder, scope, None, include_extras=True)["it"]
    except NameError as error:
        if error.name not in _ALWAYS_KNOWN:
            raise
    known = {**_ALWAYS_KNOWN, **scope}
    return typing.get_type_hints(holder, known, None, include_extras=True)["it"]


def resolve_result(function: Callable[..., Any]) -> Any:
    """What the function's annotation says that it returns, or that which it awaits; raises as
    `resolve`."""
    hint = resolve(inspect.signature(function).return_annotation, function)
    if get_origin(hint) in _AWAITABLE:  # of a plain function around a coroutine function
        return get_args(hint)[-1]
    return hint


def returns_awaitable(function: Callable[..., Any]) -> bool:
    """Whether its annotation says that what it returns is awaited."""
    try:
        hint = resolve(inspect.signature(function).return_annotation, function)
    # The user's text, run as Python: what it means may be known later, or to type checkers alone.
    except Exception:  # noqa: BLE001
        return False
    return (get_origin(hint) or hint) in _AWAITABLE


def is_context(hint: Any) -> bool:
    """Whether this asks for the `Context`, optional or annotated as it may be."""
    if get_origin(hint) is Annotated:
        return is_context(get_args(hint)[0])
    if get_origin(hint) in {Union, types.UnionType}:
        members = [member for member in get_args(hint) if member is not type(None)]
        return len(members) == 1 and is_context(members[0])
    return isinstance(hint, type) and issubclass(hint, Context)


def _scope_of(function: Callable[..., Any]) -> dict[str, Any]:
    """The names that annotations of this function may use."""
    origin = origin_of(function)
    scope: dict[str, Any] = dict(getattr(origin, "__globals__", {}))
    for variable in getattr(origin, "__type_params__", ()):  # of `def f[T](...)`
        scope.setdefault(variable.__name__, variable)
    code, cells = getattr(origin, "__code__", None), getattr(origin, "__closure__", None)
    if code is not None and cells:
        for name, cell in zip(code.co_freevars, cells, strict=True):
            try:
                scope.setdefault(name, cell.cell_contents)
            except ValueError:  # it is not assigned yet
                continue
    return scope


def _names_of(value: Any) -> dict[str, Any]:
    return getattr(value, "__dict__", {})
