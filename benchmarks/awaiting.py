"""How long does a client take to await many results, one after the other and all at once?

    python -m benchmarks.awaiting --contender asyncq-redis --tasks 20000 --runs 5

The worker runs while the client waits. ``loop`` is ``for result in results: await result``, the way
everybody writes first; ``all`` is the library's way of waiting for many. Neither should cost more
than the other by a fifth.
"""

from collections.abc import Sequence
from time import perf_counter

import asyncq
from benchmarks.contenders import on
from benchmarks.contenders.interface import Contender, Handle
from benchmarks.rounds import parser, run
from benchmarks.trial import Measured, Trial

WARM_UP = 200  # messages that do not count
ROUNDS = 3  # of each way, by turns; the fastest counts


async def measure(trial: Trial) -> Measured:
    """Await as many results in one way as in the other."""
    contender, tasks = trial.contender, trial.options["tasks"]
    loops, alls = list[float](), list[float]()
    async with contender.connect(), trial.ready_worker():
        await _one_by_one(await contender.enqueue_many("noop", WARM_UP), contender)
        for _ in range(ROUNDS):
            handles = await contender.enqueue_many("noop", tasks)
            begun = perf_counter()
            await _one_by_one(handles, contender)
            loops.append(perf_counter() - begun)

            handles = await contender.enqueue_many("noop", tasks)
            begun = perf_counter()
            await asyncq.gather(*handles)
            alls.append(perf_counter() - begun)
    loop, together = min(loops), min(alls)
    return Measured(
        figures={"loop_s": loop, "all_s": together, "ratio": loop / together},
        counts={"tasks": tasks, "warm_up": WARM_UP, "rounds": ROUNDS},
    )


async def _one_by_one(handles: Sequence[Handle], contender: Contender) -> None:
    for handle in handles:
        await contender.wait(handle)


def main() -> None:
    """Ask asyncq, on each of its stores."""
    ours = [name for name in on("redis", "sqlite", "rabbitmq") if name.startswith("asyncq")]
    options = parser(__doc__, ours)
    options.add_argument("--tasks", type=int, default=20_000)
    options.add_argument("--concurrency", type=int, default=100, help="of the one worker")
    run("awaiting", options.parse_args())


if __name__ == "__main__":
    main()
