"""How much memory does a worker hold, idle and with a long queue behind it?

    python -m benchmarks.memory --contender asyncq-redis --backlog 1000000 --runs 3

All processes of the worker are counted. The queue is filled with no-ops before the second worker
starts, which then drains for some seconds; its highest figure is taken. A contender that takes
longer than ``--fill`` seconds to fill it gets a shorter one: ``counts`` says how long it was.
"""

import asyncio
from time import monotonic

from benchmarks import processes
from benchmarks.processes import Memory
from benchmarks.rounds import parser, run
from benchmarks.trial import Measured, Trial, Worker

CHUNK = 20_000  # messages enqueued at a time
SETTLE = 2.0  # seconds for an idle worker to come to rest
PERIOD = 0.2  # seconds between two samples


async def measure(trial: Trial) -> Measured:
    """Sample an idle worker, then a busy one."""
    async with trial.contender.connect():
        async with trial.ready_worker() as worker:
            await asyncio.sleep(SETTLE)
            idle = processes.measure(worker.process)

        backlog = await _fill(trial)
        with trial.worker() as worker:
            await trial.ended(1, worker)
            busy = await _highest(worker, trial.options["seconds"])
            drained = trial.so_far().count
    return Measured(
        figures=_figures("idle", idle) | _figures("backlog", busy),
        counts={"backlog": backlog, "drained": drained, "processes": busy.processes},
    )


async def _fill(trial: Trial) -> int:
    wanted, filled = trial.options["backlog"], 0
    deadline = monotonic() + trial.options["fill"]
    while filled < wanted and monotonic() < deadline:
        chunk = min(CHUNK, wanted - filled)
        await trial.contender.enqueue_many("noop", chunk)
        filled += chunk
    return filled


async def _highest(worker: Worker, seconds: float) -> Memory:
    deadline = monotonic() + seconds
    samples = []
    while monotonic() < deadline:
        worker.check()
        samples.append(processes.measure(worker.process))
        await asyncio.sleep(PERIOD)
    return max(samples, key=lambda sample: sample.resident)


def _figures(name: str, memory: Memory) -> dict[str, float]:
    return {f"{name}_mb": memory.resident / 1e6, f"{name}_pss_mb": memory.proportional / 1e6}


def main() -> None:
    """Ask the contenders."""
    options = parser(__doc__, timeout=1200)
    options.add_argument("--backlog", type=int, default=1_000_000, help="messages in the queue")
    options.add_argument("--fill", type=int, default=300, help="seconds to spend on filling it")
    options.add_argument("--seconds", type=int, default=10, help="to drain for")
    options.add_argument("--concurrency", type=int, default=100, help="of the one worker")
    run("memory", options.parse_args())


if __name__ == "__main__":
    main()
