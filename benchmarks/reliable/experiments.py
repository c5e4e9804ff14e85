"""The five experiments: what is broken, and what is counted afterwards."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import monotonic, sleep

from benchmarks.reliable.ledger import Cut, recoveries, repeated, spread, unended
from benchmarks.reliable.producer import Feeder, Producer, batch_of
from benchmarks.reliable.stage import Stage, WorkerNeverRan
from benchmarks.reliable.trees import is_alive, kill_one

BOOT = 60.0  # seconds for a worker's first task
QUEUED = 300  # tasks before a tree that runs 100 at a time
FULL = 95  # of those 100
BLOCKED = 30.0  # seconds for which a task holds its process
AFTERWARDS = 10.0  # seconds in which a blocked task might begin again
NEIGHBOURS = 200
MOST_RUNS = 20  # of a poison; who has come so far does not stop
WATCH = 180.0  # seconds for which a poison is watched
ASK = 2.0  # seconds between two questions for a fate
OUTAGES = 5
LOAD = 3.0  # seconds of normal work before the next outage
ASKED = 20  # fates looked up of what did not end

Figures = dict[str, object]


def child_kill9(stage: Stage) -> Figures:
    """Kill a process that runs tasks, again and again."""
    with stage.workers(), Feeder(stage, stage.terms.tasks) as feeder:
        cuts, pids = _kill_children(stage)
        stage.wait(lambda: feeder.is_done, stage.terms.drip)
        kept = feeder.stop()
        is_over = stage.settle(kept)
        waits, never = recoveries(stage.ledger, cuts)
        return {
            "kept": len(kept),
            "kills": len(pids),
            "cut_short": len(cuts),
            "never_again": never,
            "is_over": is_over,
            "recovery": spread(waits),
            "restarts": stage.restarts,
        } | _ends(stage, kept)


def tree_kill9(stage: Stage) -> Figures:
    """Kill a whole tree once, with all that it runs and more behind it."""
    kept = stage.enqueue("record", [(f"task{n}", 1 + n % 11 / 10) for n in range(QUEUED)])
    with stage.workers():
        _await_first(stage)
        wide = stage.wait(lambda: len(_running(stage)) >= FULL, BOOT)
        moment = stage.trees[0].kill()
        stage.ledger.refresh()
        cuts = [Cut(id, moment) for id in _running(stage)]
        is_over = stage.settle(kept)
        waits, never = recoveries(stage.ledger, cuts)
        return {
            "kept": len(kept),
            "cut_short": len(cuts),
            "was_full": wide,
            "never_again": never,
            "is_over": is_over,
            "recovery": spread(waits),
            "restarts": stage.restarts,
        } | _ends(stage, kept)


def loop_blocked(stage: Stage) -> Figures:
    """Hold a process for twice the lease, beside a second worker."""
    with stage.workers(2):
        _await_first(stage)
        stage.enqueue("block", [("block", BLOCKED)])
        if not stage.wait(lambda: "block" in stage.ledger.starts, BOOT):
            raise WorkerNeverRan("the blocking task did not begin")
        starts = stage.ledger.starts["block"]
        stage.wait(lambda: False, BLOCKED + AFTERWARDS)
        stage.wait(lambda: stage.ledger.ends["block"] >= len(starts), BLOCKED)
        return {
            "runs": len(starts),
            "ended": stage.ledger.ends["block"],
            "began_after": [round(start.moment - starts[0].moment, 1) for start in starts],
            "restarts": stage.restarts,
        }


def poison(stage: Stage) -> Figures:
    """Let a task end its process each time it is run, amid harmless neighbours."""
    half = NEIGHBOURS // 2
    messages = [(f"task{number}", 0.05) for number in range(NEIGHBOURS)]
    kept = stage.enqueue("record", messages[:half])
    stage.enqueue("poison", [("poison", 0.0)])
    kept += stage.enqueue("record", messages[half:])
    with stage.workers():
        if not stage.wait(lambda: "poison" in stage.ledger.starts, BOOT):
            raise WorkerNeverRan("the poison did not begin")
        starts = stage.ledger.starts["poison"]
        fate = _watch_poison(stage)
        watched = monotonic() - starts[0].moment
        runs = len(starts)
        is_over = bool(fate) and stage.settle(kept)
        if not fate:
            stage.wait(lambda: not unended(stage.ledger, kept), max(0, WATCH - watched))
        return {
            "runs": runs,
            "watched": round(watched, 1),
            "stopped": bool(fate),
            "is_over": is_over,
            "fate": fate,
            "began_after": [round(start.moment - starts[0].moment, 1) for start in starts[:10]],
            "kept": len(kept),
            "restarts": stage.restarts,
        } | _ends(stage, kept)


def broker_kill9(stage: Stage) -> Figures:
    """Kill the server under load and start it at once, several times."""
    with stage.workers(), Producer(stage) as producer:
        _await_first(stage)
        resumed = [_outage(stage, producer) for _ in range(OUTAGES)]
        kept = producer.stop()
        is_over = stage.settle(kept)
        return {
            "kept": len(kept),
            "is_over": is_over,
            "outages": OUTAGES,
            "resumed_after": resumed,
            "by_hand": resumed.count(None),
            "restarts": stage.restarts,
            "complaints": producer.complaints,
        } | _ends(stage, kept)


@dataclass(frozen=True)
class Experiment:
    """What is done, and how many tasks the tree may run at a time meanwhile."""

    run: Callable[[Stage], Figures]
    concurrency: int


EXPERIMENTS = {
    "child-kill9": Experiment(child_kill9, 8),
    "tree-kill9": Experiment(tree_kill9, 100),
    "loop-blocked": Experiment(loop_blocked, 8),
    "poison": Experiment(poison, 16),
    "broker-kill9": Experiment(broker_kill9, 8),
}


def _await_first(stage: Stage) -> None:
    if not stage.wait(lambda: bool(stage.ledger.starts), BOOT):
        raise WorkerNeverRan(f"no task began within {BOOT} s")


def _running(stage: Stage) -> list[str]:
    return [entry.id for entry in stage.ledger.running.values()]


def _ends(stage: Stage, kept: Sequence[str]) -> Figures:
    """What became of those that were acknowledged."""
    stage.ledger.refresh()
    missing = unended(stage.ledger, kept)
    fates = [stage.fate(id) for id in missing[:ASKED]]
    return {
        "lost": len(missing),
        "ran_twice": len(repeated(stage.ledger, kept)),
        "never_began": sum(id not in stage.ledger.starts for id in missing),
        "fates_of_lost": {fate: fates.count(fate) for fate in sorted(set(fates))},
    }


def _kill_children(stage: Stage) -> tuple[list[Cut], list[int]]:
    """Kill whoever runs a task, each time that another part of the tasks has ended."""
    cuts: list[Cut] = []
    pids: list[int] = []
    _await_first(stage)
    for number in range(1, stage.terms.kills + 1):
        share = stage.terms.tasks * number // (stage.terms.kills + 1)
        victim = _await_victim(stage, share)
        if victim is None:
            break
        moment = kill_one(victim)
        pids.append(victim)
        stage.ledger.refresh()
        cuts += [Cut(entry.id, moment) for entry in stage.ledger.running_in([victim])]
    return cuts, pids


def _await_victim(stage: Stage, share: int) -> int | None:
    """Wait until so many tasks have ended and another runs; return the process that runs it."""
    found: list[int] = []

    def is_time() -> bool:
        if len(stage.ledger.ends) < share:
            return False
        runs = sorted(stage.ledger.running.values(), key=lambda entry: -entry.moment)
        found.extend(entry.pid for entry in runs[:1] if is_alive(entry.pid))
        return bool(found)

    stage.wait(is_time, stage.terms.lease + stage.terms.patience)
    return found[0] if found else None


def _watch_poison(stage: Stage) -> str:
    """Wait until the library has given it up; return its fate, or nothing if it did not."""
    starts = stage.ledger.starts["poison"]
    while len(starts) < MOST_RUNS and monotonic() - starts[0].moment < WATCH:
        stage.wait(lambda: len(starts) >= MOST_RUNS, ASK)
        if fate := stage.fate("poison"):
            return fate
    return ""


def _outage(stage: Stage, producer: Producer) -> float | None:
    """Take the server away for a moment; return how long after it was back new work began.

    New is what was enqueued when it was back. If none of that begins, the workers are restarted by
    hand.
    """
    sleep(LOAD)
    moment = stage.server.kill_and_restart()
    stage.ledger.refresh()
    seen, batch = len(stage.ledger.entries), producer.batch
    began: list[float] = []

    def has_resumed() -> bool:
        new = stage.ledger.entries[seen:]
        began.extend(entry.moment for entry in new if batch_of(entry.id) > batch)
        return bool(began)

    if stage.wait(has_resumed, stage.terms.lease + stage.terms.patience):
        return round(began[0] - moment, 2)
    for tree in stage.trees:
        tree.kill()
    return None
