"""What is cancelled ends once, as its canceller was told, whoever dies meanwhile."""

import random
from collections.abc import Sequence
from typing import Any

import anyio
import msgspec

from asyncq import App, Cancellation, Result
from asyncq.language.message import Cancelled, Succeeded
from tests.faults.conftest import Report
from tests.faults.lab.beds import Bed
from tests.faults.lab.bench import Bench
from tests.faults.lab.checker import Findings
from tests.faults.lab.crash_points import APART, CANCELLING
from tests.faults.lab.doomed import see_dead
from tests.faults.lab.ledger import now
from tests.faults.lab.scale import scaled
from tests.faults.lab.waiting import until
from tests.faults.test_follow_ups import PATIENCE, either_bench

__all__ = ["either_bench"]  # a fixture

ROUNDS = scaled(1, 5)
EACH = 4  # tasks at a time: few enough that they run at once
RHYTHM = 0.1  # seconds from sending some to cancelling half of them
DELAY = 0.3  # seconds, of as many others: they are cancelled before somebody comes to them
TASKS = scaled(300, 3000)
LATER = 1.0  # seconds after an answer, from which on nothing begins that was cancelled


class Answer(msgspec.Struct, frozen=True):
    """What a canceller was told, and when."""

    what: Cancellation
    at: float


Answers = dict[str, Answer]


async def cancel(app: App, results: Sequence[Result[Any]], answers: Answers) -> None:
    told = await app.cancel(results, "nobody needs it")
    answers.update({id: Answer(what, now()) for id, what in told.items() if id not in answers})


async def see_that_answers_were_true(bench: Bench[Any], answers: Answers) -> Findings:
    """Let all come to its end."""
    findings = await bench.audit_all()
    for id in bench.accepted:
        outcome = bench.records[id].outcome
        match answers[id].what if id in answers else None:
            case Cancellation.CANCELLED:
                assert isinstance(outcome, Cancelled), outcome
                late = [each for each in bench.starts(id) if each.at > answers[id].at + LATER]
                assert not late
            case Cancellation.ASKED:
                assert isinstance(outcome, Cancelled | Succeeded), outcome
            case Cancellation.ENDED | None:
                assert isinstance(outcome, Succeeded), outcome
            case Cancellation.UNKNOWN:
                raise AssertionError(f"{id} was not known")
    return findings


def counts(answers: Answers) -> dict[str, int]:
    return {
        what.value: sum(answer.what is what for answer in answers.values()) for what in Cancellation
    }


async def test_a_worker_may_die_at_any_step_of_a_cancellation(
    either_bench: Bench[Bed], report: Report
) -> None:
    bench = either_bench
    bench.configure(lease=2.0, concurrency=8, max_crashes=1000)
    points = [*CANCELLING, "message-read", "settling", "settled"]
    if bench.backend != bench.bed.url:
        points += APART
    answers: Answers = {}
    async with bench.app() as app:

        async def send() -> None:
            sent = await bench.send(app, EACH, seconds=0.15)
            sent += await bench.send(app, EACH, delay=DELAY, seconds=0.15)
            await anyio.sleep(RHYTHM)
            await cancel(app, sent[::2], answers)

        for _ in range(ROUNDS):
            await see_dead(bench, points, send, rhythm=0)  # it waits itself
        await bench.hired()
        findings = await see_that_answers_were_true(bench, answers)
    report(findings, deaths=ROUNDS * len(points), **counts(answers))


async def test_what_is_cancelled_ends_so_though_all_that_run_it_are_killed(
    either_bench: Bench[Bed], report: Report
) -> None:
    bench = either_bench
    bench.configure(lease=2.0, max_crashes=1000)
    answers: Answers = {}
    async with bench.app() as app:
        sent = await bench.send(app, TASKS, seconds=0.05)
        random.shuffle(sent)
        doomed = sent[: TASKS // 2]
        for _ in range(3):
            worker = await bench.hired()
            seen = len(bench.ended())
            some, doomed = doomed[: TASKS // 8], doomed[TASKS // 8 :]
            async with anyio.create_task_group() as group:
                for start in range(0, len(some), 5):
                    group.start_soon(cancel, app, some[start : start + 5], answers)
                    await anyio.sleep(0.005)
                await until(lambda: len(bench.ended()) > seen + TASKS // 20, PATIENCE, "some end")  # noqa: B023 - called at once
                worker.kill()
        await bench.hired()
        await cancel(app, doomed, answers)
        findings = await see_that_answers_were_true(bench, answers)
    report(findings, **counts(answers))


async def test_who_cancels_may_break_off_and_do_it_again(
    either_bench: Bench[Bed], report: Report
) -> None:
    bench = either_bench
    answers: Answers = {}
    async with bench.app() as app:
        for worker in [bench.hire(), bench.hire()]:
            await worker.ready()
        sent = await bench.send(app, TASKS, seconds=3.0)
        for attempt in range(20):
            with anyio.move_on_after(0.001 * 1.4**attempt):
                await cancel(app, sent, {})
        await cancel(app, sent, answers)
        await bench.settled()
        assert all(isinstance(bench.records[each.id].outcome, Cancelled) for each in sent)
        ended = [id for id, answer in answers.items() if answer.what is Cancellation.ENDED]
        for id in ended:  # by one of the attempts before
            del answers[id]
            bench.accepted.remove(id)
        findings = await see_that_answers_were_true(bench, answers)
    report(findings, **counts(answers))
