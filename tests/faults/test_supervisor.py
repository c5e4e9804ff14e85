"""Workers under a supervisor: what dies, what stands still, and what is replaced."""

from functools import partial

import anyio
import pytest

from asyncq import TaskFailed
from asyncq.config import Config
from tests.faults.conftest import Report
from tests.faults.lab.beds import Bed
from tests.faults.lab.bench import Bench
from tests.faults.lab.health import ask
from tests.faults.lab.ledger import now
from tests.faults.lab.scale import scaled
from tests.faults.lab.waiting import until
from tests.faults.lab.workers import is_alive
from tests.servers import free_port

KILLS = scaled(6, 20)
LEASE = scaled(3.0, Config().lease)  # seconds
STALL = scaled(3.0, 30.0)
HELD = 20
MACHINE = 100  # tasks in hand when a machine dies
NEIGHBOURS = 100


async def test_what_a_killed_process_held_runs_at_once_and_nothing_else_runs_again(
    bench: Bench[Bed], report: Report
) -> None:
    bench.configure(lease=60.0, concurrency=HELD)  # no lease runs out in this experiment
    cut: set[str] = set()
    async with bench.app() as app:
        crew = await bench.hired_crew(2)
        async with anyio.create_task_group() as producing:
            producing.start_soon(partial(bench.keep_busy, app, seconds=0.05))
            for number in range(KILLS):
                await crew.until_consuming(2)
                victim = crew.members()[number % 2]
                cut.update(await crew.stopped_at_work(victim))
                await crew.kill_member(victim)
                await until(lambda: cut <= bench.ended(), 60, "what it ran has ended elsewhere")
            await crew.until_consuming(2)  # a death that is seen while they end is no clean end
            producing.cancel_scope.cancel()

        findings = await bench.audit_all()
    report(findings, kills=KILLS)
    assert findings.ok == findings.acknowledged
    assert findings.recovered == len(cut)
    if bench.bed.keeps_hold:
        assert findings.repeated == findings.overlapped == 0, findings
    assert len(bench.starts()) <= len({start.id for start in bench.starts()}) + KILLS * HELD
    assert findings.t_recover_p99 < scaled(3.0, 1.0), findings
    assert crew.exit_code == 0


async def test_what_a_killed_machine_held_runs_elsewhere_within_the_lease_and_a_second(
    bench: Bench[Bed], report: Report
) -> None:
    bench.configure(lease=LEASE, concurrency=MACHINE // 2)
    async with bench.app() as app:
        doomed = await bench.hired_crew(2)
        await bench.send(app, MACHINE, seconds=3600.0)
        await until(lambda: len(bench.starts()) == MACHINE, 60, "all of them run")
        await bench.hired_crew(2, concurrency=MACHINE)
        killed_at = now()

        doomed.kill()
        await until(lambda: len(bench.starts()) == MACHINE * 2, 60, "all of them run elsewhere")
        took = [start.at - killed_at for start in bench.starts()[MACHINE:]]

        audit = await bench.audit()
    report(first=min(took), last=max(took), lease=LEASE)
    bench.see_that_these_are(audit.in_flight, bench.accepted)
    assert not audit.faults
    if bench.bed.keeps_hold:
        assert min(took) > LEASE / 2
        assert max(took) < LEASE + 1.0
    else:
        assert max(took) < 1.0  # its server sees at once who is gone


async def test_processes_whose_supervisor_died_keep_their_leases_and_drain(
    bench: Bench[Bed], report: Report
) -> None:
    bench.configure(lease=1.0)
    gate = bench.directory / "gate"
    async with bench.app() as app:
        orphans = await bench.hired_crew(2)
        await bench.send(app, HELD, task="gated", gate=str(gate))
        await until(lambda: len(bench.starts()) == HELD, 60, "all of them run")
        pids = orphans.members()
        other = await bench.hired_crew(1)

        killed_at = now()
        orphans.kill_supervisor()
        await until(lambda: orphans.log().count("the supervisor is gone: ") == 2, 60, "they notice")
        noticed = now() - killed_at
        await bench.send(app, HELD)
        await until(lambda: len(bench.ended()) == HELD, 60, "others work on")
        await until(lambda: now() > killed_at + 3.0, 60, "three leases have passed")
        gate.touch()

        await until(lambda: not any(map(is_alive, pids)), 60, "they leave")
        findings = await bench.audit_all()
    report(findings, noticed=noticed)
    assert findings.ok == 2 * HELD
    assert len(bench.starts()) == 2 * HELD  # each of them once
    assert {start.pid for start in bench.starts()[HELD:]} <= {*other.members(), *_pids(bench)}
    assert noticed < 1.0
    assert "Traceback" not in orphans.log()


@pytest.mark.parametrize("task", ["block", "crunch", "grind"])
async def test_a_process_that_stands_still_keeps_its_lease_and_is_named_within_a_second(
    bench: Bench[Bed], report: Report, task: str
) -> None:
    bench.configure(lease=1.5)
    async with bench.app() as app:
        crew = await bench.hired_crew(2)
        [result] = await bench.send(app, 1, task=task, seconds=STALL)
        await until(lambda: bool(bench.starts(result.id)), 60, "it runs")
        await crew.says(f" in {task}")  # others are told of, too, that lacked this machine's time
        named = now() - bench.starts(result.id)[0].at
        log = crew.log()
        await bench.settled()
        await crew.says("runs again")

        findings = await bench.audit_all()
    report(findings, named=named)
    assert len(bench.starts()) == 1
    if task != "grind":  # that has no place on the loop, which could tell whose it is
        assert f" s in task {task}[{result.id}]: it is to await" in log
    [place] = [line for line in log.splitlines() if line.endswith(f" in {task}")]
    assert "tasks.py:" in place
    assert "lost its lease" not in crew.log()
    assert named < 3.0  # a second; on a busy machine the supervisor itself has to wait


async def test_a_process_that_stands_still_for_too_long_is_given_up_and_fenced(
    bench: Bench[Bed], report: Report
) -> None:
    if not bench.bed.keeps_hold:
        pytest.skip("its lease is its connection, which a loop that stands still does not end")
    port = free_port()
    bench.configure(lease=1.0, stall_limit=1.0)
    gate = bench.directory / "gate"
    async with bench.app() as app:
        crew = await bench.hired_crew(1, "--health", str(port))
        [result] = await bench.send(app, 1, task="halt", gate=str(gate))
        await until(lambda: bool(bench.starts(result.id)), 60, "it runs")
        other = await bench.hired_crew(1, stall_limit=60.0)

        await until(lambda: ask(port, "/live")[0] == 503, 60, "it is given up")
        await until(lambda: len(bench.starts(result.id)) == 2, 60, "it runs elsewhere")
        gate.touch()
        await bench.settled()
        await crew.says("restarting under a new one")
        await until(lambda: ask(port, "/ready")[0] == 200, 60, "it works again")

        findings = await bench.audit_all()
    report(findings)
    last = bench.starts(result.id)[-1]
    assert last.pid != bench.starts(result.id)[0].pid
    assert bench.value(result.id) == last.run
    assert (crew.exit_code, other.exit_code) == (0, 0)


@pytest.mark.parametrize("kind", ["abort", "segfault", "memory"])
async def test_a_poison_runs_three_times_and_its_neighbours_are_unharmed(
    bench: Bench[Bed], report: Report, kind: str
) -> None:
    bench.configure(lease=60.0, concurrency=NEIGHBOURS * 2)
    async with bench.app() as app:
        await bench.send(app, NEIGHBOURS, seconds=0.02)
        [culprit] = await bench.send(app, 1, task="poison", kind=kind)
        await bench.send(app, NEIGHBOURS, seconds=0.02)

        sent_at = now()
        crew = await bench.hired_crew(2)
        with pytest.raises(TaskFailed) as failure:
            await culprit.get(timeout=60)
        took = now() - sent_at

        findings = await bench.audit_all(dead=1)
        [letter] = await bench.dead_letters(app)
    report(findings, took=took)
    name = {"abort": "SIGABRT", "segfault": "SIGSEGV", "memory": "SIGKILL"}[kind]
    assert crew.log().count(f"was killed by {name}") == 3
    assert len(bench.starts(culprit.id)) == 3
    assert findings.ok == 2 * NEIGHBOURS
    assert failure.value.type == "WorkerCrashed"
    assert (letter.envelope.id, letter.crashes) == (culprit.id, 3)
    assert letter.reason == "WorkerCrashed: 3 workers died while they ran it"


async def test_a_process_that_dies_as_it_begins_is_started_less_and_less_often(
    bench: Bench[Bed], report: Report
) -> None:
    plague = bench.directory / "plague"
    async with bench.app() as app:
        crew = await bench.hired_crew(1)
        plagued = bench.hire_crew(1, plague=plague)
        await plagued.until_consuming(1)
        plague.touch()
        [pid] = plagued.members()

        await plagued.kill_member(pid)
        await plagued.says("the next is started in 0.8 s")
        plague.unlink()
        await plagued.until_consuming(1)

        await bench.send(app, 10)
        findings = await bench.audit_all()
    report(findings)
    pauses = [
        line.rpartition("; ")[2] for line in plagued.log().splitlines() if "; the next" in line
    ]
    expected = ["", " in 0.2 s", " in 0.4 s", " in 0.8 s"]
    assert pauses[-4:] == [f"the next is started{pause}" for pause in expected]
    assert "exited with code 7" in plagued.log()
    assert (crew.exit_code, plagued.exit_code) == (0, 0)


def _pids(bench: Bench[Bed]) -> set[int]:
    return {start.pid for start in bench.starts()}
