"""The command line as users have it: processes, their output, and their ends."""

import json
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

TIMEOUT = 60.0  # seconds; far more than anything takes
ASYNCQ = (sys.executable, "-m", "asyncq")


class Ended(NamedTuple):
    """What a process left behind."""

    code: int
    out: str
    err: str

    @property
    def data(self) -> Any:
        return json.loads(self.out)


class Running:
    """A process, and what it has written to standard error so far."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process
        self._news: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self.lines: list[str] = []
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    @property
    def pid(self) -> int:
        return self._process.pid

    def wait_for(self, text: str) -> str:
        """Return the next line with ``text`` in it."""
        deadline = time.monotonic() + TIMEOUT
        while True:
            line = self._news.get(timeout=max(0.0, deadline - time.monotonic()))
            assert line is not None, f"it ended before {text!r}: {self.lines}"
            if text in line:
                return line

    def send(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def wait(self) -> int:
        """Its exit code."""
        code = self._process.wait(TIMEOUT)
        self._reader.join(TIMEOUT)
        return code

    def _read(self) -> None:
        assert self._process.stderr is not None
        for line in self._process.stderr:
            self.lines.append(line)
            self._news.put(line)
        self._news.put(None)


class Shell:
    """A directory to run commands in, and an environment."""

    def __init__(self, directory: Path, environment: Mapping[str, str]) -> None:
        self.directory = directory
        self.environment = dict(environment)

    def asyncq(self, *arguments: str, stdin: str = "") -> Ended:
        """Run ``asyncq ARGUMENTS`` to its end."""
        return self.run([*ASYNCQ, *arguments], stdin=stdin)

    def run(self, command: Sequence[str | bytes], *, stdin: str = "") -> Ended:
        done = subprocess.run(
            command,
            cwd=self.directory,
            env=self.environment,
            input=stdin,
            capture_output=True,
            text=True,
            errors="surrogateescape",
            timeout=TIMEOUT,
            check=False,
        )
        return Ended(done.returncode, done.stdout, done.stderr)

    @contextmanager
    def start(self, *arguments: str, program: Sequence[str] = ASYNCQ) -> Generator[Running]:
        """A command that goes on; killed with the block, if it is still there."""
        with subprocess.Popen(
            [*program, *arguments],
            cwd=self.directory,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            errors="surrogateescape",
        ) as process:
            running = Running(process)
            try:
                yield running
            finally:
                process.kill()
                running.wait()

    @contextmanager
    def worker(self, *options: str) -> Generator[Running]:
        """A worker of ``tasks:app`` that consumes; ended with the block as users end it."""
        with self.start("worker", "tasks:app", *options) as worker:
            worker.wait_for("consumes")
            yield worker
            worker.send(signal.SIGTERM)
            assert worker.wait() == 0


def wait_until_there(path: Path) -> None:
    """Return once the file is there."""
    deadline = time.monotonic() + TIMEOUT
    while not path.exists():
        assert time.monotonic() < deadline, f"no {path}"
        time.sleep(0.01)  # files have no way to tell us
