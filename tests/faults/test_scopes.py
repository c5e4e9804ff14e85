"""Scopes: what belongs to one ends with it, and with who has opened it, whoever dies meanwhile."""

import math
import random
import signal
from collections import defaultdict
from collections.abc import Collection, Generator, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import anyio
import msgspec
import pytest
from msgspec.structs import replace

import asyncq
from asyncq import App, Cancellation, TaskCancelled
from asyncq.clock import SystemClock
from asyncq.config import Url
from asyncq.drivers.table import make_backend
from asyncq.language.message import Cancelled, Failed, Succeeded, new_id
from asyncq.language.scopes import SCOPE, name_of
from tests.faults.conftest import Report
from tests.faults.lab.beds import Bed, ServerBed
from tests.faults.lab.bench import Bench
from tests.faults.lab.crash_points import ENDED_SCOPES, REOPENED, SCOPES
from tests.faults.lab.doomed import see_dead
from tests.faults.lab.ledger import Accepted, Begun, Broken, Cancelling, Died, Ended, Started, now
from tests.faults.lab.proxy import Cut, Pass, Proxy, start_proxy
from tests.faults.lab.scale import scaled
from tests.faults.lab.scoped import Broken as Error
from tests.faults.lab.scoped import Part, begin, leave_by_error, part
from tests.faults.lab.waiting import LOOK, until
from tests.faults.test_follow_ups import PATIENCE, either_bench
from tests.servers import start_redis

__all__ = ["either_bench"]  # a fixture

LEASE = 2.5  # seconds
MISSED = LEASE + 2.0  # seconds from the death of an owner, from which on nothing begins
LONG = 120.0  # seconds that nobody waits for
LATER = 1.0  # seconds after a scope was cancelled, from which on nothing of it begins
FEW = scaled(3, 30)
QUEUED = scaled(20, 1000)
SLOTS = FEW + 5
BELOW = 3  # that `tree` has below one of its grandparents
GRANDPARENTS = 2
ROUNDS = scaled(1, 5)
RHYTHM = 0.1  # seconds
CUT_LEASE = 3.0  # seconds
RUNNING = FEW + 2 + 2 * FEW  # of `held`
HEARD = 3.0  # seconds from a repair until what was cancelled meanwhile is heard of
QUICK = ["kill-outer", "cancel-inner"]  # once each way, and once each scope
TREES = scaled(30, 300)
EACH = 2 + 3 + 2  # that are sent for one of these trees: two, what is below one, and below that
KILLS = scaled(2, 10)  # before a scope is left; there may be more while it is


def tree(delay: float) -> list[Part]:
    """What runs for long: children, theirs, and theirs again; more than there are slots for; and
    what is delayed."""
    below = [part("work", 2, seconds=LONG), part("beget", parts=[part(seconds=LONG)], seconds=LONG)]
    return [
        part("work", FEW, seconds=LONG),
        part("beget", GRANDPARENTS, parts=below, seconds=LONG),
        part("beget", parts=[part("work", QUEUED, seconds=LONG)], seconds=LONG),
        part("work", FEW, delay=delay, seconds=LONG),
    ]


class Family:
    """What the ledger tells of runs and of what they have begun."""

    def __init__(self, bench: Bench[Any]) -> None:
        self.begun: dict[str, list[str]] = defaultdict(list)  # by runs
        self.accepted: set[str] = set()
        self.runs: dict[str, list[Started]] = defaultdict(list)  # by messages
        self.over: dict[str, float] = {}  # by runs
        self._deaths: dict[int, float] = {}  # by processes
        for entry in bench.ledger.entries():
            match entry:
                case Begun():
                    self.begun[entry.run] += entry.ids
                case Accepted():
                    self.accepted.update(entry.ids)
                case Started():
                    self.runs[entry.id].append(entry)
                case Broken() | Ended():
                    self.over[entry.run] = entry.at
                case Died():
                    self._deaths.setdefault(entry.pid, entry.at)
                case _:
                    pass

    def below(self, run: str) -> list[str]:
        """All that this run has begun, what that has begun included."""
        found = [*self.begun[run]]
        for id in found:  # it grows meanwhile
            found += [each for start in self.runs[id] for each in self.begun[start.run]]
        return found

    def starts(self, ids: Iterable[str]) -> list[float]:
        return [start.at for id in ids for start in self.runs[id]]

    def lost_runs(self, id: str) -> list[tuple[str, float]]:
        """The runs of this that were cut off by the death of their process, and when."""
        return [
            (start.run, self._deaths[start.pid])
            for start in self.runs[id]
            if start.run not in self.over and start.pid in self._deaths
        ]

    def broken(self, ids: Iterable[str], pids: Collection[int]) -> list[float]:
        """When the runs of these in these processes ended."""
        runs = [start for id in ids for start in self.runs[id] if start.pid in pids]
        return [self.over[start.run] for start in runs]


async def until_ended(bench: Bench[Any], ids: Sequence[str], within: float = PATIENCE) -> None:
    """Return once these have an outcome; it is in `Bench.records`."""
    missing = list(ids)
    async with make_backend(Url(bench.backend), SystemClock()) as backend:
        with anyio.fail_after(within):
            while missing:
                found = await backend.fetch(missing)
                bench.records.update({record.id: record for record in found if record})
                missing = [id for id in missing if id not in bench.records]
                await anyio.sleep(LOOK)


def see_all(bench: Bench[Any], ids: Iterable[str], kind: type) -> None:
    """All of these that were accepted have ended so."""
    outcomes = {id: bench.records[id].outcome for id in ids if id in bench.records}
    assert outcomes
    others = {id: outcome for id, outcome in outcomes.items() if not isinstance(outcome, kind)}
    assert not others, others


async def send_to_none(bench: Bench[Any], app: App) -> list[str]:
    """Send some that belong to a scope of which nothing is left."""
    headers = {SCOPE: [name_of(None, new_id(), 1)]}
    ids = [new_id(), new_id()]
    calls = [app.tasks["work"].options(id=id).s() for id in ids]
    calls = [replace(call, options=replace(call.options, headers=headers)) for call in calls]

    async def put() -> None:
        await app.enqueue_many(calls)

    await bench.note(ids, put)
    return ids


async def until_sent(bench: Bench[Any], run: str, parts: Sequence[Part]) -> None:
    """Return once that run has sent all of these.

    Before, no worker that the tree fills may run any of it: what one part sends could take its
    slots for as long as the tree stands, and a part that is sent behind that would never begin.
    """
    count = sum(part["count"] for part in parts)

    def is_sent() -> bool:
        family = Family(bench)
        return len(family.accepted.intersection(family.begun[run])) == count

    await until(is_sent, PATIENCE, "all of it is sent")


async def until_tree_is_up(bench: Bench[Any], run: str) -> None:
    """Return once of that tree all slots of one worker are full, and some of it waits."""
    full = FEW + GRANDPARENTS * 2 + 1

    def is_up() -> bool:
        family = Family(bench)
        return (
            len(family.starts(family.below(run))) >= min(full, SLOTS)
            and len(family.below(run)) >= 2 * FEW + 1 + GRANDPARENTS * (1 + BELOW) + QUEUED
        )

    await until(is_up, PATIENCE, "the tree is up")


@pytest.mark.parametrize("stands_still", [False, True], ids=["killed", "stopped"])
async def test_what_a_task_has_in_its_scope_ends_with_the_process_that_ran_it(
    either_bench: Bench[Bed], report: Report, stands_still: bool
) -> None:
    bench = either_bench
    bench.configure(lease=LEASE, max_crashes=1000)
    again = [part("work", FEW), part("beget", parts=[part("work", FEW)])]
    async with bench.app() as app:
        doomed = await bench.hired(bench.bed.impatient_url, concurrency=1, max_waiting=0)
        parts = tree(delay=LEASE + 1.0)
        [owner] = await bench.send(app, 1, "own", parts=parts, again=again)
        await until(lambda: bool(bench.starts(owner.id)), PATIENCE, "its owner runs")
        first = bench.starts(owner.id)[0].run
        await until_sent(bench, first, parts)
        other = await bench.hired(concurrency=SLOTS)
        await until_tree_is_up(bench, first)
        if stands_still:
            await doomed.stopped(bench.is_locked)
        else:
            doomed.kill()
        died = now()
        third = await bench.hired(concurrency=SLOTS)
        await until_ended(bench, [owner.id])
        if stands_still:
            doomed.send(signal.SIGCONT)
        findings = await bench.audit_all()

    family = Family(bench)
    second = family.runs[owner.id][1]
    members, anew = family.below(first), family.below(second.run)
    last = max(family.starts(members))
    broken = max(family.broken(members, {other.pid, third.pid}))
    report(
        findings,
        members=len(members),
        last_start=last - died,
        last_end=broken - died,
        runs_again=second.at - died,
        late=last - min(family.starts(anew)),
    )
    assert bench.value(owner.id) == second.run
    assert (first in family.over) == stands_still
    see_all(bench, members, Cancelled)
    see_all(bench, anew, Succeeded)
    assert len(anew) == 2 * FEW + 1
    assert last <= died + MISSED
    assert broken <= died + MISSED
    assert last <= min(family.starts(anew))


async def test_what_a_script_has_in_its_scope_ends_when_it_is_killed(
    either_bench: Bench[Bed], report: Report
) -> None:
    bench = either_bench
    bench.configure(lease=LEASE)
    async with bench.app():
        parts = tree(delay=LEASE + 1.0)
        script = bench.run_script(parts)
        await until_sent(bench, str(script.pid), parts)
        worker = await bench.hired(concurrency=SLOTS)
        await until_tree_is_up(bench, str(script.pid))
        script.kill()
        died = now()
        third = await bench.hired(concurrency=SLOTS)
        findings = await bench.audit_all()

    family = Family(bench)
    members = family.below(str(script.pid))
    last = max(family.starts(members))
    broken = max(family.broken(members, {worker.pid, third.pid}))
    report(findings, members=len(members), last_start=last - died, last_end=broken - died)
    see_all(bench, members, Cancelled)
    assert last <= died + MISSED
    assert broken <= died + MISSED


@pytest.mark.parametrize("what", scaled(QUICK, [*QUICK, "kill-inner", "cancel-outer"]))
async def test_what_is_inside_ends_and_what_is_outside_goes_on(
    either_bench: Bench[Bed], report: Report, what: str
) -> None:
    bench, gate = either_bench, either_bench.directory / "gate"
    bench.configure(lease=LEASE, max_crashes=1000)
    leaves = part("own", 2, parts=[part("work", 2, seconds=LONG)])
    again = [part("work", 2)]
    parts = [part("own", parts=[leaves], again=again), part("gated", gate=str(gate))]
    async with bench.app() as app:
        outermost = await bench.hired(concurrency=1, max_waiting=0)
        [outer] = await bench.send(app, 1, "own", parts=parts, again=again)
        await until(lambda: bool(bench.starts(outer.id)), PATIENCE, "the outer one runs")
        run = bench.starts(outer.id)[0].run
        middle = await bench.hired(concurrency=1, max_waiting=0)
        await until(lambda: len(bench.starts()) == 2, PATIENCE, "the inner one runs")
        await bench.hired(concurrency=SLOTS * 2)
        others = [each.id for each in await bench.send(app, 2, "gated", gate=str(gate))]
        await until(lambda: len(bench.starts()) == 2 + 1 + 2 + 4 + 2, PATIENCE, "all run")

        family = Family(bench)
        [inner, sibling] = family.begun[run]
        below = family.below(family.runs[inner][0].run)
        began = now()
        match what:
            case "kill-outer":
                outermost.kill()
                await bench.hired()
                ended = [inner, sibling, *below]
            case "kill-inner":
                middle.kill()
                ended = below
            case "cancel-outer":
                await outer.cancel("nobody needs it")
                ended = [outer.id, inner, sibling, *below]
            case _:
                await app.cancel([inner], "nobody needs it")
                ended = [inner, *below]
        await until_ended(bench, ended)
        took = now() - began
        see_all(bench, ended, Cancelled)
        gate.touch()
        findings = await bench.audit_all(dead=1 if what == "cancel-inner" else 0)

    report(findings, ended=len(ended), took=took)
    assert len({family.runs[id][0].pid for id in (outer.id, inner, below[0])}) == 3
    assert len(below) == 2 + 4
    see_all(bench, others, Succeeded)
    assert took <= (MISSED if what.startswith("kill") else LATER)
    assert len(bench.starts(outer.id)) == (2 if what == "kill-outer" else 1)
    outcome = bench.records[outer.id].outcome
    match what:
        case "kill-outer":
            assert bench.value(outer.id) == bench.starts(outer.id)[1].run
        case "kill-inner":
            see_all(bench, [outer.id, sibling], Succeeded)
            assert bench.value(inner) == bench.starts(inner)[1].run
        case "cancel-inner":
            see_all(bench, [sibling], Succeeded)
            assert isinstance(outcome, Failed)
            assert outcome.error.type == "ExceptionGroup"
            assert "TaskCancelled" in outcome.error.traceback
        case _:
            pass


async def test_a_worker_may_die_at_any_step_of_a_scope(
    either_bench: Bench[Bed], report: Report
) -> None:
    bench = either_bench
    # The last to die, and who comes after, have all owners on their hands that the others left.
    bench.configure(lease=2.0, concurrency=8, max_crashes=1000, max_waiting=10_000)
    points = [*SCOPES, *ENDED_SCOPES, *REOPENED]
    here, gone = 0, list[str]()

    async def have_one_here(app: App) -> None:
        nonlocal here
        here += 1
        run = f"here-{here}"
        with suppress(Error):
            async with asyncq.scope() as scope:
                soon = part("work", 2, seconds=0.15)
                await begin(app, bench.ledger, run, soon, part("work", 2, delay=0.3))
                await anyio.sleep(RHYTHM)
                if here % 2:
                    await scope.cancel()
                    bench.ledger.write(Cancelling(run, now()))
                leave_by_error()
        bench.ledger.write(Cancelling(run, now()))

    async with bench.app() as app:

        async def send() -> None:
            small = [part("work", 2), part("beget", parts=[part()])]
            await bench.send(app, 2, "own", parts=small)
            for end in ("cancel", "break"):
                large = [part("work", 2, seconds=0.3), part("work", delay=0.3)]
                await bench.send(app, 1, "own", parts=large, seconds=RHYTHM, end=end)
            await have_one_here(app)
            gone.extend(await send_to_none(bench, app))

        for _ in range(ROUNDS):
            await see_dead(bench, points, send, rhythm=0)  # it waits itself
        await bench.hired()
        findings = await bench.audit_all()

    family = Family(bench)
    ends = [entry for entry in bench.ledger.entries() if isinstance(entry, Cancelling)]
    members = {end.run: family.below(end.run) for end in ends}
    late = [
        start - end.at for end in ends for start in family.starts(members[end.run])
        if start > end.at
    ]  # fmt: skip
    lost = [
        at - died
        for owner in bench.accepted
        for run, died in family.lost_runs(owner)
        for at in family.starts(family.below(run))
    ]
    outcomes = [bench.records[id].outcome for id in bench.records]
    cancelled = sum(isinstance(outcome, Cancelled) for outcome in outcomes)
    report(
        findings, deaths=ROUNDS * len(points), scopes=len(ends), cancelled=cancelled,
        last_start=max(late, default=0.0), last_start_of_lost=max(lost),
    )  # fmt: skip
    assert max(late, default=0.0) <= LATER
    assert max(lost) <= bench.config.lease + 2.0
    see_all(bench, gone, Cancelled)
    assert not family.starts(gone)
    see_all(bench, {*bench.accepted} - {*gone}, Succeeded)  # the owners
    see_all(bench, [id for ids in members.values() for id in ids], Cancelled | Succeeded)  # pyright: ignore[reportArgumentType]


async def test_leaving_waits_for_what_surviving_runs_have_begun_while_workers_are_killed(
    either_bench: Bench[Bed], report: Report
) -> None:
    bench = either_bench
    bench.configure(lease=2.0, concurrency=8, max_crashes=1000)
    below = [part("work", 2, seconds=0.05), part("beget", parts=[part("work", 2, seconds=0.05)])]
    parts = [part("beget", TREES, parts=below, seconds=0.05), part("work", TREES, seconds=0.05)]
    kills, batches = 0, 1
    async with bench.app() as app:
        workers = [await bench.hired(), await bench.hired()]

        async def kill_some() -> None:
            nonlocal kills
            while True:
                seen = len(bench.ended())
                await until(lambda: len(bench.ended()) >= seen + TREES // 2, PATIENCE, "some end")  # noqa: B023 - called at once
                doomed = workers.pop(random.randrange(len(workers)))
                await doomed.stopped_at_work()
                doomed.kill()
                kills += 1
                workers.append(bench.hire())

        async with anyio.create_task_group() as killing:
            async with asyncq.scope(timeout=PATIENCE):
                await begin(app, bench.ledger, "here", *parts)
                killing.start_soon(kill_some)
                while kills < KILLS:  # there is work for whoever is to die at it
                    if len(bench.ended()) >= (batches - 1) * TREES * EACH:
                        await begin(app, bench.ledger, "here", *parts)
                        batches += 1
                    await anyio.sleep(LOOK)
            killing.cancel_scope.cancel()
        left, ended = now(), bench.ended()
        findings = await bench.audit_all()

    family = Family(bench)
    waited = [*family.begun["here"]]
    for id in waited:  # it grows meanwhile
        waited += family.begun[bench.value(id)]
    others = {*family.below("here")} - {*waited}
    report(findings, deaths=kills, waited_for=len(waited), others=len(others))
    assert len(waited) == batches * TREES * EACH
    assert {*waited} <= ended
    assert all(start <= left + LATER for start in family.starts(others))


class Line(msgspec.Struct, frozen=True):
    """How workers and clients reach their stores when their connection can be cut."""

    proxy: Proxy
    url: str
    """Of the broker."""
    backend: str | None
    """Of outcomes, through the proxy; the broker's if None, which is behind it as well."""


@pytest.fixture
def line(
    server_bench: Bench[ServerBed], request: pytest.FixtureRequest, tmp_path: Path
) -> Iterator[Line]:
    """A proxy before the Redis that keeps scopes: that of the broker, or one beside it."""
    bed = server_bench.bed
    with ExitStack() as stack:
        port = bed.port
        if bed.scheme != "redis":
            (tmp_path / "outcomes").mkdir()
            port = stack.enter_context(start_redis(tmp_path / "outcomes")).port
        proxy = stack.enter_context(start_proxy(port))
        if request.param == "one-store":
            yield Line(proxy, bed.url_through(proxy.port), None)
        else:
            url = "redis://127.0.0.1:{}/0?prefix=outcomes"
            server_bench.backend = url.format(port)
            yield Line(proxy, bed.url, url.format(proxy.port))


on_each_line = pytest.mark.parametrize(
    ("server_bench", "line"),
    [("redis", "one-store"), ("redis", "two-stores"), ("rabbitmq", "two-stores")],
    indirect=True,
)


@contextmanager
def behind(bench: Bench[Any], line: Line) -> Generator[None]:
    """Workers and apps that are made here are behind the proxy, with `Line.url`."""
    direct = bench.backend
    bench.backend = line.backend or bench.bed.url
    yield
    bench.backend = direct


async def two_behind(bench: Bench[Any], line: Line, *, workers: bool = True) -> App:
    """An app behind the proxy, and two workers, which may be there as well."""
    with behind(bench, line):
        app = bench.app(line.url)
        for _ in range(2 if workers else 0):
            await bench.hired(line.url)
    for _ in range(0 if workers else 2):
        await bench.hired()
    return app


def held(gate: str, delay: float) -> list[Part]:
    """`RUNNING` that run at once, most of them until the gate is open, and some delayed."""
    below = part("beget", 2, parts=[part("gated", FEW, gate=gate)])
    return [part("gated", FEW, gate=gate), below, part("work", FEW, delay=delay)]


@on_each_line
async def test_a_cut_that_is_shorter_than_the_lease_cancels_nothing(
    server_bench: Bench[ServerBed], line: Line, report: Report
) -> None:
    bench, gate = server_bench, server_bench.directory / "gate"
    bench.configure(lease=CUT_LEASE, max_crashes=1000)
    async with await two_behind(bench, line) as app, asyncq.scope(timeout=PATIENCE):
        await begin(app, bench.ledger, "here", *held(str(gate), 0.5))
        await until(lambda: len(bench.starts()) == RUNNING, PATIENCE, "all run")
        line.proxy.switch(Cut())
        await anyio.sleep(0.3 * CUT_LEASE)  # how long it lasts is a part of the experiment
        line.proxy.switch(Pass())
        bench.healed()
        await anyio.sleep(CUT_LEASE)  # so long it takes at most until a scope is missed
        gate.touch()
    findings = await bench.audit_all()
    report(findings)
    see_all(bench, Family(bench).below("here"), Succeeded)
    assert findings.acknowledged == RUNNING + FEW


@pytest.mark.parametrize("cuts", ["all", "owner"])
@on_each_line
async def test_a_cut_that_is_longer_than_the_lease_leaves_one_end_for_each(
    server_bench: Bench[ServerBed], line: Line, report: Report, cuts: str
) -> None:
    bench, gate = server_bench, server_bench.directory / "gate"
    bench.configure(lease=CUT_LEASE, max_crashes=1000)
    failures: Sequence[Exception] = ()
    cut = math.inf
    async with await two_behind(bench, line, workers=cuts == "all") as app:
        try:
            async with asyncq.scope(timeout=PATIENCE):
                await begin(app, bench.ledger, "here", *held(str(gate), 2 * CUT_LEASE))
                await until(lambda: len(bench.starts()) == RUNNING, PATIENCE, "all run")
                line.proxy.switch(Cut())
                cut = now()
                await anyio.sleep(1.5 * CUT_LEASE)  # as above
                line.proxy.switch(Pass())
                bench.healed()
                gate.touch()
        except* TaskCancelled as group:
            failures = group.exceptions
        left = now()
        findings = await bench.audit_all()
    family = Family(bench)
    members = family.below("here")
    cancelled = [id for id in members if isinstance(bench.records[id].outcome, Cancelled)]
    began = SystemClock().now() - now()  # of the ledger's clock
    late = [
        start - (bench.records[id].finished_at - began)
        for id in cancelled
        for start in family.starts([id])
    ]
    broken = broken_runs(bench)
    report(
        findings, left=left - cut - 1.5 * CUT_LEASE, cancelled=len(cancelled), heard=len(failures),
        last_start=max(late, default=0.0), last_end=max(broken.values(), default=cut) - cut,
    )  # fmt: skip
    see_all(bench, members, Cancelled | Succeeded)  # pyright: ignore[reportArgumentType]
    assert max(late, default=0.0) <= LATER
    assert bool(failures) == bool(cancelled)
    if cuts == "owner":
        assert len(cancelled) == 4 * FEW
        assert max(broken.values()) <= cut + CUT_LEASE + 2.0


@on_each_line
async def test_what_is_cancelled_while_workers_are_cut_off_is_heard_when_they_are_back(
    server_bench: Bench[ServerBed], line: Line, report: Report
) -> None:
    bench, gate = server_bench, server_bench.directory / "gate"
    bench.configure(lease=CUT_LEASE, concurrency=FEW, max_crashes=1000)
    gated = part("gated", FEW, gate=str(gate))
    async with bench.app() as app:  # which is not cut off
        with behind(bench, line):
            workers = [await bench.hired(line.url) for _ in range(2)]
        plain = await begin(app, bench.ledger, "plain", gated)
        async with asyncq.scope(timeout=PATIENCE) as scope:
            scoped = await begin(app, bench.ledger, "here", gated)
            await until(lambda: len(bench.starts()) == 2 * FEW, PATIENCE, "all slots are full")
            waiting = await begin(app, bench.ledger, "here", gated, gated)

            line.proxy.switch(Cut())
            await plain[0].cancel("nobody needs it")
            told = await app.cancel([plain[1], *waiting[:FEW]], "nobody needs them")
            await scope.cancel("nobody needs it")
            answered = now()
            await anyio.sleep(0.2 * CUT_LEASE)  # nobody has heard of it yet
            broken = len(broken_runs(bench))
            line.proxy.switch(Pass())
            healed = now()
        left = now()
        doomed = [each.id for each in (*plain[:2], *scoped)]
        await until(lambda: len(broken_runs(bench)) == len(doomed), PATIENCE, "all are heard of")
        heard = max(broken_runs(bench).values())
        gate.touch()
        findings = await bench.audit_all()
    family = Family(bench)
    report(findings, heard=heard - healed, left=left - healed, before=broken)
    never = [each.id for each in waiting]
    see_all(bench, [*doomed, *never], Cancelled)
    see_all(bench, [each.id for each in plain[2:]], Succeeded)
    assert all(answer is not Cancellation.ENDED for answer in told.values())
    assert not family.starts(never)
    assert not broken
    assert heard - healed <= HEARD
    assert left - healed <= HEARD
    assert max(family.starts([each.id for each in plain])) < answered
    assert all(worker.exit_code == 0 for worker in workers)


def broken_runs(bench: Bench[Any]) -> dict[str, float]:
    """The messages of which a run was cancelled or has raised, and when."""
    return {entry.id: entry.at for entry in bench.ledger.entries() if isinstance(entry, Broken)}
