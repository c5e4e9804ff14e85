"""What the tasks do, as coroutines and as plain functions: they note when they begin and end."""

import asyncio
import os
import time

from benchmarks.reliable import ledger


async def record(id: str, seconds: float) -> None:
    """Wait, and let others run."""
    ledger.note("start", id)
    await asyncio.sleep(seconds)
    ledger.note("end", id)


def blocking_record(id: str, seconds: float) -> None:
    """Wait, for libraries of plain functions."""
    ledger.note("start", id)
    time.sleep(seconds)
    ledger.note("end", id)


async def block(id: str, seconds: float) -> None:
    """Hold the event loop, as a call into a slow library would."""
    blocking_record(id, seconds)


async def poison(id: str, seconds: float) -> None:
    """End the process, as a fault in an extension module would."""
    blocking_poison(id, seconds)


def blocking_poison(id: str, _seconds: float) -> None:
    """End the process."""
    ledger.note("start", id)
    os.abort()
