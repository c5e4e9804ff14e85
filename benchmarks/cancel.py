"""How long from cancelling a task until its coroutine hears of it, in another process?

    python -m benchmarks.cancel --contender asyncq-redis --tasks 500 --runs 5

One at a time, while so many others run on the same worker; and how long to cancel many that wait.
"""

import asyncio
from statistics import quantiles
from time import monotonic, perf_counter

from benchmarks.contenders import asyncq as ours
from benchmarks.contenders import on
from benchmarks.rounds import parser, run
from benchmarks.trial import Measured, Trial

WARM_UP = 20  # cancellations that do not count
BESIDE = 50  # tasks that run all the while
SETTLED = 0.02  # seconds until it runs


async def measure(trial: Trial) -> Measured:
    """Cancel over and over; the task says when it heard, by the clock of the machine."""
    heard = []
    async with trial.contender.connect(), trial.ready_worker():
        beside = await ours.app.enqueue_many(ours.LISTENER.s() for _ in range(BESIDE))
        for _ in range(WARM_UP + trial.options["tasks"]):
            result = await ours.LISTENER.enqueue()
            await asyncio.sleep(SETTLED)
            begun = monotonic()
            await result.cancel("measured")
            heard.append(1000 * (await result - begun))
        await ours.app.cancel(beside)
        waiting = await ours.app.enqueue_many(
            ours.LISTENER.options(delay=3600).s() for _ in range(trial.options["waiting"])
        )
        begun = perf_counter()
        await ours.app.cancel(waiting)
        took = perf_counter() - begun
    counted = heard[WARM_UP:]
    percentiles = quantiles(counted, n=100, method="inclusive")
    return Measured(
        figures={
            "p50_ms": percentiles[49],
            "p95_ms": percentiles[94],
            "p99_ms": percentiles[98],
            "waiting_per_second": len(waiting) / took,
        },
        counts={"tasks": len(counted), "waiting": len(waiting)},
    )


def main() -> None:
    """Ask asyncq: others have nothing of the kind that a coroutine hears of."""
    able = [name for name in on("redis", "sqlite") if name.startswith("asyncq")]
    options = parser(__doc__, able)
    options.add_argument("--tasks", type=int, default=500)
    options.add_argument("--waiting", type=int, default=20_000, help="cancelled in one go")
    options.add_argument("--concurrency", type=int, default=100, help="of the one worker")
    run("cancel", options.parse_args())


if __name__ == "__main__":
    main()
