"""Chords, made by hand: each has one end, whoever dies or stands still."""

import signal
from typing import Any

import anyio

from asyncq.client.result import Result
from asyncq.language.message import Succeeded, derived_id
from tests.faults.conftest import Report
from tests.faults.lab.beds import Bed, ServerBed
from tests.faults.lab.bench import Bench
from tests.faults.lab.crash_points import APART, FOLLOWING, LATCHES
from tests.faults.lab.doomed import see_dead
from tests.faults.lab.scale import scaled
from tests.faults.lab.waiting import until
from tests.faults.test_follow_ups import PATIENCE, either_bench, see_that_all_followed
from tests.faults.test_server_deaths import die

__all__ = ["either_bench"]  # a fixture

ROUNDS = scaled(1, 5)
FORKS = scaled(40, 400)
STILL = scaled(10, 100)


async def test_a_worker_may_die_between_any_two_steps_of_a_latch(
    either_bench: Bench[Bed], report: Report
) -> None:
    bench = either_bench
    is_one_store = bench.backend == bench.bed.url
    bench.configure(lease=2.0, concurrency=8, max_crashes=1000)
    points = [*LATCHES, *FOLLOWING, "settling", "settled"]
    if not is_one_store:
        points += APART
    in_vain: list[str] = []
    async with bench.app() as app:

        async def send() -> None:
            await bench.send(app, 2, "fork")
            in_vain.extend(ids_of(await bench.send(app, 1, "fork_in_vain")))

        for _ in range(ROUNDS):
            await see_dead(bench, points, send)

        await bench.hired()
        findings = await see_that_all_followed(bench)
    report(findings, points=len(points), deaths=ROUNDS * len(points))
    see_that_no_body_ran(bench, in_vain)


async def test_what_a_dead_sender_leaves_is_sent_by_another(
    either_bench: Bench[Bed], report: Report
) -> None:
    """After its death between apply and sending, between two pages, and before one is confirmed."""
    bench = either_bench
    is_one_store = bench.backend == bench.bed.url
    bench.configure(lease=2.0, concurrency=8, max_crashes=1000)
    async with bench.app() as app:

        async def send() -> None:
            await bench.send(app, 1, "fan")

        for point in ("applied", "page-read", "page-sent"):
            await see_dead(bench, [point], send, rhythm=1.0)
        await bench.hired()
        findings = await see_that_all_followed(bench)
    report(findings)
    if bench.bed.keeps_hold and is_one_store:
        assert findings.overlapped == findings.repeated == 0, findings


async def test_a_chord_has_one_end_though_a_zombie_goes_on(
    either_bench: Bench[Bed], report: Report
) -> None:
    bench = either_bench
    bench.configure(lease=2.0, max_crashes=1000)
    async with bench.app() as app:
        still = await bench.hired()
        await bench.send(app, STILL, "fork", seconds=0.5)
        in_vain = ids_of(await bench.send(app, STILL, "fork_in_vain", seconds=0.5))
        await until(lambda: len(bench.starts()) > 0, PATIENCE, "they run")
        await still.stopped(bench.is_locked)
        await bench.hired()
        await anyio.sleep(4.0)  # its lease is over, and others have what it had
        still.send(signal.SIGCONT)
        findings = await see_that_all_followed(bench)
    report(findings, sent=2 * STILL)
    see_that_no_body_ran(bench, in_vain)


async def test_chords_outlive_kills_of_all_that_run_them(
    either_bench: Bench[Bed], report: Report
) -> None:
    bench = either_bench
    bench.configure(lease=2.0, max_crashes=1000)
    in_vain: list[str] = []
    async with bench.app() as app:
        for _ in range(3):
            # Some each time: a worker may do much before it is seen that it has done enough.
            await bench.send(app, FORKS // 2, "fork", seconds=0.02)
            in_vain += ids_of(await bench.send(app, FORKS // 8, "fork_in_vain", seconds=0.02))
            seen = len(bench.ended())
            worker = await bench.hired()
            await until(lambda: len(bench.ended()) > seen + FORKS // 2, PATIENCE, "some end")  # noqa: B023 - called at once
            worker.kill()
        await bench.hired()
        findings = await see_that_all_followed(bench)
    report(findings)
    see_that_no_body_ran(bench, in_vain)


async def test_chords_outlive_deaths_of_their_server(
    server_bench: Bench[ServerBed], report: Report
) -> None:
    bench = server_bench
    bench.configure(lease=2.0, max_crashes=1000)
    async with bench.app() as app:
        await bench.hired()
        await bench.send(app, 1, "fork")
        await until(lambda: bool(bench.ended()), PATIENCE, "a task runs")
        await anyio.sleep(bench.bed.durable_after)
        in_vain: list[str] = []
        for _ in range(2):
            await bench.send(app, FORKS, "fork", seconds=0.02)
            in_vain += ids_of(await bench.send(app, FORKS // 4, "fork_in_vain", seconds=0.02))
            seen = len(bench.ended())
            await until(lambda: len(bench.ended()) > seen + FORKS // 2, PATIENCE, "some end")  # noqa: B023 - called at once
            await die(bench, 0.5)
        findings = await see_that_all_followed(bench)
    report(findings)
    see_that_no_body_ran(bench, in_vain)


async def test_a_part_that_takes_its_workers_down_fails_its_chord(
    either_bench: Bench[Bed], report: Report
) -> None:
    bench = either_bench
    bench.configure(lease=2.0, max_crashes=3)
    async with bench.app() as app:
        crew = await bench.hired_crew(2)
        # One: another that runs for the first time would be charged to whom it runs beside.
        poisoned = ids_of(await bench.send(app, 1, "fork_with_poison"))
        await bench.send(app, 4, "fork")
        findings = await see_that_all_followed(bench)
    report(findings)
    see_that_no_body_ran(bench, poisoned)
    # Whatever ran beside it is unharmed, and who sent it has ended well.
    assert all(isinstance(bench.records[id].outcome, Succeeded) for id in bench.accepted)
    assert crew.exit_code == 0


def see_that_no_body_ran(bench: Bench[Any], roots: list[str]) -> None:
    assert roots
    assert not {derived_id(root, "body") for root in roots} & {start.id for start in bench.starts()}


def ids_of(results: list[Result[Any]]) -> list[str]:
    return [result.id for result in results]
