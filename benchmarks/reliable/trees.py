"""Worker trees: a main process with all its descendants, restarted as a service manager would."""

import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event, Thread
from time import monotonic, sleep
from typing import Self

MARK = "BENCH_TREE"  # in the environment of everything that belongs to a tree
PAUSE = 0.1  # seconds before a restart, as systemd has it
EARLY = 1.0  # seconds; who ends earlier than that is restarted after as long a pause


@dataclass
class Tree:
    """One library's worker, running for the length of a block."""

    command: Sequence[str]
    environ: Mapping[str, str]
    log: Path
    mark: str
    exits: list[int] = field(default_factory=list[int])
    """How the main process ended, each time that it did so by itself or by a fault."""
    _stopping: Event = field(default_factory=Event)
    _renewer: Thread | None = None

    def __enter__(self) -> Self:
        process = self._start()
        self._renewer = Thread(target=self._keep, args=(process,))
        self._renewer.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        while self._renewer and self._renewer.is_alive():
            kill_all(self.mark)  # again, as it may just be starting one
            self._renewer.join(PAUSE)

    def pids(self) -> list[int]:
        """All processes of this tree, as of now."""
        return members(self.mark)

    def kill(self) -> float:
        """End every process at once; return when the last was gone."""
        kill_all(self.mark)
        return monotonic()

    def _start(self) -> subprocess.Popen[bytes]:
        with self.log.open("ab") as log:
            return subprocess.Popen(
                self.command,
                env={**self.environ, MARK: self.mark},
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )

    def _keep(self, process: subprocess.Popen[bytes]) -> None:
        """Restart the main process when it ends; what it leaves behind is killed first."""
        while not self._stopping.is_set():
            begun = monotonic()
            code = process.wait()
            if self._stopping.is_set():
                return
            self.exits.append(code)
            kill_all(self.mark)
            self._stopping.wait(PAUSE if monotonic() - begun > EARLY else EARLY)
            if not self._stopping.is_set():
                process = self._start()
        process.wait()


def members(mark: str) -> list[int]:
    """The processes that carry this mark, the oldest first; zombies do not count."""
    wanted = f"{MARK}={mark}".encode()
    found: list[int] = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):
                if wanted in (entry / "environ").read_bytes().split(b"\0"):
                    found.append(int(entry.name))
    return sorted(found)


def kill_all(mark: str) -> None:
    """Kill everything with this mark, and what it may start meanwhile, until nothing is left."""
    while pids := members(mark):
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        sleep(0.01)


def kill_one(pid: int) -> float:
    """Kill one process; return when it was gone."""
    os.kill(pid, signal.SIGKILL)
    while is_alive(pid):
        sleep(0.001)
    return monotonic()


def is_alive(pid: int) -> bool:
    """Whether a process runs; a zombie does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in {"Z", "X"}
