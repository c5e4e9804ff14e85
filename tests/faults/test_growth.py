"""Chords that grow: parts that add others to them, whoever dies, and whoever is quicker."""

from typing import Any

import anyio

from asyncq import App
from tests.chords import ledger_of
from tests.faults.conftest import Report
from tests.faults.lab.beds import Bed
from tests.faults.lab.bench import Bench
from tests.faults.lab.crash_points import APART
from tests.faults.lab.doomed import see_dead
from tests.faults.lab.ledger import Ended, Follows
from tests.faults.lab.scale import scaled
from tests.faults.lab.waiting import until
from tests.faults.test_follow_ups import PATIENCE, either_bench, see_that_all_followed

__all__ = ["either_bench"]  # a fixture

ROUNDS = scaled(1, 5)
RHYTHM = 0.1  # seconds
CHORDS = scaled(10, 200)
# From a part's record, which says what it adds, until its children are sent and it is settled.
POINTS = ("applying", "applied", "next-sent", "next-stored", "settling", "settled")


async def test_a_part_that_adds_others_may_die_between_its_record_and_its_children(
    either_bench: Bench[Bed], report: Report
) -> None:
    bench = either_bench
    bench.configure(lease=2.0, concurrency=8, max_crashes=1000)
    points = POINTS if bench.backend == bench.bed.url else (*POINTS, *APART)
    async with bench.app() as app:

        async def send() -> None:
            await bench.send(app, 1, "fork_and_grow")

        for _ in range(ROUNDS):
            await see_dead(bench, points, send)

        await bench.hired()
        findings = await see_that_all_followed(bench)
    report(findings, points=len(points), deaths=ROUNDS * len(points))
    see_that_bodies_came_last(bench)


async def test_children_may_arrive_before_they_are_added_and_a_chord_grow_when_all_else_has_ended(
    either_bench: Bench[Bed], report: Report
) -> None:
    bench = either_bench
    bench.configure(concurrency=5 * CHORDS)  # a part of each waits in a slot
    gate = bench.directory / "gate"
    async with bench.app() as app:
        for _ in range(2):
            await bench.hired()
        sent = await bench.send(app, CHORDS, "fork_and_grow", early=True, gate=str(gate))
        roots = [each.id for each in sent]
        with anyio.fail_after(PATIENCE):
            while await missing(app, roots) != [1] * CHORDS:  # noqa: ASYNC110 - of other processes
                await anyio.sleep(RHYTHM)
        await until(
            lambda: len(bench.starts()) - len(bench.ended()) == CHORDS, PATIENCE, "one part is left"
        )
        gate.touch()
        findings = await see_that_all_followed(bench)
    report(findings)
    see_that_bodies_came_last(bench)


async def missing(app: App, latches: list[str]) -> list[int | None]:
    """How many parts each waits for; None of one that is not there yet."""
    return [state and state.missing for state in await ledger_of(app).look(latches)]


def see_that_bodies_came_last(bench: Bench[Any]) -> None:
    """No body began before a run of every other task of its chord had ended."""
    entries = bench.ledger.entries()
    begun: dict[str, float] = {}
    for start in bench.starts():
        begun.setdefault(start.id, start.at)
    ended: dict[str, float] = {}
    for entry in entries:
        if isinstance(entry, Ended):
            ended.setdefault(entry.id, entry.at)
    chords = [entry.ids for entry in entries if isinstance(entry, Follows)]
    assert chords
    for body, *others in chords:
        assert begun[body] > max(ended[each] for each in others)
