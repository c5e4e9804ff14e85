"""A flood of cancellations: no worker becomes large by it, and other work goes on."""

from pathlib import Path

import anyio

from asyncq import Cancellation
from asyncq.language.marks import KIND
from tests.faults.conftest import Report
from tests.faults.lab.beds import Bed
from tests.faults.lab.bench import Bench
from tests.faults.lab.ledger import now
from tests.faults.lab.scale import scaled
from tests.faults.lab.waiting import until

FLOOD = scaled(5_000, 100_000)  # messages that are cancelled
AT_A_TIME = 1000
GROWTH = 20 * 1024 * 1024  # bytes
WARM = 500  # tasks until a worker is as large as it gets
PATIENCE = 120.0
PAUSE = 5.0  # seconds that another task takes from call to result meanwhile, at most


def memory(pid: int) -> int:
    """What a process has resident, in bytes."""
    status = Path(f"/proc/{pid}/status").read_text()
    [line] = [line for line in status.splitlines() if line.startswith("VmRSS:")]
    return int(line.split()[1]) * 1024


async def test_a_flood_of_cancellations_makes_no_worker_large_and_stops_no_other_work(
    bench: Bench[Bed], report: Report
) -> None:
    if not bench.bed.knows_ids:
        bench.keep_outcomes_apart()  # where marks are kept
    async with bench.app() as app:
        worker = await bench.hired()
        await bench.send(app, WARM)
        await bench.settled()
        before = memory(worker.pid)

        doomed = await app.enqueue_many(
            app.tasks["work"].options(delay=3600).s() for _ in range(FLOOD)
        )
        answers: dict[str, Cancellation] = {}
        pauses: list[float] = []

        async def work_on() -> None:
            while True:
                began = now()
                [result] = await bench.send(app, 1)
                await result.get(timeout=PATIENCE)
                pauses.append(now() - began)

        began, took = now(), 0.0
        async with anyio.create_task_group() as working:
            working.start_soon(work_on)
            for start in range(0, FLOOD, AT_A_TIME):
                answers |= await app.cancel(doomed[start : start + AT_A_TIME], "all of it")
            took = now() - began
            await until(lambda: bool(pauses), PATIENCE, "something else has run")
            working.cancel_scope.cancel()
        registry = app.client.backend.offers.registry
        assert registry is not None
        marks = await registry.list(KIND, limit=1)
        await bench.settled()
        grown = memory(worker.pid) - before
    report(cancelled=FLOOD, took=took, grown=grown, others=len(pauses), longest=max(pauses))
    assert set(answers.values()) == {Cancellation.CANCELLED}
    assert len(answers) == FLOOD
    assert marks.entries
    assert grown < GROWTH
    assert max(pauses) < PAUSE
    assert worker.exit_code is None
