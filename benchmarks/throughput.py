"""How many no-op tasks does one worker finish per second?

    python -m benchmarks.throughput --contender asyncq-redis --tasks 20000 --runs 5
    python -m benchmarks.throughput --store rabbitmq --contender all --tasks 20000 --runs 3

They are enqueued before the worker starts. The time goes from the first body that runs to when
the last result is stored, so booting is not in it; every result is read and checked afterwards.
"""

from benchmarks.contenders import CONTENDERS
from benchmarks.rounds import parser, run
from benchmarks.trial import Measured, Trial


async def measure(trial: Trial) -> Measured:
    """Drain a queue of no-ops."""
    return await trial.drain("noop")


def main() -> None:
    """Ask the contenders."""
    options = parser(__doc__, tuple(CONTENDERS))
    options.add_argument("--tasks", type=int, default=20_000)
    options.add_argument("--concurrency", type=int, default=100, help="of the one worker")
    run("throughput", options.parse_args())


if __name__ == "__main__":
    main()
