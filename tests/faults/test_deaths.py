"""Workers that die, by other hands or by a task's."""

from functools import partial

import anyio
import pytest

from asyncq import TaskFailed
from asyncq.config import Config
from tests.faults.conftest import Report
from tests.faults.lab.beds import Bed
from tests.faults.lab.bench import Bench
from tests.faults.lab.scale import scaled
from tests.faults.lab.workers import keep_running

ROUNDS = scaled(3, 10)  # of two deaths each
BACKLOG = scaled(500, 2000)  # tasks that are left to be done, at least
LEASE = scaled(1.0, Config().lease)  # seconds
RECOVERY = scaled(6.0, LEASE)  # seconds; so short a lease is over long before we have looked
NEIGHBOURS = 100


async def test_what_killed_workers_held_runs_again_and_nothing_else_does(
    bench: Bench[Bed], report: Report
) -> None:
    bench.configure(lease=LEASE)
    cut: set[str] = set()
    async with bench.app() as app:
        workers = [await bench.hired(), await bench.hired()]

        for _ in range(ROUNDS):
            async with anyio.create_task_group() as producing:
                producing.start_soon(partial(bench.keep_busy, app, BACKLOG, seconds=0.02))
                for place in range(2):
                    cut |= await workers[place].stopped_at_work()
                    workers[place].kill()
                    workers[place] = bench.hire()
                producing.cancel_scope.cancel()
            # A message is to meet two deaths at most: after three it would be right to blame it.
            await bench.until_audit(lambda audit: audit.is_idle, "all is done")

        findings = await bench.audit_all()
    report(findings, kills=ROUNDS * 2)
    assert findings.ok == findings.acknowledged
    assert findings.recovered == len(cut)
    if bench.bed.keeps_hold:
        assert findings.repeated == findings.overlapped == 0, findings
    assert findings.t_recover < RECOVERY, findings


async def test_a_task_that_kills_its_worker_runs_three_times_and_its_neighbours_succeed(
    bench: Bench[Bed], report: Report
) -> None:
    bench.configure(lease=1.0, concurrency=NEIGHBOURS * 2)
    async with bench.app() as app:
        await bench.send(app, NEIGHBOURS, seconds=0.02)
        [culprit] = await bench.send(app, 1, task="poison")
        await bench.send(app, NEIGHBOURS, seconds=0.02)

        async with anyio.create_task_group() as crew:
            await crew.start(keep_running, bench.hire)
            await bench.settled()
            crew.cancel_scope.cancel()
        with pytest.raises(TaskFailed) as failure:
            await culprit.get(timeout=60)

        findings = await bench.audit_all(dead=1)
        [letter] = await bench.dead_letters(app)
    report(findings)
    assert len(bench.starts(culprit.id)) == 3
    assert findings.ok == 2 * NEIGHBOURS
    assert failure.value.type == "WorkerCrashed"
    assert (letter.envelope.id, letter.crashes) == (culprit.id, 3)
    assert letter.reason == "WorkerCrashed: 3 workers died while they ran it"
