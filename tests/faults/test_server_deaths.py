"""A server that dies is no crash of the workers that live: no message is charged with it."""

from collections.abc import Callable
from pathlib import Path

import anyio

from asyncq import App
from tests.faults.conftest import Report
from tests.faults.lab.beds import ServerBed
from tests.faults.lab.bench import Bench
from tests.faults.lab.scale import scaled
from tests.faults.lab.waiting import until
from tests.faults.lab.workers import keep_running

# Seconds each time; the last is longer than a lease. Three crashes make a dead letter.
DOWN = scaled((0.0, 0.0, 4.0), (0.0, 0.0, 0.0, 0.0, 0.5, 4.0))
SLOTS = 10  # of each of two workers
PATIENCE = 60.0  # seconds


async def test_what_living_workers_hold_whenever_the_server_dies_is_charged_with_no_crash(
    server_bench: Bench[ServerBed], report: Report, tmp_path: Path
) -> None:
    bench, gate, held = server_bench, tmp_path / "gate", 2 * SLOTS
    bench.configure(concurrency=SLOTS)
    async with bench.app() as app:
        for _ in range(2):
            await bench.hired()
        await bench.send(app, held, task="gated", gate=str(gate))
        await until(lambda: len(bench.starts()) == held, PATIENCE, "all run")
        await anyio.sleep(bench.bed.durable_after)  # RabbitMQ's weakness, not what is tested here

        for deaths, down in enumerate(DOWN, start=1):
            await die(bench, down)
            goal = held if bench.bed.keeps_hold else held * (deaths + 1)
            await until(lambda goal=goal: len(bench.starts()) >= goal, PATIENCE, "all run again")
            await see_that_none_is_suspect(bench)
        gate.touch()

        findings = await bench.audit_all(dead=0)
    report(findings, crashes=len(DOWN))
    assert findings.ok == held
    bench.see_no_repetition(findings)


async def test_a_message_that_kills_its_worker_does_not_outlive_the_death_of_a_server(
    server_bench: Bench[ServerBed], report: Report
) -> None:
    bench = server_bench
    bench.configure(lease=1.0)
    async with bench.app() as app:
        await bench.hired()
        await until_durable(bench, app)
        [culprit] = await bench.send(app, 1, task="poison")
        async with anyio.create_task_group() as crew:
            for _ in range(2):
                await crew.start(keep_running, bench.hire)
            await until(lambda: bool(bench.starts(culprit.id)), PATIENCE, "a worker dies")
            await die(bench, 0.0)
            await bench.settled()
            crew.cancel_scope.cancel()

        findings = await bench.audit_all(dead=1)
        [letter] = await bench.dead_letters(app)
    runs = len(bench.starts(culprit.id))
    report(findings, runs=runs)
    assert 3 <= runs <= (3 if bench.bed.keeps_hold else 4)  # once more for each death of the server
    assert letter.reason == "WorkerCrashed: 3 workers died while they ran it"


async def die(
    bench: Bench[ServerBed], down: float, meanwhile: Callable[[], None] = lambda: None
) -> None:
    """Crash the server; return when it is there again, after at least so many seconds."""
    await anyio.to_thread.run_sync(bench.bed.crash)
    await anyio.to_thread.run_sync(meanwhile)
    await anyio.sleep(down)  # how long it is down is a part of the experiment
    await anyio.to_thread.run_sync(bench.bed.restore)
    bench.healed()


async def until_durable(bench: Bench[ServerBed], app: App) -> None:
    """Return when the server knows its queues after a crash."""
    await bench.send(app, 1)
    await until(lambda: bool(bench.ended()), PATIENCE, "a task runs")
    await anyio.sleep(bench.bed.durable_after)


async def see_that_none_is_suspect(bench: Bench[ServerBed]) -> None:
    audit = await bench.audit()
    assert not audit.suspects, audit
    assert not audit.dead, audit
