"""How many tasks that wait a second does one worker finish per second, 10,000 at a time?

    python -m benchmarks.sleepers --contender asyncq-redis --tasks 10000 --runs 5

Only for contenders that run coroutines. The tasks are enqueued before the worker starts, the time
goes from the first body's start to when the last result is stored: a worker that took no time at
all would finish as many per second as there are tasks.
"""

from benchmarks.contenders import CONTENDERS, on
from benchmarks.rounds import STORES, parser, run
from benchmarks.trial import Measured, Trial


async def measure(trial: Trial) -> Measured:
    """Drain a queue of sleepers."""
    return await trial.drain("sleeper")


def main() -> None:
    """Ask the contenders."""
    options = parser(__doc__, [name for name in on(*STORES) if CONTENDERS[name].is_async])
    options.add_argument("--tasks", type=int, default=10_000)
    options.add_argument("--concurrency", type=int, default=10_000, help="of the one worker")
    run("sleepers", options.parse_args())


if __name__ == "__main__":
    main()
