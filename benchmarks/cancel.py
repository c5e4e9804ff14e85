"""How long from cancelling a task until its coroutine hears of it, in another process?

    python -m benchmarks.cancel --contender asyncq-redis --tasks 500 --runs 5

One at a time, while so many others run on the same worker; and how long to cancel many that wait.
Then trees: the block of a scope sends branches that send leaves, more of them than several worker
processes have slots, and is left by an error once all are sent and no slot is free. How long until
the last one that runs has heard of it, and how many of the others begin all the same?
"""

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from statistics import quantiles
from time import monotonic, perf_counter

import asyncq
from benchmarks.contenders import asyncq as ours
from benchmarks.contenders import on
from benchmarks.reliable.ledger import Ledger
from benchmarks.rounds import parser, run
from benchmarks.trial import WATCH, Measured, Trial, Worker

WARM_UP = 20  # cancellations that do not count
BESIDE = 50  # tasks that run all the while
SETTLED = 0.02  # seconds until its coroutine waits, once it runs
AT_ONCE = 0.005  # seconds in which a task may still begin whose scope is being left
WATCHED = 2.0  # seconds for which a tree is watched once it was left
HEARD = 60.0  # seconds after which a task that was never cancelled fails the run


class TreeLeft(Exception):
    """By this the block of a tree is left."""


class NeverHeard(Exception):
    """Some of a tree go on."""

    def __init__(self, count: int) -> None:
        super().__init__(f"{count} tasks were not cancelled in {HEARD:g} s")


async def measure(trial: Trial) -> Measured:
    """Cancel over and over, then trees; tasks say when they heard, by the clock of the machine."""
    async with trial.contender.connect():
        ones, trees = await _one_by_one(trial), await _trees(trial)
    return Measured(
        figures={**ones.figures, **trees.figures}, counts={**ones.counts, **trees.counts}
    )


async def _one_by_one(trial: Trial) -> Measured:
    heard = []
    async with trial.ready_worker():
        beside = await ours.app.enqueue_many(ours.LISTENER.s() for _ in range(BESIDE))
        for _ in range(WARM_UP + trial.options["tasks"]):
            result = await ours.LISTENER.enqueue()
            while await result.status() is not asyncq.Status.RUNNING:
                await asyncio.sleep(SETTLED)
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


async def _trees(trial: Trial) -> Measured:
    """Leave one after the other, on the same worker; the worst of them counts."""
    options, ledger = trial.options, Ledger(trial.ledger)
    crowd = ours.Asyncq(options["processes"], options["slots"])
    took, late = list[float](), 0
    async with replace(trial, contender=crowd).ready_worker() as worker:
        for number in range(options["trees"]):
            seen = len(ledger.entries)
            left = await _leave_a_tree(trial, worker, ledger, f"tree-{number}")
            await _all_heard(worker, ledger, left)
            entries = ledger.entries[seen:]
            took.append(max(each.moment for each in entries if each.kind == "end") - left)
            late += sum(each.moment > left + AT_ONCE for each in entries if each.kind == "start")
    return Measured(
        figures={"tree_seconds": max(took), "tree_started_after": late},
        counts={
            "trees": len(took),
            "tree_processes": len({each.pid for each in ledger.entries}),
            "tree_tasks": _size(options),
            "tree_begun": len(ledger.starts),
            "tree_heard": ledger.ends.total(),
        },
    )


async def _leave_a_tree(trial: Trial, worker: Worker, ledger: Ledger, name: str) -> float:
    """Leave the block of a scope once the whole tree is sent, and runs as far as there are slots;
    returns when that was."""
    options = trial.options
    branches, slots = options["branches"], options["processes"] * options["slots"]
    sent = trial.so_far().count + branches
    left = 0.0
    with suppress(TreeLeft):
        async with asyncq.scope():
            await ours.app.enqueue_many(
                ours.branch.s(f"{name}.{number}", options["leaves"]) for number in range(branches)
            )
            await trial.ended(sent, worker)
            while len(ledger.running) < min(slots, _size(options)):
                worker.check()
                await asyncio.sleep(WATCH)
                ledger.refresh()
            left = monotonic()
            raise TreeLeft
    return left


async def _all_heard(worker: Worker, ledger: Ledger, left: float) -> None:
    """Watch a tree that was left at this moment, at least for `WATCHED` seconds.

    Raises:
        NeverHeard: some go on after `HEARD` seconds.
    """
    await asyncio.sleep(left + WATCHED - monotonic())
    ledger.refresh()
    while ledger.running:
        worker.check()
        if monotonic() > left + HEARD:
            raise NeverHeard(len(ledger.running))
        await asyncio.sleep(WATCH)
        ledger.refresh()


def _size(options: Mapping[str, int]) -> int:
    return options["branches"] * (1 + options["leaves"])


def main() -> None:
    """Ask asyncq: others have nothing of the kind that a coroutine hears of."""
    able = [name for name in on("redis", "sqlite") if name.startswith("asyncq")]
    options = parser(__doc__, able)
    options.add_argument("--tasks", type=int, default=500)
    options.add_argument("--waiting", type=int, default=20_000, help="cancelled in one go")
    options.add_argument("--concurrency", type=int, default=100, help="of the one worker")
    options.add_argument("--trees", type=int, default=3, help="left one after the other")
    options.add_argument("--branches", type=int, default=10, help="of a tree")
    options.add_argument("--leaves", type=int, default=99, help="of each branch")
    options.add_argument("--processes", type=int, default=8, help="of the worker of the trees")
    options.add_argument("--slots", type=int, default=50, help="of each of these processes")
    run("cancel", options.parse_args())


if __name__ == "__main__":
    main()
