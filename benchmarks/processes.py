"""The processes a run has started: their memory, and their end."""

import os
import signal
import subprocess
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

PATIENCE = 10  # seconds for a killed process to be gone


@dataclass(frozen=True)
class Memory:
    """What a process and its descendants hold, in bytes."""

    processes: int
    resident: int  # summed; pages they share count once for each
    proportional: int  # summed; shared pages are divided among all who share them


def measure(process: subprocess.Popen[bytes]) -> Memory:
    """Add up a process tree, as of now."""
    resident = proportional = count = 0
    for pid in _tree(process.pid):
        with suppress(FileNotFoundError, ProcessLookupError):  # it may end while we read
            pages = _kilobytes(Path(f"/proc/{pid}/smaps_rollup").read_text())
            resident += pages["Rss"] * 1024
            proportional += pages["Pss"] * 1024
            count += 1
    return Memory(count, resident, proportional)


def end(process: subprocess.Popen[bytes]) -> None:
    """Kill a process and all it has started, the parent first, so that it restarts none.

    Once it has ended nothing is done: its children are not known any more, nor is its id its own.
    """
    if process.poll() is not None:
        return
    for pid in _tree(process.pid):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    process.wait(PATIENCE)


def _tree(pid: int) -> list[int]:
    pids = [pid]
    for parent in pids:  # grows while we walk it
        with suppress(FileNotFoundError, ProcessLookupError):
            for children in Path(f"/proc/{parent}/task").glob("*/children"):
                pids.extend(int(child) for child in children.read_text().split())
    return pids


def _kilobytes(rollup: str) -> dict[str, int]:
    rows = (line.split() for line in rollup.splitlines()[1:])
    return {row[0].rstrip(":"): int(row[1]) for row in rows}
