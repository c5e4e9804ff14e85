"""What is no call where one was to be sent: says how calls are written."""

import inspect
from collections.abc import AsyncIterable, Iterable
from typing import Any, cast

from asyncq.client.task import Call, Task
from asyncq.errors import shown
from asyncq.language.signature import Signature

_EXAMPLE = "add.s(1, 2)"


def not_a_call(given: Any) -> TypeError:
    """What to raise where something else than a signature was to be sent."""
    match given:
        case Task() | Call():
            why = f"{shown(given)} is a task without its arguments"
            written = "task.s(...)"
            if isinstance(given, Task):
                task = cast("Task[..., Any]", given)
                written = f"{task.name.rpartition('.')[2]}.s(...)"
            return TypeError(f"what is sent is a call, written {written}: {why}")
        case _ if inspect.isawaitable(given):
            if inspect.iscoroutine(given):
                given.close()  # it never runs, and would warn of that
            why = "what add(1, 2) makes would run here, and cannot travel"
        case _:
            why = f"{shown(given)} is none"
    return TypeError(f"what is sent is a call, written {_EXAMPLE}: {why}")


def check_calls(given: Any) -> None:
    """
    Raises:
        TypeError: these are not many calls.
    """
    if isinstance(given, Signature):
        raise TypeError(
            "enqueue_many takes a list of calls, and this is a single one: "
            "write enqueue(call), or enqueue_many([call])"
        )
    if isinstance(given, Task | Call) or not isinstance(given, Iterable | AsyncIterable):
        raise TypeError(f"enqueue_many takes a list of calls: {not_a_call(cast('Any', given))}")
