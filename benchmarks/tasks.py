"""The work itself, the same for every contender: next to none."""

import asyncio
from collections.abc import Generator
from contextlib import contextmanager
from time import monotonic

from benchmarks import ticks
from benchmarks.reliable import ledger

DONE = 1  # what every task returns: a result that can be told from none
NAP = 1.0  # seconds
FOR_EVER = 3600.0  # seconds


async def noop() -> int:
    """Do nothing."""
    ticks.ended()
    return DONE


async def sleeper() -> int:
    """Wait a second, as for a slow service."""
    ticks.began()
    await asyncio.sleep(NAP)
    ticks.ended()
    return DONE


async def listener() -> float:
    """Wait to be cancelled; return when that was, by the clock that all processes have."""
    try:
        await asyncio.sleep(FOR_EVER)
    except asyncio.CancelledError:
        return monotonic()
    return FOR_EVER


@contextmanager
def noted(name: str) -> Generator[None]:
    """Note in the ledger when the block begins, and when it hears that it is cancelled."""
    ledger.note("start", name)
    try:
        yield
    except asyncio.CancelledError:
        ledger.note("end", name)
        raise


async def leaf(name: str) -> None:
    """Wait to be cancelled, as part of a tree."""
    with noted(name):
        await asyncio.sleep(FOR_EVER)


def blocking_noop() -> int:
    """Do nothing, in a thread or a process."""
    ticks.ended()
    return DONE
