"""The work itself, the same for every contender: next to none."""

import asyncio

from benchmarks import ticks

DONE = 1  # what every task returns: a result that can be told from none
NAP = 1.0  # seconds


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


def blocking_noop() -> int:
    """Do nothing, in a thread or a process."""
    ticks.ended()
    return DONE
