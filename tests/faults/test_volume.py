"""Many callers at once, and a long queue."""

import signal
from pathlib import Path
from statistics import median

import anyio

from asyncq import App
from asyncq.language.message import new_id
from asyncq.seams.broker import Ack, Consumer, Delivery, Lease, QueueSpec
from tests.faults.conftest import Report
from tests.faults.lab.beds import Bed, ServerBed
from tests.faults.lab.bench import Bench
from tests.faults.lab.ledger import now
from tests.faults.lab.scale import scaled
from tests.faults.lab.tasks import QUEUE
from tests.faults.lab.waiting import until

CALLERS = 10_000
CONNECTIONS = 3
BACKLOG = scaled(20_000, 1_000_000)
SHORT = "short"  # a queue that holds what is claimed from it and no more
CLAIMS = 50  # of so many messages each
EACH = 20
FLAT = 2.0  # times as long as with a few, at most; were it to grow with the queue, it would be 20
RUN = 1000  # tasks until a worker is as large as it gets
PORTION = 1000
MEMORY = 150 * 1024 * 1024  # bytes


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
    counts: list[int] = []
    async with bench.app() as app:
        [first] = await bench.send(app, 1)
        worker = await bench.hired()
        await first.get(timeout=60)
        worker.send(signal.SIGTERM)  # not killed: it may not have settled yet what it has recorded
        await worker.end()

        async def look() -> None:
            while True:
                counts.append(await anyio.to_thread.run_sync(bench.bed.connections))

        async with anyio.create_task_group() as looking:
            looking.start_soon(look)
            await until(lambda: bool(counts), 60, "they are counted")
            async with anyio.create_task_group() as callers:
                for _ in range(CALLERS):
                    callers.start_soon(app.tasks["work"].enqueue)
            looking.cancel_scope.cancel()
        audit = await bench.audit()
    report(connections=max(counts), looks=len(counts))
    assert max(counts) <= CONNECTIONS
    assert len(audit.waiting) == CALLERS


async def test_a_long_queue_makes_neither_claims_slow_nor_workers_large(
    bench: Bench[Bed], report: Report
) -> None:
    async with bench.app() as app:
        await pile_up(app, CLAIMS * EACH, SHORT)
        await pile_up(app, BACKLOG)
        slower = median(await slowness(app))

        worker = await bench.hired(concurrency=100)
        await until(lambda: len(bench.ended()) > RUN, 60, "tasks run")
        size = peak_memory(worker.pid)
        worker.send(signal.SIGTERM)
        await worker.end()
        audit = await bench.audit()
    report(backlog=BACKLOG, slower=slower, memory=size)
    assert slower < FLAT
    assert size < MEMORY
    assert len(audit.waiting) == BACKLOG - CLAIMS * EACH - len(bench.ended())
    assert not audit.in_flight
    assert not audit.faults


async def pile_up(app: App, count: int, queue: str = QUEUE) -> None:
    work = app.tasks["work"].options(queue=queue)
    for start in range(0, count, PORTION):
        await app.enqueue_many(work.s() for _ in range(min(PORTION, count - start)))


async def slowness(app: App) -> list[float]:
    """How many times as long a claim from the long queue takes as one from the short, just then.

    What else a busy machine does hits the two of a pair alike, or a few pairs only.
    """
    ratios: list[float] = []
    consume = app.client.broker.consume
    short, long = (Lease(new_id(), 60.0) for _ in range(2))
    async with (
        consume(QueueSpec(SHORT), short) as from_short,
        consume(QueueSpec(QUEUE), long) as from_long,
    ):
        for _ in range(CLAIMS):
            with_few = await claim_time(from_short)
            ratios.append(await claim_time(from_long) / with_few)
    return ratios


async def claim_time(consumer: Consumer) -> float:
    """What it takes to have some messages, in seconds."""
    began = now()
    deliveries: list[Delivery] = []
    while len(deliveries) < EACH:
        await consumer.wait()  # where they are pushed, they may come in parts
        deliveries += await consumer.receive(EACH - len(deliveries))
    took = now() - began
    await consumer.settle([Ack(delivery) for delivery in deliveries])
    return took


def peak_memory(pid: int) -> int:
    """The most that a process ever had resident, in bytes."""
    status = Path(f"/proc/{pid}/status").read_text()
    [line] = [line for line in status.splitlines() if line.startswith("VmHWM:")]
    return int(line.split()[1]) * 1024
