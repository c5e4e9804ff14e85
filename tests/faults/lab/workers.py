"""Worker processes: started, paused, signalled, killed, and kept alive."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import anyio
import msgspec
from anyio import TASK_STATUS_IGNORED, fail_after
from anyio.abc import TaskStatus

from asyncq.config import Config
from tests.faults.lab.ledger import Broken, Died, Ended, Ledger, Ready, Started, now
from tests.faults.lab.runs import LEDGER
from tests.faults.lab.waiting import LOOK, until

PLACE = "tests.faults.lab.place:app"
ROOT = Path(__file__).resolve().parents[3]  # where ``tests`` can be imported from
START_TIMEOUT = 30.0  # seconds
END_TIMEOUT = 60.0


class WorkerProcess:
    """One worker; its log is a file of its own."""

    command: Sequence[str] = (sys.executable, "-m", "tests.faults.lab.worker_main")

    def __init__(
        self,
        url: str,
        config: Config,
        ledger: Ledger,
        log: Path,
        *,
        settings: Mapping[str, str] | None = None,
        plague: Path | None = None,
    ) -> None:
        self._log = log
        environment = {
            **os.environ,
            "LAB_URL": url,
            "LAB_CONFIG": msgspec.json.encode(config).decode(),
            "LAB_PID": str(os.getpid()),
            "LAB_PLAGUE": str(plague or ""),
            LEDGER: str(ledger.path),
            **(settings or {}),
        }
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                self.command,
                cwd=ROOT,
                env=environment,
                start_new_session=True,  # signals to a group reach no others
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=output,
            )
        self._ledger = ledger
        self._is_dead = False
        self.pid = self._process.pid

    @property
    def exit_code(self) -> int | None:
        """None while it lives; when it does not any more, the ledger says so, too."""
        code = self._process.poll()
        if code is not None and not self._is_dead:
            self._is_dead = True
            self._ledger.write(Died(self.pid, now()))
        return code

    def send(self, what: signal.Signals) -> None:
        self._process.send_signal(what)

    def kill(self) -> None:
        """End it as a crash would; returns when it is dead."""
        if self.exit_code is None:
            self._process.kill()
            self._process.wait()
        assert self.exit_code is not None
        if self._process.stdin is not None:
            self._process.stdin.close()

    async def stopped(self, is_locked: Callable[[], bool]) -> None:
        """Let it stand still, but not with a store to itself: then everybody else does, too."""
        while True:
            self.send(signal.SIGSTOP)
            await until(lambda: state(self.pid) == "T", END_TIMEOUT, "it stands still")
            if not is_locked():
                return
            self.send(signal.SIGCONT)
            await anyio.sleep(LOOK)

    async def stopped_at_work(self, pid: int | None = None) -> set[str]:
        """Let it stand still, or one process of it, in the middle of tasks; returns which.

        There has to be work for it. What it runs it neither ends any more nor begins: a kill now
        hits these tasks and no others.
        """
        pid = pid or self.pid
        running = set[str]()
        try:
            with fail_after(END_TIMEOUT):
                while True:
                    os.kill(pid, signal.SIGSTOP)
                    await until(lambda: state(pid) == "T", END_TIMEOUT, "it stands still")
                    if running := self._running(pid):
                        return running
                    os.kill(pid, signal.SIGCONT)
                    await anyio.sleep(LOOK)
        finally:
            if not running:  # nobody waits for it any more, and it is not to stand still for ever
                os.kill(pid, signal.SIGCONT)

    def log(self) -> str:
        return self._log.read_text()

    def _running(self, pid: int) -> set[str]:
        """The messages that this process runs."""
        runs: dict[str, str] = {}
        for entry in self._ledger.entries():
            if isinstance(entry, Started) and entry.pid == pid:
                runs[entry.run] = entry.id
            elif isinstance(entry, Ended | Broken):
                runs.pop(entry.run, None)
        return {*runs.values()}

    def _is_of_us(self, entry: Ready) -> bool:
        return entry.pid == self.pid

    async def ready(self) -> None:
        """Return once it is about to consume."""
        await until(
            lambda: (
                self.exit_code is not None
                or any(isinstance(e, Ready) and self._is_of_us(e) for e in self._ledger.entries())
            ),
            START_TIMEOUT,
            "the worker starts",
        )
        assert self.exit_code is None, self.log()

    async def says(self, words: str, within: float = START_TIMEOUT) -> None:
        """Return once these words are in its log."""
        await until(lambda: words in self.log(), within, f"the worker logs {words!r}")

    async def end(self, within: float = END_TIMEOUT) -> int:
        """Its exit code, once it has ended."""
        await until(lambda: self.exit_code is not None, within, "the worker ends")
        code = self.exit_code
        assert code is not None
        return code


class Script(WorkerProcess):
    """No worker: it opens a scope, and waits for what it sends in there."""

    command = (sys.executable, "-m", "tests.faults.lab.script_main")


class Crew(WorkerProcess):
    """``asyncq worker``: a supervisor and its processes."""

    def __init__(
        self,
        url: str,
        config: Config,
        ledger: Ledger,
        log: Path,
        *,
        settings: Mapping[str, str] | None = None,
        options: Sequence[str] = (),
        plague: Path | None = None,
    ) -> None:
        self.command = (sys.executable, "-m", "asyncq", "worker", PLACE, *options)
        self._dead: set[int] = set()
        super().__init__(url, config, ledger, log, settings=settings, plague=plague)

    def members(self) -> list[int]:
        """The processes that began to consume and are not dead, the oldest first."""
        begun = [entry for entry in self._ledger.entries() if isinstance(entry, Ready)]
        pids = [entry.pid for entry in begun if self._is_of_us(entry)]
        return [pid for pid in pids if pid not in self._dead and is_alive(pid)]

    async def until_consuming(self, count: int) -> None:
        """Return once so many consume."""
        await until(lambda: len(self.members()) >= count, START_TIMEOUT, f"{count} consume")

    async def kill_member(self, pid: int) -> None:
        """End one process as a crash would; returns when it is dead."""
        self._note_death(pid)
        os.kill(pid, signal.SIGKILL)
        await until(lambda: not is_alive(pid), END_TIMEOUT, "it is dead")

    def kill(self) -> None:
        """End all of it, as the end of a machine would."""
        members = self.members()
        for pid in members:
            self._note_death(pid)
        if self.exit_code is None:
            os.killpg(self.pid, signal.SIGKILL)
        else:
            for pid in members:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        super().kill()

    def kill_supervisor(self) -> None:
        """End the supervisor alone; its processes are left."""
        self._process.kill()
        self._process.wait()

    def interrupt(self) -> None:
        """What Ctrl-C in a terminal does."""
        os.killpg(self.pid, signal.SIGINT)

    def _is_of_us(self, entry: Ready) -> bool:
        return entry.parent == self.pid

    def _note_death(self, pid: int) -> None:
        self._dead.add(pid)
        self._ledger.write(Died(pid, now()))


def is_alive(pid: int) -> bool:
    """Whether there is such a process, and not only its entry for a parent that does not look."""
    return state(pid) not in "ZX"


def state(pid: int) -> str:
    """The letter that Linux has for it, such as "T" while it is stopped; "X" when it is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return "X"


async def keep_running(
    hire: Callable[[], WorkerProcess], *, task_status: TaskStatus[None] = TASK_STATUS_IGNORED
) -> None:
    """Have one worker at any time, a new one whenever it dies, until cancelled."""
    worker = hire()
    task_status.started()
    while True:
        await anyio.sleep(LOOK)
        if worker.exit_code is not None:
            worker = hire()
