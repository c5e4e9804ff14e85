"""Workers that die at every point of a delivery's path, each at another."""

import signal

import pytest

from tests.faults.conftest import Report
from tests.faults.lab.beds import Bed
from tests.faults.lab.bench import Bench
from tests.faults.lab.crash_points import ALONE, APART, DIED, LEAVING, POINTS, SWEEPING
from tests.faults.lab.doomed import see_dead
from tests.faults.lab.scale import scaled

ROUNDS = scaled(1, 5)
TASKS = ("work", "flaky", "relay")
FAILING = "fail"
EACH = 4  # of each task at a time


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
    failing: list[str] = []
    async with bench.app() as app:

        async def send() -> None:
            for task in TASKS:
                await bench.send(app, EACH, task)
            failing.extend(result.id for result in await bench.send(app, EACH, FAILING))

        for _ in range(ROUNDS):
            leaver = await bench.hired(die_at=LEAVING)
            await see_dead(bench, together, send)
            leaver.send(signal.SIGTERM)
            assert await leaver.end() == DIED
            for point in alone:
                await see_dead(bench, [point], send)

        await bench.hired()
        findings = await bench.audit_all(dead=None)
        letters = await bench.dead_letters(app, limit=2 * len(failing))
    report(findings, points=len(points), deaths=ROUNDS * len(points))
    assert findings.ok == findings.acknowledged - len(failing)
    # Where ids are not known, one may be there twice whose worker died as it was moved.
    dead = [letter.envelope.id for letter in letters]
    assert set(dead) == set(failing)
    assert len(dead) == len(failing) or not bench.bed.knows_ids
    if bench.bed.keeps_hold:
        assert findings.overlapped == 0, findings
        # A follow-up that is sent again after it has ended is known where records and messages are
        # in one store, and runs again where they are not.
        assert findings.repeated == 0 or apart, findings
