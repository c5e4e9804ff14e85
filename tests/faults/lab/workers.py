"""Worker processes: started, paused, signalled, killed, and kept alive."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import anyio
import msgspec
from anyio import TASK_STATUS_IGNORED
from anyio.abc import TaskStatus

from asyncq.config import Config
from tests.faults.lab.ledger import Died, Ledger, Ready, now
from tests.faults.lab.tasks import LEDGER
from tests.faults.lab.waiting import LOOK, until

ROOT = Path(__file__).resolve().parents[3]  # where ``tests`` can be imported from
START_TIMEOUT = 30.0  # seconds
END_TIMEOUT = 60.0


class WorkerProcess:
    """One worker; its log is a file of its own."""

    def __init__(
        self, url: str, config: Config, ledger: Path, log: Path, settings: Mapping[str, str]
    ) -> None:
        self._log = log
        environment = {
            **os.environ,
            "LAB_URL": url,
            "LAB_CONFIG": msgspec.json.encode(config).decode(),
            LEDGER: str(ledger),
            **settings,
        }
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.faults.lab.worker_main"],
                cwd=ROOT,
                env=environment,
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=output,
            )
        self._ledger = Ledger(ledger)
        self._is_dead = False
        self.pid = self._process.pid

    @property
    def exit_code(self) -> int | None:
        """None while it lives; when it does not any more, the ledger says so, too."""
        code = self._process.poll()
        if code is not None and not self._is_dead:
            self._is_dead = True
            self._ledger.write(Died(self.pid, now()))
            self._ledger.close()
            if self._process.stdin is not None:
                self._process.stdin.close()
        return code

    def send(self, what: signal.Signals) -> None:
        self._process.send_signal(what)

    def kill(self) -> None:
        """End it as a crash would; returns when it is dead."""
        if self.exit_code is None:
            self._process.kill()
            self._process.wait()
        assert self.exit_code is not None

    def log(self) -> str:
        return self._log.read_text()

    async def ready(self) -> None:
        """Return once it is about to consume."""
        await until(
            lambda: (
                self.exit_code is not None
                or any(isinstance(e, Ready) and e.pid == self.pid for e in self._ledger.entries())
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
