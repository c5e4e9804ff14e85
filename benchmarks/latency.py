"""How long does a client wait from enqueueing a no-op to holding its result?

    python -m benchmarks.latency --contender asyncq-redis --tasks 500 --runs 5

One at a time, with an idle worker and the library's best way of waiting.
"""

from statistics import fmean, quantiles
from time import perf_counter

from benchmarks.rounds import parser, run
from benchmarks.trial import Measured, Trial

WARM_UP = 50  # round trips that do not count


async def measure(trial: Trial) -> Measured:
    """Enqueue and wait, over and over."""
    times = []
    async with trial.contender.connect(), trial.ready_worker():
        for _ in range(WARM_UP + trial.options["tasks"]):
            begun = perf_counter()
            await trial.contender.wait(await trial.contender.enqueue("noop"))
            times.append(1000 * (perf_counter() - begun))
    counted = times[WARM_UP:]
    percentiles = quantiles(counted, n=100, method="inclusive")
    return Measured(
        figures={"p50_ms": percentiles[49], "p99_ms": percentiles[98], "mean_ms": fmean(counted)},
        counts={"tasks": len(counted), "warm_up": WARM_UP},
    )


def main() -> None:
    """Ask the contenders."""
    options = parser(__doc__)
    options.add_argument("--tasks", type=int, default=500)
    options.add_argument("--concurrency", type=int, default=100, help="of the one worker")
    run("latency", options.parse_args())


if __name__ == "__main__":
    main()
