"""Worker processes that are replaced or told to end, under load."""

import random
import signal

import anyio
import pytest
from anyio import to_thread

from tests.faults.conftest import Report
from tests.faults.lab.beds import Bed, ServerBed
from tests.faults.lab.bench import Bench
from tests.faults.lab.health import ask, is_ready
from tests.faults.lab.ledger import now
from tests.faults.lab.scale import scaled
from tests.faults.lab.waiting import LOOK, until
from tests.servers import free_port

TASKS = scaled(3000, 20_000)
LIMIT = TASKS // 10
MEMORY = 160  # MiB
HOARDED = 60 * 1024 * 1024  # bytes for each hoarding task
LOAD = scaled(200, 400)
LONGEST = scaled(1.5, 20.0)  # seconds


async def test_processes_are_replaced_after_so_many_tasks_without_a_gap(
    bench: Bench[Bed], report: Report
) -> None:
    port = free_port()
    bench.configure(concurrency=20)
    async with bench.app() as app:
        crew = await bench.hired_crew(1, "--max-tasks-per-child", str(LIMIT), "--health", str(port))
        await until(lambda: is_ready(port), 60, "it is ready")
        answers: list[int] = []
        async with anyio.create_task_group() as group:
            group.start_soon(keep_asking, port, answers)
            await bench.send(app, TASKS, seconds=0.03)
            await bench.settled()
            group.cancel_scope.cancel()

        findings = await bench.audit_all()
    log = crew.log()
    report(findings, replacements=log.count("takes over"), asked=len(answers))
    assert findings.ok == TASKS
    assert len(bench.starts()) == TASKS  # each of them once
    assert log.count("takes over") >= 2
    assert "was killed" not in log
    assert len(answers) > 20
    assert all(status == 200 for status in answers), answers
    assert crew.exit_code == 0


async def test_a_process_that_takes_much_memory_is_replaced_and_its_tasks_end(
    bench: Bench[Bed], report: Report
) -> None:
    gate = bench.directory / "gate"
    async with bench.app() as app:
        crew = await bench.hired_crew(1, "--max-memory-per-child", str(MEMORY))
        [first] = crew.members()
        await bench.send(app, 1, task="gated", gate=str(gate))
        await until(lambda: len(bench.starts()) == 1, 60, "it runs")
        await bench.send(app, MEMORY * 1024 * 1024 // HOARDED + 1, task="hoard", size=HOARDED)

        await crew.says("takes over")
        await bench.send(app, 10)
        await until(lambda: any(s.pid != first for s in bench.starts()), 60, "the next one works")
        gate.touch()

        findings = await bench.audit_all()
    report(findings)
    assert len(bench.starts()) == len(bench.accepted)  # each of them once
    assert bench.value(bench.accepted[0]).startswith(f"{first}-")
    assert f"(pid {first}) takes " in crew.log()
    assert "was killed" not in crew.log()


@pytest.mark.parametrize("by", ["SIGTERM", "Ctrl-C"])
async def test_processes_that_are_told_to_stop_lose_and_repeat_nothing(
    bench: Bench[Bed], report: Report, by: str
) -> None:
    chance = random.Random(7)
    async with bench.app() as app:
        crew = await bench.hired_crew(2, concurrency=LOAD // 4)
        for _ in range(LOAD):
            await bench.send(app, 1, seconds=chance.uniform(0.1, LONGEST))
        await until(lambda: len(bench.starts()) > LOAD // 2, 60, "they run")

        told_at = now()
        if by == "SIGTERM":
            crew.send(signal.SIGTERM)
        else:
            crew.interrupt()  # it reaches the supervisor and each process, and is one order
        code = await crew.end()
        took = now() - told_at

        left = await bench.audit()
        cut_short = len(bench.starts()) - len(bench.ended())
        await bench.hired()
        findings = await bench.audit_all()
    report(findings, took=took, cut_short=cut_short)
    assert code == 0
    assert findings.ok == len(bench.starts()) == LOAD, crew.log()
    assert cut_short == 0
    assert not left.in_flight
    assert not left.suspects


async def test_the_second_signal_cancels_what_all_processes_run(
    bench: Bench[Bed], report: Report
) -> None:
    async with bench.app() as app:
        crew = await bench.hired_crew(2, grace=600.0, concurrency=10)
        await bench.send(app, 20, seconds=3600.0)
        await until(lambda: len(bench.starts()) == 20, 60, "they run")

        crew.interrupt()
        await crew.says("no new tasks")
        told_at = now()
        crew.interrupt()
        code = await crew.end()
        took = now() - told_at

        audit = await bench.audit()
    report(took=took)
    assert code == 0
    assert took < 10
    bench.see_that_these_are(audit.waiting, bench.accepted)
    assert not audit.in_flight
    assert not audit.suspects
    assert not audit.faults


async def test_the_third_signal_ends_processes_that_do_not_listen_and_frees_what_they_held(
    bench: Bench[Bed], report: Report
) -> None:
    bench.configure(lease=600.0)
    async with bench.app() as app:
        crew = await bench.hired_crew(2, grace=600.0)
        await bench.send(app, 1, task="stubborn")
        await bench.send(app, 1, task="block", seconds=600.0)
        await until(lambda: len(bench.starts()) == 2, 60, "they run")

        crew.send(signal.SIGTERM)
        await crew.says("no new tasks")
        crew.send(signal.SIGINT)
        await crew.says("cancelling what runs")
        told_at = now()
        crew.send(signal.SIGTERM)
        code = await crew.end()
        took = now() - told_at

        audit = await bench.audit()
    report(took=took)
    assert code == 1
    assert took < 2
    bench.see_that_these_are(audit.waiting, bench.accepted)
    assert not audit.in_flight
    assert not audit.faults


async def test_a_process_that_cannot_hear_is_killed_when_its_grace_is_over(
    server_bench: Bench[ServerBed], report: Report
) -> None:
    bench = server_bench
    bench.configure(lease=600.0, grace=1.0)
    async with bench.app() as app:
        crew = await bench.hired_crew(1)
        [result] = await bench.send(app, 1, task="block", seconds=600.0)
        await until(lambda: bool(bench.starts()), 60, "it runs")

        told_at = now()
        crew.send(signal.SIGTERM)
        code = await crew.end()
        took = now() - told_at

        audit = await bench.audit()
    report(took=took)
    assert code == 1
    assert took < 10
    assert "does not respond to being told to end" in crew.log()
    bench.see_that_these_are(audit.waiting, [result.id])
    assert not audit.faults


async def test_readiness_follows_the_broker_and_the_drain(
    server_bench: Bench[ServerBed], report: Report
) -> None:
    bench = server_bench
    port, gate = free_port(), bench.directory / "gate"
    async with bench.app() as app:
        crew = await bench.hired_crew(2, "--health", str(port))
        await until(lambda: ask(port, "/ready")[1].get("consuming") == 2, 60, "both consume")
        healthy = ask(port, "/live")

        await anyio.sleep(bench.bed.durable_after)
        bench.bed.crash()
        broken_at = now()
        await until(lambda: not is_ready(port), 60, "the broker is missed")
        missed = now() - broken_at
        alive_without = ask(port, "/live")
        bench.bed.restore()
        restored_at = now()
        await until(lambda: is_ready(port), 60, "it consumes again")
        resumed = now() - restored_at

        await bench.send(app, 1, task="gated", gate=str(gate))
        await until(lambda: bool(bench.starts()), 60, "it runs")
        crew.send(signal.SIGTERM)
        await until(lambda: not is_ready(port), 60, "it drains")
        draining, alive_at_the_end = ask(port, "/ready"), ask(port, "/live")
        unknown = ask(port, "/metrics")
        gate.touch()
        code = await crew.end()
        findings = await bench.audit_all()
    report(findings, missed=missed, resumed=resumed)
    assert healthy == (200, {"live": True, "stuck": 0, "processes": 2})
    assert alive_without[0] == alive_at_the_end[0] == 200
    assert draining == (503, {"ready": False, "consuming": 0, "processes": 2})
    assert unknown == (404, {})
    assert missed < 2.0
    assert resumed < 5.0
    assert code == 0


async def keep_asking(port: int, answers: list[int]) -> None:
    """Ask again and again whether it is ready, until cancelled."""
    while True:
        status, _ = await to_thread.run_sync(ask, port, "/ready")
        answers.append(status)
        await anyio.sleep(LOOK)
