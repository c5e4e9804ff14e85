"""Stores that have no room left."""

import re

import anyio
import pytest

from asyncq import BrokerUnavailable
from tests.faults.conftest import Report
from tests.faults.lab.beds import Bed
from tests.faults.lab.bench import Bench
from tests.faults.lab.ledger import now
from tests.faults.lab.waiting import until

BACKLOG = 200
HELD = 20
DELAYED = 20
LEASE = 2.0  # seconds; in half of it all have renewed theirs when there is room again
DEADLINE = 1.5  # seconds that `enqueue` may take
NAMES_IT = re.compile("OOM|maxmemory|disk is full|low on memory", re.IGNORECASE)


async def test_without_room_enqueue_fails_in_time_and_all_goes_on_when_there_is_some(
    small_bench: Bench[Bed], report: Report
) -> None:
    bench = small_bench
    bench.configure(lease=LEASE, publish_timeout=DEADLINE, concurrency=HELD * 2)
    gate = bench.directory / "gate"
    async with bench.app() as app:
        await bench.hired()
        await bench.hired()
        await bench.send(app, HELD, "gated", gate=str(gate))
        await until(lambda: len(bench.starts()) == HELD, 60, "they run")
        await bench.send(app, BACKLOG, seconds=0.05)
        plain = list(bench.accepted)
        await bench.send(app, DELAYED, "flaky")

        await anyio.to_thread.run_sync(bench.bed.fill)
        try:
            began = now()
            with pytest.raises(BrokerUnavailable) as refusal:
                await bench.send(app, 1, seconds=0.0)
            took = now() - began
            if bench.bed.scheme != "sqlite":  # a full disk cannot even note what is done
                gate.touch()
                await until(lambda: {*plain} <= bench.ended(), 30, "workers run what is there")
            if bench.bed.scheme == "redis":  # for RabbitMQ, a retry is one more message
                await bench.settled(within=30)
            await anyio.sleep(began + 3 * LEASE - now())  # the time without room counts
            codes = [worker.exit_code for worker in bench.workers]
        finally:  # the server is the other tests', too
            await anyio.to_thread.run_sync(bench.bed.make_room)
        bench.healed()
        gate.touch()
        await bench.send(app, BACKLOG)
        findings = await bench.audit_all()
    report(findings, took=took, said=str(refusal.value))
    assert took < DEADLINE + 1.0
    assert NAMES_IT.search(str(refusal.value))
    assert codes == [None, None]
    assert findings.ok == HELD + BACKLOG + DELAYED + BACKLOG
    bench.see_no_repetition(findings)
