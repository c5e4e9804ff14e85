"""Workers that stand still: the whole process, or only its event loop."""

import re
import signal
from collections import Counter

import pytest

from tests.faults.conftest import Report
from tests.faults.lab.beds import Bed
from tests.faults.lab.bench import Bench
from tests.faults.lab.ledger import now
from tests.faults.lab.scale import scaled
from tests.faults.lab.waiting import until

STALL = scaled(5.0, 20.0)  # seconds that the loop stands still
LEASE = 1.0
HELD = 20
RUNS = {"gated": 1, "flaky": 3, "relay": 1}  # until the task succeeds


@pytest.mark.parametrize("task", ["gated", "flaky", "relay"])
async def test_a_worker_that_slept_through_its_lease_is_fenced_and_works_again(
    bench: Bench[Bed], report: Report, task: str
) -> None:
    bench.configure(lease=LEASE)
    gate = bench.directory / "gate"
    async with bench.app() as app:
        sleeper = await bench.hired(bench.bed.impatient_url)
        await bench.send(app, HELD, task=task, gate=str(gate))
        await until(lambda: len(bench.starts()) == HELD, 60, "all of them run")
        other = await bench.hired()

        await sleeper.stopped(bench.is_locked)
        slept_at = now()
        gate.touch()  # nobody waits any more, neither there nor elsewhere
        await bench.settled()
        await until(lambda: now() > slept_at + 3 * LEASE, 60, "three leases have passed")
        sleeper.send(signal.SIGCONT)
        await sleeper.says("restarting under a new one")
        other.send(signal.SIGTERM)
        await other.end()
        await bench.send(app, HELD)

        findings = await bench.audit_all()
    report(findings)
    own = {start.run for start in bench.starts() if start.pid == other.pid}
    again, fresh = bench.accepted[:HELD], bench.accepted[HELD:]
    assert findings.ok == findings.acknowledged
    assert all(bench.value(id) in own for id in again)
    runs = Counter(start.id for start in bench.starts())
    assert [runs[id] for id in again] == [1 + RUNS[task]] * HELD
    if bench.bed.knows_ids:  # else what a task sends again is a message of its own
        assert all(runs[id] == 1 for id in runs if id not in again)
    assert len(runs) == HELD * (3 if task == "relay" else 2)
    assert set(fresh) <= set(runs)
    assert sleeper.exit_code == 0


async def test_a_task_that_blocks_the_loop_for_many_leases_runs_once_and_is_named(
    bench: Bench[Bed], report: Report
) -> None:
    bench.configure(lease=LEASE)
    gate = bench.directory / "gate"
    async with bench.app() as app:
        blocked = await bench.hired()
        [result] = await bench.send(app, 1, task="halt", gate=str(gate))
        await until(lambda: bool(bench.starts(result.id)), 60, "it runs")
        began = bench.starts(result.id)[0].at
        await bench.hired()

        await blocked.says(f"in task halt[{result.id}]")  # as it goes on
        named = now() - began
        await until(lambda: now() > began + STALL, 60, "many leases have passed")
        gate.touch()

        findings = await bench.audit_all()
    report(findings, blocked=STALL, named=named)
    log = blocked.log()
    assert [start.pid for start in bench.starts()] == [blocked.pid]
    told = re.search(rf"has been blocked for (\d+\.\d) s in task halt\[{result.id}\]", log)
    assert told is not None, log
    assert 1.0 <= float(told[1]) < named + 1.0  # it may have stood for a while before
    assert "tasks.py:" in log
    assert " in halt" in log
    assert "lost its lease" not in log
