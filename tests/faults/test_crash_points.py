"""Workers that die at every point of a delivery's path, each at another."""

import signal

import anyio
import pytest

from asyncq import App
from tests.faults.conftest import Report
from tests.faults.lab.beds import Bed
from tests.faults.lab.bench import Bench
from tests.faults.lab.crash_points import ALONE, APART, DIED, LEAVING, POINTS, SWEEPING
from tests.faults.lab.scale import scaled

ROUNDS = scaled(1, 5)
TASKS = ("work", "flaky", "relay")
EACH = 4  # of each task at a time
RHYTHM = 0.1  # seconds between two of these
PATIENCE = 90.0


@pytest.mark.parametrize("apart", [False, True], ids=["one-store", "two-stores"])
async def test_a_worker_may_die_anywhere(bench: Bench[Bed], report: Report, apart: bool) -> None:
    if apart:
        bench.keep_outcomes_apart()
    # Nothing is to be blamed here: a message may meet as many deaths as there are points.
    bench.configure(lease=1.0, concurrency=8, max_crashes=1000)
    points = [*POINTS, *APART] if apart else [*POINTS]
    if not bench.bed.keeps_hold:  # its server sees who is gone, and nobody sweeps
        points = [point for point in points if point not in SWEEPING]
    together = [point for point in points if point not in (LEAVING, *ALONE)]
    alone = [point for point in ALONE if point in points]
    async with bench.app() as app:
        for _ in range(ROUNDS):
            leaver = await bench.hired(die_at=LEAVING)
            await see_dead(bench, app, together)
            leaver.send(signal.SIGTERM)
            assert await leaver.end() == DIED
            for point in alone:
                await see_dead(bench, app, [point])

        await bench.hired()
        findings = await bench.conclude()
    report(findings, points=len(points), deaths=ROUNDS * len(points))
    assert findings.ok == findings.acknowledged
    if bench.bed.keeps_hold:
        assert findings.overlapped == 0, findings
        # A follow-up that is sent again after it has ended is known where records and messages are
        # in one store, and runs again where they are not.
        assert findings.repeated == 0 or apart, findings


async def see_dead(bench: Bench[Bed], app: App, points: list[str]) -> None:
    """Have a worker for each of these points, and send tasks until all have died."""
    doomed = {point: bench.hire(die_at=point) for point in points}
    try:
        with anyio.fail_after(PATIENCE):
            while any(worker.exit_code is None for worker in doomed.values()):
                for task in TASKS:
                    await bench.send(app, EACH, task)
                await anyio.sleep(RHYTHM)
    except TimeoutError:
        alive = [point for point, worker in doomed.items() if worker.exit_code is None]
        raise AssertionError(f"nobody came to {alive}") from None
    codes = {point: worker.exit_code for point, worker in doomed.items()}
    assert codes == dict.fromkeys(points, DIED)
