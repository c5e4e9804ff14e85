"""Decorators of a library that knows nothing of asyncq."""

import functools
from collections.abc import Callable
from typing import Any


def traced(function: Callable[..., Any]) -> Callable[..., Any]:
    """A plain wrapper, also around coroutine functions."""

    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    return wrapper


def retried(function: Callable[..., Any]) -> Callable[..., Any]:
    """A wrapper that is a coroutine function."""

    @functools.wraps(function)
    async def wrapper(*args: Any, **kwargs: Any) -> Any:
        return await function(*args, **kwargs)

    return wrapper
