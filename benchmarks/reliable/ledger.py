"""The ledger: what ran, written by the tasks in a file that no kill can take back.

Each line is one write to a file opened for appending, so that lines of many processes do not mix
and what is written stays when the writer is killed.
"""

import os
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from math import ceil
from pathlib import Path
from typing import Literal

Kind = Literal["start", "end"]


@cache
def _file() -> int:
    return os.open(os.environ["BENCH_LEDGER"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)


def note(kind: Kind, id: str) -> None:
    """Write that a run begins or ends here and now."""
    os.write(_file(), f"{kind} {id} {os.getpid()} {time.monotonic():.4f}\n".encode())


@dataclass(frozen=True)
class Entry:
    """One line: a run that began or ended."""

    kind: Kind
    id: str
    pid: int
    moment: float  # on the clock that all processes of a machine share


@dataclass(frozen=True)
class Cut:
    """A run that a kill cut short."""

    id: str
    moment: float


@dataclass
class Ledger:
    """All that was written until now, in the order in which it was."""

    path: Path
    entries: list[Entry] = field(default_factory=list[Entry])
    starts: dict[str, list[Entry]] = field(default_factory=lambda: defaultdict(list))
    ends: Counter[str] = field(default_factory=Counter[str])
    running: dict[tuple[str, int], Entry] = field(default_factory=dict[tuple[str, int], Entry])
    """Runs without an end, by id and process; those of dead processes stay."""
    _read: int = 0

    def refresh(self) -> Sequence[Entry]:
        """Read what is new; return it."""
        if not self.path.exists():
            return ()
        with self.path.open("rb") as file:
            file.seek(self._read)
            whole, newline, _ = file.read().rpartition(b"\n")
        self._read += len(whole) + len(newline)
        new = [_entry(line) for line in whole.decode().splitlines()]
        for entry in new:
            self._add(entry)
        return new

    def running_in(self, pids: Iterable[int]) -> list[Entry]:
        """The runs without an end in these processes, the oldest first."""
        among = set(pids)
        return [entry for entry in self.running.values() if entry.pid in among]

    def _add(self, entry: Entry) -> None:
        self.entries.append(entry)
        if entry.kind == "start":
            self.starts[entry.id].append(entry)
            self.running[entry.id, entry.pid] = entry
        else:
            self.ends[entry.id] += 1
            self.running.pop((entry.id, entry.pid), None)


def _entry(line: str) -> Entry:
    kind, id, pid, moment = line.split()
    return Entry("start" if kind == "start" else "end", id, int(pid), float(moment))


def unended(ledger: Ledger, ids: Iterable[str]) -> list[str]:
    """Those that never came to their end."""
    return [id for id in ids if not ledger.ends[id]]


def repeated(ledger: Ledger, ids: Iterable[str]) -> list[str]:
    """Those that came to their end more than once."""
    return [id for id in ids if ledger.ends[id] > 1]


def recoveries(ledger: Ledger, cuts: Iterable[Cut]) -> tuple[list[float], int]:
    """Seconds from each cut to the next start of what it cut, sorted; and how many had none."""
    waits: list[float] = []
    never = 0
    for cut in cuts:
        later = [entry.moment for entry in ledger.starts[cut.id] if entry.moment > cut.moment]
        if later:
            waits.append(later[0] - cut.moment)
        else:
            never += 1
    return sorted(waits), never


def spread(waits: Sequence[float]) -> Mapping[str, float]:
    """The median, the 99th percentile and the most of some sorted waits, in seconds."""
    if not waits:
        return {}
    return {name: round(_rank(waits, part), 2) for name, part in _PARTS.items()}


_PARTS = {"p50": 0.5, "p99": 0.99, "max": 1.0}


def _rank(waits: Sequence[float], part: float) -> float:
    """The nearest-rank percentile: a wait that was really seen."""
    return waits[max(0, ceil(part * len(waits)) - 1)]
