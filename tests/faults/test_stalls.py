"""Workers that stand still: the whole process, or only its event loop."""

import signal

from tests.faults.conftest import Report
from tests.faults.lab.beds import Bed
from tests.faults.lab.bench import Bench
from tests.faults.lab.scale import scaled
from tests.faults.lab.waiting import until

STALL = scaled(5.0, 20.0)  # seconds that the loop stands still
HELD = 20


async def test_a_worker_that_slept_through_its_lease_is_fenced_and_works_again(
    bench: Bench[Bed], report: Report
) -> None:
    bench.configure(lease=1.0)
    gate = bench.directory / "gate"
    async with bench.app() as app:
        sleeper = await bench.hired()
        await bench.send(app, HELD, task="gated", gate=str(gate))
        await until(lambda: len(bench.starts()) == HELD, 60, "all of them run")
        other = await bench.hired()

        sleeper.send(signal.SIGSTOP)
        gate.touch()  # nobody waits any more, neither there nor elsewhere
        await bench.settled()
        sleeper.send(signal.SIGCONT)
        await sleeper.says("begins anew")
        other.send(signal.SIGTERM)
        await other.end()
        await bench.send(app, HELD)

        findings = await bench.conclude()
    report(findings)
    own = {start.run for start in bench.starts() if start.pid == other.pid}
    assert findings.ok == 2 * HELD
    assert [len(bench.starts(id)) for id in bench.accepted] == [2] * HELD + [1] * HELD
    assert all(bench.value(id) in own for id in bench.accepted[:HELD])
    assert sleeper.exit_code == 0


async def test_a_task_that_blocks_the_loop_for_many_leases_runs_once_and_is_named(
    bench: Bench[Bed], report: Report
) -> None:
    bench.configure(lease=1.0)
    async with bench.app() as app:
        blocked = await bench.hired()
        [result] = await bench.send(app, 1, task="block", seconds=STALL)
        await until(lambda: bool(bench.starts(result.id)), 60, "it runs")
        await bench.hired()

        await bench.settled()

        findings = await bench.conclude()
    report(findings, blocked=STALL)
    log = blocked.log()
    assert [start.pid for start in bench.starts()] == [blocked.pid]
    assert f"has stood still for 1.0 s in task {result.id}" in log
    assert "tasks.py:" in log
    assert " in block" in log
    assert "lost its lease" not in log
