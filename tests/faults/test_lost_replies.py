"""One question or one reply that gets lost, at the worst moment."""

import pytest

from tests.faults.conftest import Report
from tests.faults.lab.beds import ServerBed
from tests.faults.lab.bench import Bench
from tests.faults.lab.checker import Findings
from tests.faults.lab.proxy import Proxy, Trap

TASKS = 20


@pytest.mark.parametrize("step", ["publish", "claim", "settle"])
async def test_a_lost_reply_changes_nothing(
    server_bench: Bench[ServerBed], proxy: Proxy, report: Report, step: str
) -> None:
    findings = await lose(server_bench, proxy, "work", Trap(server_bench.bed.words[step]))

    report(findings)
    assert_starts(server_bench, 2 * TASKS)


async def test_a_claim_whose_giving_back_is_lost_too_is_given_back_at_last(
    server_bench: Bench[ServerBed], proxy: Proxy, report: Report
) -> None:
    words = server_bench.bed.words
    traps = Trap(words["claim"]), Trap(words["give_back"], loses="question")

    findings = await lose(server_bench, proxy, "work", *traps)

    report(findings)
    assert_starts(server_bench, 2 * TASKS)


async def test_a_retry_whose_reply_is_lost_in_silence_runs_each_attempt_once(
    server_bench: Bench[ServerBed], proxy: Proxy, report: Report
) -> None:
    trap = Trap(server_bench.bed.words["settle"], silently=True)

    findings = await lose(server_bench, proxy, "flaky", trap)

    report(findings)
    assert_starts(server_bench, 3 * 2 * TASKS)


def assert_starts(bench: Bench[ServerBed], count: int) -> None:
    starts = len(bench.starts())
    assert starts == count if bench.bed.keeps_hold else starts >= count


async def lose(bench: Bench[ServerBed], proxy: Proxy, task: str, *traps: Trap) -> Findings:
    """What became of some tasks, with these traps set once a worker is busy."""
    url = bench.bed.url_through(proxy.port)
    async with bench.app(url) as app:
        await bench.hired(url)
        await bench.send(app, TASKS, task)
        await bench.settled()

        for trap in traps:
            proxy.set_trap(trap)
        await bench.send(app, TASKS, task)
        findings = await bench.audit_all()

    assert proxy.lost == len(traps)
    assert findings.ok == 2 * TASKS
    bench.see_no_repetition(findings)
    return findings
