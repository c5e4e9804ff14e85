"""Connecting while the network may be down: again and again, and the first to succeed counts."""

from collections.abc import Awaitable, Callable
from typing import TypeVar

import anyio

T = TypeVar("T")

TRY_EVERY = 0.5  # seconds between two tries; the earlier ones go on


async def first_to_connect(
    connect: Callable[[], Awaitable[T]], discard: Callable[[T], Awaitable[object]]
) -> T:
    """The first connection to open, or the first refusal.

    A try that began while the network was down may hang long after it is up. Where several succeed
    at once, the others are discarded; cancelled, ``connect`` cleans up after itself.
    """
    opened: list[T] = []
    refusals: list[Exception] = []
    ended = anyio.Event()

    async def try_once() -> None:
        try:
            opened.append(await connect())
        except Exception as error:  # noqa: BLE001 - for the caller, whatever it is
            refusals.append(error)
        finally:
            ended.set()

    try:
        async with anyio.create_task_group() as tries:
            while not ended.is_set():
                tries.start_soon(try_once)
                with anyio.move_on_after(TRY_EVERY):
                    await ended.wait()
            tries.cancel_scope.cancel()
        if opened:
            return opened.pop()
        raise refusals[0]
    finally:
        for connection in opened:
            await discard(connection)
