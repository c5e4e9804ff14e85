"""How many messages does one client enqueue per second, in bulk and from 100 callers at once?

    python -m benchmarks.enqueue --contender asyncq-redis --tasks 20000 --runs 5

No worker runs. In bulk is the library's best way for many messages. A caller awaits one message
after the other, as the handlers of a web server do; a client that blocks gets a thread per caller.
"""

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from time import perf_counter

from benchmarks.contenders.interface import Contender
from benchmarks.loops import repeat
from benchmarks.rounds import parser, run
from benchmarks.trial import Measured, Trial

WARM_UP = 200  # messages that do not count


async def measure(trial: Trial) -> Measured:
    """Enqueue as many in bulk as one by one."""
    contender, tasks, callers = trial.contender, trial.options["tasks"], trial.options["callers"]
    async with contender.connect():
        await contender.enqueue_many("noop", WARM_UP)
        begun = perf_counter()
        await contender.enqueue_many("noop", tasks)
        bulk = tasks / (perf_counter() - begun)

        await _call(contender, WARM_UP, callers)
        begun = perf_counter()
        await _call(contender, tasks, callers)
        concurrent = tasks / (perf_counter() - begun)
    return Measured(
        figures={"bulk_per_second": bulk, "concurrent_per_second": concurrent},
        counts={"tasks": tasks, "callers": callers, "warm_up": WARM_UP},
    )


async def _call(contender: Contender, tasks: int, callers: int) -> None:
    if contender.blocking:
        remaining = iter(range(tasks))  # shared by the threads: taking the next is atomic
        with ThreadPoolExecutor(callers) as threads:
            list(threads.map(_call_from_thread, [contender] * callers, [remaining] * callers))
    else:
        await repeat(lambda: contender.enqueue("noop"), tasks, callers)


def _call_from_thread(contender: Contender, remaining: Iterator[int]) -> None:
    async def loop() -> None:
        for _ in remaining:
            await contender.enqueue("noop")

    asyncio.run(loop())


def main() -> None:
    """Ask the contenders."""
    options = parser(__doc__)
    options.add_argument("--tasks", type=int, default=20_000)
    options.add_argument("--callers", type=int, default=100)
    run("enqueue", options.parse_args())


if __name__ == "__main__":
    main()
