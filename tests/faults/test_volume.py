"""Many callers at once."""

import anyio
import anyio.lowlevel

from tests.faults.conftest import Report
from tests.faults.lab.beds import Bed, ServerBed
from tests.faults.lab.bench import Bench
from tests.faults.lab.ledger import now

CALLERS = 10_000
CONNECTIONS = 3


async def test_ten_thousand_concurrent_calls_are_all_accepted(
    bench: Bench[Bed], report: Report
) -> None:
    async with bench.app() as app:
        began = now()
        async with anyio.create_task_group() as callers:
            for _ in range(CALLERS):
                callers.start_soon(app.tasks["work"].enqueue)
        took = now() - began

        audit = await bench.audit()
    report(took=took)
    assert len(audit.waiting) == CALLERS
    assert not audit.faults


async def test_they_share_three_connections(server_bench: Bench[ServerBed], report: Report) -> None:
    bench = server_bench
    most = 0
    async with bench.app() as app:
        [first] = await bench.send(app, 1)
        worker = await bench.hired()
        await first.get(timeout=60)
        worker.kill()
        alone = await anyio.to_thread.run_sync(bench.bed.connections)
        async with anyio.create_task_group() as callers:
            for _ in range(CALLERS):
                callers.start_soon(app.tasks["work"].enqueue)
            await anyio.lowlevel.checkpoint()
            most = max(alone, await anyio.to_thread.run_sync(bench.bed.connections))
    report(connections=most)
    assert most <= CONNECTIONS
