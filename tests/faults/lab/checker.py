"""The checker: what a ledger and the stored records add up to."""

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from collections.abc import Set as AbstractSet
from itertools import pairwise
from math import ceil, inf

import msgspec

from asyncq.language.message import Succeeded
from asyncq.language.record import Record
from tests.faults.lab.ledger import (
    Accepted,
    Attempted,
    Begun,
    Broken,
    Cancelling,
    Died,
    Ended,
    Entry,
    Follows,
    Healed,
    Ready,
    Started,
)

SHOWN = 5  # ids named for each count that should be 0


class Run(msgspec.Struct):
    """One run of a message."""

    id: str
    name: str
    attempt: int
    pid: int
    started: float
    over: float = inf
    ended: bool = False


class Findings(msgspec.Struct, frozen=True, kw_only=True):
    """How an experiment went. Times are seconds."""

    attempted: int
    acknowledged: int
    """What the producer was told is kept."""
    ok: int
    """Acknowledged and succeeded, with the value of a run that came to its end."""
    lost: int
    """Acknowledged, without an outcome, and in the broker no more."""
    duplicated: int
    """Messages of which one attempt came to its end more than once."""
    overlapped: int
    """Messages of which two runs were alive at one moment."""
    recovered: int
    """Messages that a dead worker left, and that came to their end elsewhere."""
    repeated: int
    """Runs of an attempt that had run before in a worker that did not die."""
    unexpected: int
    """Runs of what nobody sent, and outcomes that no run explains."""
    t_recover: float
    """The longest from a worker's death until what it ran began again."""
    t_recover_p99: float
    """What 99 in 100 of these stayed below."""
    t_resume: float
    """The longest from a repair until the next run."""
    named: dict[str, list[str]]
    """Some ids for each count that should be 0."""


def check(
    entries: Sequence[Entry], records: Mapping[str, Record], still_there: AbstractSet[str]
) -> Findings:
    """What happened to everything that was sent."""
    attempted: set[str] = set()
    accepted: set[str] = set()
    deaths: dict[int, float] = {}
    repairs: list[float] = []
    runs: dict[str, Run] = {}
    for entry in entries:
        match entry:
            case Attempted():
                attempted.update(entry.ids)
            case Accepted():
                accepted.update(entry.ids)
            case Started():
                run = Run(entry.id, entry.run, entry.attempt, entry.pid, entry.at)
                runs[entry.run] = run
            case Ended() | Broken():
                runs[entry.run].over = entry.at
                runs[entry.run].ended = isinstance(entry, Ended)
            case Died():
                deaths.setdefault(entry.pid, entry.at)  # it may have said so itself
            case Healed():
                repairs.append(entry.at)
            case Ready() | Follows() | Begun() | Cancelling():
                pass
    by_id: dict[str, list[Run]] = defaultdict(list)
    for run in runs.values():
        run.over = min(run.over, deaths.get(run.pid, inf))
        by_id[run.id].append(run)
    named = {
        "lost": [id for id in accepted if id not in records and id not in still_there],
        "duplicated": [id for id, own in by_id.items() if _duplicated(own)],
        "overlapped": [id for id, own in by_id.items() if _overlapped(own)],
        "repeated": [id for id, own in by_id.items() if _repeated(own, deaths)],
        "unexpected": [id for id in by_id if id not in attempted]
        + [id for id, record in records.items() if not _explained(record, by_id[id])],
    }
    left = [run for run in runs.values() if run.over == deaths.get(run.pid)]
    recoveries = sorted(_recovery(run, by_id[run.id], deaths) for run in left)
    ok = [id for id in accepted if id in records and isinstance(records[id].outcome, Succeeded)]
    return Findings(
        attempted=len(attempted),
        acknowledged=len(accepted),
        ok=len(ok),
        recovered=len({run.id for run in left if any(r.ended for r in by_id[run.id])}),
        t_recover=_quantile(recoveries, 1.0),
        t_recover_p99=_quantile(recoveries, 0.99),
        t_resume=max((_resumption(moment, runs.values()) for moment in repairs), default=0.0),
        **{name: len(ids) for name, ids in named.items()},
        named={name: ids[:SHOWN] for name, ids in named.items() if ids},
    )


def _duplicated(runs: Sequence[Run]) -> bool:
    attempts = [run.attempt for run in runs if run.ended]
    return len(attempts) > len(set(attempts))


def _overlapped(runs: Sequence[Run]) -> bool:
    ordered = sorted(runs, key=lambda run: run.started)
    return any(b.started < a.over for a, b in pairwise(ordered))


def _repeated(runs: Sequence[Run], deaths: Mapping[int, float]) -> bool:
    """Whether an attempt ran again though its worker lives and did not cancel it."""
    ordered = sorted(runs, key=lambda run: run.started)
    return any(
        a.attempt == b.attempt
        and deaths.get(a.pid, inf) > b.started
        and (a.ended or a.over > b.started)
        for a, b in pairwise(ordered)
    )


def _explained(record: Record, runs: Sequence[Run]) -> bool:
    if not isinstance(record.outcome, Succeeded):
        return True  # the experiment says itself which failures it expects
    value = msgspec.msgpack.decode(record.outcome.value)
    return any(run.name == value and run.ended for run in runs)


def _recovery(run: Run, others: Sequence[Run], deaths: Mapping[int, float]) -> float:
    later = [other.started for other in others if other.started > run.started]
    return min(later) - deaths[run.pid] if later else 0.0


def _quantile(ordered: Sequence[float], share: float) -> float:
    """The smallest value that this share of them does not exceed; 0 of none."""
    return ordered[ceil(share * len(ordered)) - 1] if ordered else 0.0


def _resumption(moment: float, runs: Collection[Run]) -> float:
    later = [run.started for run in runs if run.started > moment]
    return min(later) - moment if later else inf
