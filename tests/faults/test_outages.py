"""Servers that crash or stand still under load, and come back."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import anyio

from asyncq import App
from tests.faults.conftest import Report
from tests.faults.lab.beds import ServerBed
from tests.faults.lab.bench import Bench
from tests.faults.lab.checker import Findings
from tests.faults.lab.scale import scaled
from tests.faults.lab.waiting import until

BACKLOG = 500  # tasks that wait when it crashes
DOWN = scaled((0.0, 0.0, 0.2, 0.5, 1.0), (0.0, 0.5, 1.0, 3.0, 6.0))  # seconds
PAUSE = scaled(4.0, 10.0)  # seconds; longer than a lease


async def test_a_server_that_is_killed_again_and_again_costs_nothing_but_time(
    server_bench: Bench[ServerBed], report: Report
) -> None:
    bench = server_bench
    async with under_load(bench) as app:
        await anyio.sleep(bench.bed.durable_after)  # RabbitMQ's weakness, not what is tested here
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

    findings = await bench.audit_all()
    report(findings, crashes=len(DOWN))
    see_that_nothing_ran_twice(bench, findings)


async def test_a_server_that_stands_still_costs_nothing_but_time(
    server_bench: Bench[ServerBed], report: Report
) -> None:
    bench = server_bench
    async with under_load(bench) as app:
        await bench.send(app, BACKLOG, seconds=0.02)
        bench.bed.pause()
        await anyio.sleep(PAUSE)  # how long it stands still is a part of the experiment
        bench.bed.resume()
        bench.healed()
        goal = len(bench.starts())
        await until(lambda: len(bench.starts()) > goal, 60, "tasks run again")

    findings = await bench.audit_all()
    report(findings, paused=PAUSE)
    see_that_nothing_ran_twice(bench, findings)
    assert findings.duplicated == findings.repeated == 0, findings  # here on RabbitMQ as well


@asynccontextmanager
async def under_load(bench: Bench[ServerBed]) -> AsyncGenerator[App]:
    """Two workers and four producers."""
    async with bench.app() as app, anyio.create_task_group() as load:
        await bench.hired()
        await bench.hired()
        for _ in range(4):
            load.start_soon(bench.produce, app, 0.005)
        await until(lambda: len(bench.ended()) > 100, 60, "tasks run")
        yield app
        load.cancel_scope.cancel()


def see_that_nothing_ran_twice(bench: Bench[ServerBed], findings: Findings) -> None:
    assert findings.ok == findings.acknowledged
    bench.see_no_repetition(findings)
    assert all(worker.exit_code == 0 for worker in bench.workers)
    assert findings.t_resume < bench.bed.resumes_within, findings
