"""Doomed workers: each dies at another point, and there is work until all have."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import anyio

from tests.faults.lab.bench import Bench
from tests.faults.lab.crash_points import DIED

PATIENCE = 90.0  # seconds until all are dead
RHYTHM = 0.1  # seconds between two sends


async def see_dead(
    bench: Bench[Any],
    points: Sequence[str],
    send: Callable[[], Awaitable[object]],
    rhythm: float = RHYTHM,
) -> None:
    """Have a worker for each of these points, and ``send`` again and again until all have died.

    Raises:
        AssertionError: nobody came to some of the points, or a worker ended in another way.
    """
    doomed = {point: bench.hire(die_at=point) for point in points}
    try:
        with anyio.fail_after(PATIENCE):
            while any(worker.exit_code is None for worker in doomed.values()):
                await send()
                await anyio.sleep(rhythm)
    except TimeoutError:
        alive = [point for point, worker in doomed.items() if worker.exit_code is None]
        raise AssertionError(f"nobody came to {alive}") from None
    codes = {point: worker.exit_code for point, worker in doomed.items()}
    assert codes == dict.fromkeys(points, DIED), codes
