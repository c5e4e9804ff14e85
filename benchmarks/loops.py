"""Many calls, a bounded number of them at a time."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import TypeVar

Item = TypeVar("Item")
Value = TypeVar("Value")


async def each(
    call: Callable[[Item], Awaitable[Value]], items: Iterable[Item], width: int
) -> list[Value]:
    """Await ``call`` for every item from ``width`` loops at once; values in the items' order."""
    todo = list(items)
    values: dict[int, Value] = {}
    remaining = iter(range(len(todo)))

    async def loop() -> None:
        for index in remaining:
            values[index] = await call(todo[index])

    async with asyncio.TaskGroup() as group:
        for _ in range(width):
            group.create_task(loop())
    return [values[index] for index in range(len(todo))]


async def repeat(call: Callable[[], Awaitable[Value]], count: int, width: int) -> list[Value]:
    """Await ``call`` ``count`` times from ``width`` loops at once."""
    return await each(lambda _: call(), range(count), width)
