"""What follows from a task: once, from the outcome that stands, whoever dies or stands still."""

import signal
from collections.abc import Sequence
from typing import Any

import anyio
import pytest

from asyncq.language.message import Succeeded
from tests.faults.conftest import Report
from tests.faults.lab.beds import Bed
from tests.faults.lab.bench import Bench
from tests.faults.lab.checker import Findings
from tests.faults.lab.crash_points import APART, FOLLOWING
from tests.faults.lab.doomed import see_dead
from tests.faults.lab.ledger import Accepted, Follows, now
from tests.faults.lab.scale import scaled
from tests.faults.lab.waiting import until

ROUNDS = scaled(1, 5)
EACH = 6  # tasks at a time
PATIENCE = 90.0
TASKS = scaled(300, 3000)
STILL = scaled(20, 100)


@pytest.fixture(params=[False, True], ids=["one-store", "two-stores"])
def either_bench(bench: Bench[Bed], request: pytest.FixtureRequest) -> Bench[Bed]:
    if request.param:
        bench.keep_outcomes_apart()
    return bench


async def test_a_worker_may_die_between_an_outcome_and_what_follows(
    either_bench: Bench[Bed], report: Report
) -> None:
    bench = either_bench
    is_one_store = bench.backend == bench.bed.url
    bench.configure(lease=2.0, concurrency=8, max_crashes=1000)
    points = [*FOLLOWING, "next-sent", "next-stored", "settling", "settled"]
    if not is_one_store:
        points += APART
    async with bench.app() as app:

        async def send() -> None:
            await bench.send(app, EACH, "follow")
            await bench.send(app, 1, "follow_in_vain")

        for _ in range(ROUNDS):
            await see_dead(bench, points, send)

        await bench.hired()
        findings = await see_that_all_followed(bench)
    report(findings, points=len(points), deaths=ROUNDS * len(points))
    if bench.bed.keeps_hold and is_one_store:
        assert findings.overlapped == findings.repeated == 0, findings


async def test_what_follows_is_sent_once_though_a_zombie_ends_its_tasks_late(
    either_bench: Bench[Bed], report: Report
) -> None:
    bench = either_bench
    bench.configure(lease=2.0, max_crashes=1000)
    async with bench.app() as app:
        still = await bench.hired()
        sent = await bench.send(app, STILL, "follow", seconds=0.5)
        await until(lambda: len(bench.starts()) > 0, PATIENCE, "they run")
        await still.stopped(bench.is_locked)
        await bench.hired()
        await anyio.sleep(4.0)  # its lease is over, and others have what it had
        still.send(signal.SIGCONT)
        findings = await see_that_all_followed(bench)
    report(findings, sent=len(sent))


async def test_what_follows_outlives_kills_of_all_that_run_it(
    either_bench: Bench[Bed], report: Report
) -> None:
    bench = either_bench
    bench.configure(lease=2.0, max_crashes=1000)
    async with bench.app() as app:
        await bench.send(app, TASKS, "follow", seconds=0.02)
        for _ in range(3):
            worker = await bench.hired()
            seen = len(bench.ended())
            await until(lambda: len(bench.ended()) > seen + TASKS // 10, PATIENCE, "some end")  # noqa: B023 - called at once
            worker.kill()
        await bench.hired()
        findings = await see_that_all_followed(bench)
    report(findings)


async def see_that_all_followed(bench: Bench[Any]) -> Findings:
    """Let all come to its end: each that succeeded has its followers, and nothing else ran."""
    await bench.settled()
    parents = [id for id in bench.accepted if isinstance(bench.records[id].outcome, Succeeded)]
    assert parents
    wanted = [entry for entry in bench.ledger.entries() if isinstance(entry, Follows)]
    by_parent = {entry.id: entry.ids for entry in wanted}
    assert all(by_parent[entry.id] == entry.ids for entry in wanted)  # whichever run it was
    followers = [id for parent in parents for id in by_parent[parent]]
    note_accepted(bench, followers)
    findings = await bench.audit_all(dead=None)
    assert all(isinstance(bench.records[id].outcome, Succeeded) for id in followers)
    return findings


def note_accepted(bench: Bench[Any], ids: Sequence[str]) -> None:
    """From now on their outcomes are missed."""
    bench.ledger.write(Accepted([*ids], now()))
