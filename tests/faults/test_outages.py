"""Servers that crash under load and come back."""

import anyio

from tests.faults.conftest import Report
from tests.faults.lab.beds import ServerBed
from tests.faults.lab.bench import Bench
from tests.faults.lab.scale import scaled
from tests.faults.lab.waiting import until

BACKLOG = 500  # tasks that wait when it crashes
DOWN = scaled((0.0, 0.5, 1.0), (0.0, 0.5, 1.0, 3.0, 6.0))  # seconds
RESUMPTION = 2.0  # seconds after the server answers


async def test_a_server_that_is_killed_again_and_again_costs_nothing_but_time(
    server_bench: Bench[ServerBed], report: Report
) -> None:
    bench = server_bench
    async with bench.app() as app, anyio.create_task_group() as load:
        await bench.hired()
        await bench.hired()
        for _ in range(4):
            load.start_soon(bench.produce, app, 0.005)

        for down in DOWN:
            goal = len(bench.ended()) + 200
            await until(lambda goal=goal: len(bench.ended()) > goal, 60, "tasks run")
            await bench.send(app, BACKLOG, seconds=0.02)
            await anyio.to_thread.run_sync(bench.bed.crash)
            await anyio.sleep(down)  # how long it is down is a part of the experiment
            await anyio.to_thread.run_sync(bench.bed.restore)
            bench.healed()
            goal = len(bench.starts())
            await until(lambda goal=goal: len(bench.starts()) > goal, 60, "tasks run again")
        load.cancel_scope.cancel()

    findings = await bench.conclude()
    report(findings, crashes=len(DOWN))
    assert findings.ok == findings.acknowledged
    assert findings.duplicated == findings.overlapped == findings.repeated == 0, findings
    assert all(worker.exit_code == 0 for worker in bench.workers)
    assert findings.t_resume < RESUMPTION, findings
