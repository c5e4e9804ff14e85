"""The bench: one store, one ledger, some workers and a producer, and what they add up to."""

import signal
from collections.abc import Awaitable, Callable, Iterable, Sequence
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import Any, Generic, TypeVar

import anyio
import msgspec

from asyncq import App
from asyncq.client.result import Result
from asyncq.clock import SystemClock
from asyncq.config import Config, Url
from asyncq.drivers.table import make_backend
from asyncq.errors import BrokerUnavailable
from asyncq.language.message import Succeeded, new_id
from asyncq.language.record import Record
from asyncq.seams.admin import DeadLetter
from tests.faults.lab.audit import Audit
from tests.faults.lab.beds import Bed
from tests.faults.lab.before import BEFORE
from tests.faults.lab.checker import Findings, check
from tests.faults.lab.crash_points import DIE_AT
from tests.faults.lab.ledger import Accepted, Attempted, Ended, Healed, Ledger, Started, now
from tests.faults.lab.scoped import PARTS, Part
from tests.faults.lab.sqlite_bed import is_locked
from tests.faults.lab.tasks import LATER, QUEUE, make_app
from tests.faults.lab.waiting import LOOK
from tests.faults.lab.workers import Crew, Script, WorkerProcess

B = TypeVar("B", bound=Bed)

BATCH = 500
PATIENCE = 120.0  # seconds until a test gives up waiting; what must be quick is measured
CONFIG = Config(lease=2.0, concurrency=50, grace=20.0, keep_result=3600.0)


class Bench(Generic[B]):
    """What an experiment has before it."""

    def __init__(self, directory: Path, bed: B, config: Config = CONFIG) -> None:
        self.bed = bed
        self.backend = bed.backend
        self.config = config
        self.directory = directory
        self.workers: list[WorkerProcess] = []
        self.ledger = Ledger(directory / "ledger.jsonl")
        self.accepted: list[str] = []
        self.records: dict[str, Record] = {}
        """The outcomes as they were first seen."""

    def configure(self, **settings: Any) -> None:
        """Change the `Config` of workers and apps to come."""
        self.config = msgspec.structs.replace(self.config, **settings)

    def keep_outcomes_apart(self) -> None:
        """Have workers and apps to come use a backend that is not the broker's store."""
        self.backend = self.bed.other_backend

    @property
    def _own_backend(self) -> str | None:
        return None if self.backend == self.bed.url else self.backend

    # Workers

    def hire(
        self,
        url: str | None = None,
        *,
        die_at: str | None = None,
        later: bool = False,
        before: bool = False,
        **settings: Any,
    ) -> WorkerProcess:
        """A new worker, starting; ``settings`` are fields of its `Config`."""
        config = msgspec.structs.replace(self.config, **settings)
        log = self.directory / f"worker-{len(self.workers)}.log"
        variables = {
            "LAB_BACKEND": self._own_backend,
            DIE_AT: die_at,
            LATER: "yes" if later else None,
            BEFORE: "yes" if before else None,
        }
        worker = WorkerProcess(
            url or self.bed.url,
            config,
            self.ledger,
            log,
            settings={name: value for name, value in variables.items() if value is not None},
        )
        self.workers.append(worker)
        return worker

    def hire_crew(
        self, processes: int, *options: str, plague: Path | None = None, **settings: Any
    ) -> Crew:
        """A supervisor with so many processes, starting; ``options`` are those of the command."""
        config = msgspec.structs.replace(self.config, **settings)
        log = self.directory / f"worker-{len(self.workers)}.log"
        options = ("--processes", str(processes), *options)
        crew = Crew(
            self.bed.url,
            config,
            self.ledger,
            log,
            settings={} if self._own_backend is None else {"LAB_BACKEND": self._own_backend},
            options=options,
            plague=plague,
        )
        self.workers.append(crew)
        return crew

    def run_script(self, parts: Sequence[Part]) -> Script:
        """A process that is no worker and has these in a scope of its own, starting."""
        log = self.directory / f"worker-{len(self.workers)}.log"
        settings = {PARTS: msgspec.json.encode(parts).decode()}
        if self._own_backend is not None:
            settings["LAB_BACKEND"] = self._own_backend
        script = Script(self.bed.url, self.config, self.ledger, log, settings=settings)
        self.workers.append(script)
        return script

    async def hired_crew(self, processes: int, *options: str, **settings: Any) -> Crew:
        """A supervisor whose processes are about to consume."""
        crew = self.hire_crew(processes, *options, **settings)
        await crew.until_consuming(processes)
        return crew

    async def hired(self, url: str | None = None, **settings: Any) -> WorkerProcess:
        """A new worker that is about to consume."""
        worker = self.hire(url, **settings)
        await worker.ready()
        return worker

    # The producer

    def app(self, url: str | None = None) -> App:
        return make_app(url or self.bed.url, self.config, self._own_backend)

    async def send(
        self,
        app: App,
        count: int,
        task: str = "work",
        *,
        delay: float | None = None,
        **kwargs: Any,
    ) -> list[Result[Any]]:
        """Send so many calls in one go; in the ledger are what was tried and what was accepted."""
        asked = app.tasks[task]
        calls = [asked.options(id=new_id(), delay=delay).s(**kwargs) for _ in range(count)]
        results: list[Result[Any]] = []
        for start in range(0, count, BATCH):
            some = calls[start : start + BATCH]
            ids = [call.options.id or "" for call in some]
            self.ledger.write(Attempted(ids, now()))
            results += await app.enqueue_many(some)
            self.ledger.write(Accepted(ids, now()))
            self.accepted += ids
        return results

    async def note(self, ids: Sequence[str], put: Callable[[], Awaitable[None]]) -> None:
        """Send in another way than by calls; in the ledger it is the same."""
        batches = [[*ids[start : start + BATCH]] for start in range(0, len(ids), BATCH)]
        for batch in batches:
            self.ledger.write(Attempted(batch, now()))
        await put()
        for batch in batches:
            self.ledger.write(Accepted(batch, now()))
        self.accepted += ids

    async def produce(self, app: App, pause: float, task: str = "work") -> None:
        """Send one call after the other, whatever becomes of it, until cancelled."""
        while True:
            try:
                await self.send(app, 1, task)
            except BrokerUnavailable:
                continue  # it was not accepted, and may have been stored even so
            await anyio.sleep(pause)

    async def keep_busy(self, app: App, backlog: int = BATCH, **kwargs: Any) -> None:
        """Send more whenever less than this is left to be done, until cancelled."""
        while True:
            if len(self.accepted) - len(self.ended()) < backlog:
                await self.send(app, backlog, **kwargs)
            await anyio.sleep(LOOK)

    def healed(self) -> None:
        """Note that what was broken works again."""
        self.ledger.write(Healed(now()))

    def is_locked(self) -> bool:
        """Whether somebody who stands still keeps everybody else from writing, to the broker or of
        outcomes. Blocks."""
        return self.bed.is_locked or (
            self.backend.startswith("sqlite:") and is_locked(self.backend)
        )

    # What has happened so far

    def starts(self, id: str | None = None) -> list[Started]:
        """The runs that have begun, of this message or of all."""
        entries = self.ledger.entries()
        return [e for e in entries if isinstance(e, Started) and id in {None, e.id}]

    def ended(self) -> set[str]:
        """The messages of which a run has ended."""
        return {entry.id for entry in self.ledger.entries() if isinstance(entry, Ended)}

    async def audit(self) -> Audit:
        return await anyio.to_thread.run_sync(self.bed.audit)

    async def until_audit(
        self, wanted: Callable[[Audit], bool], what: str, within: float = PATIENCE
    ) -> Audit:
        """The first audit that is as wanted."""
        deadline = now() + within
        while not wanted(audit := await self.audit()):
            assert now() < deadline, f"waited {within} s in vain until {what}: {audit}"
            await anyio.sleep(LOOK)
        return audit

    def value(self, id: str) -> Any:
        """What a task that succeeded returned."""
        outcome = self.records[id].outcome
        assert isinstance(outcome, Succeeded), outcome
        return msgspec.msgpack.decode(outcome.value)

    async def dead_letters(self, app: App, limit: int = 100) -> Sequence[DeadLetter]:
        return await app.dead.list(QUEUE, limit=limit)

    async def settled(self, within: float = PATIENCE) -> None:
        """Return once everything that was accepted has an outcome; they are in `records`."""
        missing = self._without_outcome()
        with anyio.move_on_after(within):
            async with make_backend(Url(self.backend), SystemClock()) as backend:
                while missing:
                    found = await backend.fetch(missing[:BATCH])
                    self.records.update({record.id: record for record in found if record})
                    missing = self._without_outcome()
                    if None in found:
                        await anyio.sleep(0.05)
            return
        raise AssertionError(
            f"{len(missing)} have no outcome after {within} s, such as {missing[:3]}: "
            f"{await self.audit()}"
        )

    def _without_outcome(self) -> list[str]:
        """What was accepted, from the producer or from a task, and is not known to have ended."""
        batches = [entry.ids for entry in self.ledger.entries() if isinstance(entry, Accepted)]
        return list(dict.fromkeys(id for ids in batches for id in ids if id not in self.records))

    async def audit_all(self, *, dead: int | None = 0) -> Findings:
        """Let everything come to its end, dismiss the workers, and see that all is well.

        What must never happen is checked here; what an experiment may cause is in the findings.
        With ``dead=None`` it looks at the dead letters itself.
        """
        await self.settled()
        audit = await self.until_audit(lambda audit: audit.is_idle, "nothing is left to be done")
        for worker in self.workers:
            if worker.exit_code is None:
                worker.send(signal.SIGTERM)
        for worker in self.workers:
            await worker.end()
        audit = await self.audit()
        await self._see_that_outcomes_stood()
        findings = check(self.ledger.entries(), self.records, audit.waiting)
        assert not audit.faults, audit.faults[:5]
        assert dead is None or len(audit.dead) == dead, audit.dead
        assert findings.lost == 0, findings
        assert findings.unexpected == 0, findings
        return findings

    def see_no_repetition(self, findings: Findings) -> None:
        """No attempt ran twice; where the connection is the lease, it may when that is lost."""
        if self.bed.keeps_hold:
            assert findings.duplicated == findings.overlapped == findings.repeated == 0, findings

    def see_that_these_are(self, found: AbstractSet[str], ids: Iterable[str]) -> None:
        """An audit found these messages there, and no others; or so many, where none has a name."""
        if self.bed.knows_ids:
            assert found == {*ids}
        else:
            assert len(found) == len({*ids}), found

    def close(self) -> None:
        for worker in self.workers:
            worker.kill()
        self.ledger.close()

    async def _see_that_outcomes_stood(self) -> None:
        ids = list(self.records)
        async with make_backend(Url(self.backend), SystemClock()) as backend:
            for start in range(0, len(ids), BATCH):
                batch = ids[start : start + BATCH]
                for id, record in zip(batch, await backend.fetch(batch), strict=True):
                    assert record == self.records[id], f"the outcome of {id} changed"
