"""Workers that are told to stop, politely and less so."""

import random
import signal

import pytest

from tests.faults.conftest import Report
from tests.faults.lab.beds import Bed
from tests.faults.lab.bench import Bench
from tests.faults.lab.ledger import now
from tests.faults.lab.scale import scaled
from tests.faults.lab.waiting import until

TASKS = scaled(200, 400)
LONGEST = scaled(1.5, 20.0)  # seconds
SHORT_GRACE = 0.3


@pytest.mark.parametrize("grace", [30.0, SHORT_GRACE], ids=["long-grace", "short-grace"])
async def test_a_worker_that_is_told_to_stop_loses_and_repeats_nothing(
    bench: Bench[Bed], report: Report, grace: float
) -> None:
    chance = random.Random(7)
    async with bench.app() as app:
        first = await bench.hired(grace=grace, concurrency=TASKS // 2)
        for number in range(TASKS):
            # The last are long: on a busy machine the others may have ended when all are sent.
            shortest = 0.1 if number < TASKS // 2 else LONGEST
            await bench.send(app, 1, seconds=chance.uniform(shortest, LONGEST))
        await until(lambda: len(bench.starts()) > TASKS // 2, 60, "they run")

        told_at = now()
        first.send(signal.SIGTERM)
        code = await first.end()
        took = now() - told_at

        left = await bench.audit()
        cut_short = len(bench.starts()) - len(bench.ended())
        await bench.hired()
        findings = await bench.audit_all()
    report(findings, grace=grace, took=took, cut_short=cut_short)
    assert code == 0
    assert findings.ok == TASKS
    bench.see_no_repetition(findings)
    assert not left.in_flight
    assert not left.suspects
    if grace > LONGEST:
        assert cut_short == 0
        assert len(bench.starts()) == TASKS
    else:
        assert cut_short > 0
        assert took < grace + LONGEST + 10


async def test_the_second_signal_cancels_at_once(bench: Bench[Bed], report: Report) -> None:
    async with bench.app() as app:
        first = await bench.hired(grace=600.0)
        await bench.send(app, 20, seconds=3600.0)
        await until(lambda: len(bench.starts()) == 20, 60, "they run")

        first.send(signal.SIGTERM)
        await first.says("no new tasks")
        told_at = now()
        first.send(signal.SIGTERM)
        code = await first.end()
        took = now() - told_at

        audit = await bench.audit()
    report(took=took)
    assert code == 0
    assert took < 10
    bench.see_that_these_are(audit.waiting, bench.accepted)
    assert not audit.in_flight
    assert not audit.suspects
    assert not audit.faults


async def test_a_task_that_does_not_listen_keeps_no_worker_from_stopping(
    bench: Bench[Bed], report: Report
) -> None:
    async with bench.app() as app:
        first = await bench.hired(grace=0.5)
        [result] = await bench.send(app, 1, task="stubborn")
        await until(lambda: bool(bench.starts()), 60, "it runs")

        told_at = now()
        first.send(signal.SIGTERM)
        await first.end(within=30)
        took = now() - told_at

        audit = await bench.audit()
    report(took=took)
    assert "run on although they were cancelled" in first.log()
    assert "ended: 1 task: 0 succeeded, 1 left running" in first.log()
    bench.see_that_these_are(audit.waiting, [result.id])
    assert not audit.suspects
    assert not audit.faults


async def test_the_third_signal_ends_a_worker_whose_tasks_do_not_listen(
    bench: Bench[Bed], report: Report
) -> None:
    bench.configure(lease=1.0)
    async with bench.app() as app:
        first = await bench.hired(grace=600.0)
        [result] = await bench.send(app, 1, task="stubborn")
        await until(lambda: bool(bench.starts()), 60, "it runs")

        first.send(signal.SIGTERM)
        await first.says("no new tasks")
        first.send(signal.SIGINT)
        await first.says("cancelling what runs")
        told_at = now()
        first.send(signal.SIGTERM)
        code = await first.end()
        took = now() - told_at

        second = await bench.hired()
        await until(lambda: len(bench.starts(result.id)) == 2, 60, "it runs elsewhere")
        second.kill()
        audit = await bench.audit()
    report(took=took)
    assert code == 1
    assert took < 2
    bench.see_that_these_are(audit.in_flight | audit.waiting, [result.id])
