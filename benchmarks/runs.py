"""One run: a fresh store, and a process in the contender's environment that measures."""

import json
import os
import platform
import re
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from time import monotonic
from typing import Any

from benchmarks import processes
from benchmarks.contenders import CONTENDERS, Entry
from benchmarks.environments import ROOT, EnvironmentMissing, interpreter
from benchmarks.rabbitmq import rabbitmq_server
from benchmarks.servers import OPTIONS, Server, ServerDidNotStart, redis_server

LOG_TAIL = 1500  # characters of what each process of a failed run has said

Found = dict[str, Any]


class RunFailed(Exception):
    """A contender did not get to the end; the end of its logs says more."""


@dataclass(frozen=True)
class Urls:
    """Where a contender keeps what it has."""

    messages: str
    results: str


@dataclass(frozen=True)
class Run:
    """One question to one contender."""

    question: str
    contender: str
    options: Mapping[str, int]
    timeout: float

    def perform(self) -> Found:
        """Measure; return everything needed to believe it, or an ``error`` in its place."""
        found: Found = {
            "question": self.question,
            "contender": self.contender,
            "kind": self._entry.kind,
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "commit": commit(),
            "machine": machine(),
            "options": dict(self.options),
        }
        begun = monotonic()
        with tempfile.TemporaryDirectory(prefix="asyncq-bench-") as place:
            directory = Path(place)
            try:
                with self._store(directory) as (urls, store):
                    found |= {"store": store} | self._measure(directory, urls)
            except (EnvironmentMissing, ServerDidNotStart, RunFailed) as error:
                found["error"] = f"{type(error).__name__}: {error}"
        return found | {"duration": round(monotonic() - begun, 3)}

    @property
    def _entry(self) -> Entry:
        return CONTENDERS[self.contender]

    @contextmanager
    def _store(self, directory: Path) -> Iterator[tuple[Urls, Found]]:
        """Where the contender keeps its messages and its results, and what that is."""
        kind = self._entry.store
        if kind == "sqlite":
            url = f"sqlite:///{directory / 'asyncq.db'}"
            yield Urls(messages=url, results=url), {"kind": kind}
            return
        with ExitStack() as servers:
            redis = servers.enter_context(redis_server(directory))
            if kind == "rabbitmq":
                rabbitmq = servers.enter_context(rabbitmq_server(directory / "rabbitmq"))
                store = {"kind": kind, "version": rabbitmq.version, "results": _redis(redis)}
                yield Urls(messages=rabbitmq.url, results=redis.url), store
            else:
                yield Urls(messages=redis.url, results=redis.url), _redis(redis)

    def _measure(self, directory: Path, urls: Urls) -> Found:
        """Have it measured by `benchmarks.inside`, whose worker is in the same process group."""
        python = interpreter(self._entry.environment)
        what = [self.question, self.contender, json.dumps(self.options), str(directory)]
        with (directory / "client.log").open("wb") as log:
            process = subprocess.Popen(
                [python, "-m", "benchmarks.inside", *what],
                cwd=ROOT,
                env=os.environ | self._environ(directory, urls),
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        try:
            code = process.wait(self.timeout)
        except subprocess.TimeoutExpired:
            raise RunFailed(f"not done after {self.timeout} s; {_said(directory)}") from None
        finally:
            processes.end(process)
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        if code:
            raise RunFailed(_said(directory))
        measured: Found = json.loads((directory / "measured.json").read_text())
        return measured

    def _environ(self, directory: Path, urls: Urls) -> dict[str, str]:
        return {
            "PYTHONPATH": str(ROOT),
            "BENCH_STORE": urls.messages,
            "BENCH_RESULTS": urls.results,
            "BENCH_QUESTION": self.question,
            "BENCH_CONTENDER": self.contender,
            "BENCH_CONCURRENCY": str(self.options.get("concurrency", 100)),
            "BENCH_TICKS": str(directory / "ticks"),
            "BENCH_LEDGER": str(directory / "ledger"),
        }


def _redis(server: Server) -> Found:
    return {"kind": "redis", "version": server.version} | OPTIONS


def _said(directory: Path) -> str:
    """The client's last line, its exception if it failed; then what led to it."""
    last, tails = "", []
    for name in ("client", "worker"):
        path = directory / f"{name}.log"
        text = path.read_text("utf-8", "replace").strip() if path.exists() else ""
        if text:
            last = last or text.rpartition("\n")[2]
            tails.append(f"{name}: …{text[-LOG_TAIL:]}")
    return "\n".join([last, *tails])


def machine() -> dict[str, object]:
    """What this runs on, and how busy it was."""
    model = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    return {
        "cpu": model.group(1) if model else platform.processor(),
        "cores": os.cpu_count(),
        "system": f"{platform.system()} {platform.release()}",
        "load": round(os.getloadavg()[0], 2),  # what else was going on before the run
    }


def commit() -> str:
    """The version of asyncq that is checked out."""
    command = ["git", "describe", "--always", "--dirty"]
    said = subprocess.run(command, cwd=ROOT, check=False, capture_output=True, text=True)
    return said.stdout.strip()
