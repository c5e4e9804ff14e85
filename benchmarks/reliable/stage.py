"""The stage of one experiment: a server, a library's workers and its client, and the ledger."""

import itertools
import json
import os
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event, Lock, Thread
from time import monotonic, sleep
from typing import Any

from benchmarks import processes
from benchmarks.environments import ROOT, interpreter
from benchmarks.reliable.durable import DurableServer, durable_server
from benchmarks.reliable.ledger import Ledger
from benchmarks.reliable.trees import Tree

LOOK = 0.01  # seconds between two looks at the ledger
BUSY = 20  # tasks that end within `WINDOW` seconds: more than what drips back one by one
WINDOW = 3.0
PROBE_EVERY = 1.0  # seconds

Message = tuple[str, float]  # its id, and how long it runs


class WorkerNeverRan(Exception):
    """Nothing of this library ran, so that nothing can be said about it; its log says why."""


@dataclass(frozen=True)
class Terms:
    """What an experiment may cost, and under which lease it runs."""

    tasks: int = 20_000
    kills: int = 20
    lease: int = 15
    patience: int = 60  # seconds beyond the lease; if nothing has ended in them, the rest is lost
    drip: int = 240  # seconds for which what comes back one by one is waited for


class Remote:
    """The client process, spoken to in lines."""

    def __init__(self, name: str, environ: Mapping[str, str], log: Path) -> None:
        self._turn = Lock()
        with log.open("ab") as file:
            self.process = subprocess.Popen(
                [interpreter(name), "-m", "benchmarks.reliable.client", name],
                cwd=ROOT,
                env=environ,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=file,
            )

    def ask(self, call: str, **request: object) -> Any:
        """Send one request and wait for its answer."""
        with self._turn:
            assert self.process.stdin
            assert self.process.stdout
            self.process.stdin.write(json.dumps({"call": call, **request}).encode() + b"\n")
            self.process.stdin.flush()
            if not (answer := self.process.stdout.readline()):
                raise WorkerNeverRan("the client has ended")
            return json.loads(answer)


@dataclass
class Stage:
    """One library in front of a fresh server."""

    terms: Terms
    directory: Path
    server: DurableServer
    client: Remote
    environ: Mapping[str, str]
    about: Mapping[str, Any]
    ledger: Ledger
    trees: list[Tree] = field(default_factory=list[Tree])

    def enqueue(self, task: str, messages: Sequence[Message]) -> list[str]:
        """Enqueue; return the ids of what the library has acknowledged."""
        kept: list[str] = self.client.ask("enqueue", task=task, messages=messages)["kept"]
        return kept

    def fate(self, id: str) -> str:
        """What the library says about the end of a message; empty if nothing."""
        said: str = self.client.ask("fate", id=id)["fate"]
        return said

    @contextmanager
    def workers(self, count: int = 1) -> Iterator[None]:
        """Run worker trees, with a trickle of small tasks as a living system has them."""
        with ExitStack() as stack:
            for index in range(count):
                log = self.directory / f"worker{index}.log"
                command = self.about["commands"][index]
                tree = Tree(command, self.environ, log, f"{self.directory.name}-{index}")
                self.trees.append(stack.enter_context(tree))
            stack.enter_context(self._trickle())
            yield

    def wait(self, until: Callable[[], bool], seconds: float) -> bool:
        """Read the ledger until something holds, but not for longer than this."""
        deadline = monotonic() + seconds
        while monotonic() < deadline:
            self.ledger.refresh()
            if until():
                return True
            sleep(LOOK)
        return False

    def settle(self, ids: Sequence[str]) -> bool:
        """Wait until all have ended; return whether there is no more to be expected.

        That is so when nothing has ended for the lease and `Terms.patience`. What drips back one
        by one is waited for, but not for longer than `Terms.drip` after the last busy moment.
        """
        left = {id for id in ids if not self.ledger.ends[id]}
        recent: list[float] = []
        ended = busy = monotonic()
        while left:
            new = [entry for entry in self.ledger.refresh() if entry.id in left]
            recent += [entry.moment for entry in new if entry.kind == "end"]
            left = {id for id in left if not self.ledger.ends[id]}
            now = monotonic()
            ended = max([ended, *recent])
            recent = [moment for moment in recent if now - moment < WINDOW]
            if len(recent) >= BUSY:
                busy = now
            if now - ended > self.terms.lease + self.terms.patience:
                return True
            if now - busy > self.terms.drip:
                return False
            sleep(10 * LOOK)
        return True

    def alive(self) -> list[int]:
        """The processes of all trees."""
        return [pid for tree in self.trees for pid in tree.pids()]

    @property
    def restarts(self) -> int:
        """How often a main process has ended, so that it had to be started again."""
        return sum(len(tree.exits) for tree in self.trees)

    @contextmanager
    def _trickle(self) -> Iterator[None]:
        """A small task every second: some libraries look for what is lost when work arrives."""
        done = Event()

        def drip() -> None:
            for number in itertools.count():
                if done.wait(PROBE_EVERY):
                    return
                self.enqueue("record", [(f"probe{number}", 0.0)])

        thread = Thread(target=drip, daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join(PROBE_EVERY)


@contextmanager
def open_stage(name: str, terms: Terms, concurrency: int, directory: Path) -> Iterator[Stage]:
    """Everything for one experiment, for the length of the block."""
    ledger = directory / "ledger"
    with durable_server(directory) as server:
        environ = os.environ | {
            "PYTHONPATH": str(ROOT),
            "BENCH_STORE": server.url,
            "BENCH_LEASE": str(terms.lease),
            "BENCH_CONCURRENCY": str(concurrency),
            "BENCH_LEDGER": str(ledger),
        }
        client = Remote(name, environ, directory / "client.log")
        try:
            about = client.ask("about")
            yield Stage(terms, directory, server, client, environ, about, Ledger(ledger))
        finally:
            processes.end(client.process)
