"""The server of the ledger dies and comes back with what it had a while ago: no chord hangs."""

from collections.abc import Callable, Sequence
from typing import cast

import anyio
import pytest

from asyncq import App
from asyncq.language.message import Succeeded, derived_id
from tests.chords import ledger_of
from tests.faults.conftest import Report
from tests.faults.lab.backups import back_up
from tests.faults.lab.beds import Bed, ServerBed
from tests.faults.lab.bench import Bench
from tests.faults.lab.checker import Findings
from tests.faults.lab.scale import scaled
from tests.faults.test_follow_ups import PATIENCE, either_bench, note_accepted
from tests.faults.test_server_deaths import die

__all__ = ["either_bench"]  # a fixture

CHORDS = scaled(10, 200)
RHYTHM = 0.1  # seconds
IN_TIME = scaled(15.0, 60.0)  # seconds that a chord has of which something is lost for good
GATES = 2
# Seconds. The server is back while the workers have what they had; or when that is over.
LEASES = scaled((10.0,), (10.0, 1.0))


@pytest.mark.parametrize("lease", LEASES)
async def test_every_chord_ends_though_its_ledger_is_as_it_was_before_some_parts_arrived(
    either_bench: Bench[Bed], report: Report, lease: float
) -> None:
    bench = either_bench
    bench.configure(lease=lease, concurrency=5 * GATES * CHORDS, max_crashes=1000)
    gates = [bench.directory / f"gate-{number}" for number in range(GATES)]
    has_all = goes_back_too(bench)
    async with bench.app() as app:
        for _ in range(2):
            await bench.hired()
        names, within = [str(gate) for gate in gates], PATIENCE if has_all else IN_TIME
        sent = await bench.send(app, CHORDS, "fork_in_time", gates=names, within=within)
        roots = [each.id for each in sent]
        await until_missing(app, roots, GATES)
        put_back = await anyio.to_thread.run_sync(back_up, bench.backend, bench.directory)
        gates[0].touch()
        await until_missing(app, roots, GATES - 1)

    await restore(bench, put_back)
    async with bench.app() as app:
        gates[1].touch()
        bodies, failures = await ended(app, roots)
        findings = await see_that_each_has_run_once(bench, [*bodies, *failures])
    report(findings, bodies=len(bodies), failures=len(failures))
    if bench.bed.scheme == "redis" and lease == LEASES[0]:
        assert any("were in flight again" in worker.log() for worker in bench.workers)
    if has_all:  # what had arrived since has run again
        assert (len(bodies), len(failures)) == (CHORDS, 0)
        assert all(len(bench.starts(derived_id(root, "1"))) > 1 for root in roots)
    else:  # the broker does not have it any more, and nobody else remembers it
        assert len(bodies) + len(failures) == CHORDS
        assert failures


def goes_back_too(bench: Bench[Bed]) -> bool:
    """Whether messages lie where latches do: on the same server, or in the same file."""
    return bench.bed.scheme == "redis" or bench.backend == bench.bed.url


async def restore(bench: Bench[Bed], put_back: Callable[[], None]) -> None:
    """Have the ledger die and come back as the copy; workers live, where it is a server."""
    if bench.bed.scheme == "redis":
        await die(cast("Bench[ServerBed]", bench), 0.0, put_back)
        return
    for worker in bench.workers:
        worker.kill()
    await anyio.to_thread.run_sync(put_back)
    for _ in range(2):
        await bench.hired()


async def missing(app: App, roots: Sequence[str]) -> set[int | None]:
    """How many parts these wait for; None of one that is not there."""
    return {state and state.missing for state in await ledger_of(app).look(roots)}


async def until_missing(app: App, roots: Sequence[str], count: int) -> None:
    with anyio.fail_after(PATIENCE):
        while await missing(app, roots) != {count}:  # noqa: ASYNC110 - of other processes
            await anyio.sleep(RHYTHM)


async def ended(app: App, roots: Sequence[str]) -> tuple[list[str], list[str]]:
    """Once each chord has ended: the bodies that ran, and what was sent on failure."""
    bodies, failures = ([derived_id(root, name) for root in roots] for name in ("body", "failed"))
    with anyio.fail_after(PATIENCE):
        while True:
            found = await app.client.backend.fetch([*bodies, *failures])
            have = {record.id for record in found if record is not None}
            pairs = list(zip(bodies, failures, strict=True))
            if all(have & {*pair} for pair in pairs):
                return [id for id in bodies if id in have], [id for id in failures if id in have]
            await anyio.sleep(RHYTHM)


async def see_that_each_has_run_once(bench: Bench[Bed], ids: Sequence[str]) -> Findings:
    note_accepted(bench, ids)
    findings = await bench.audit_all()
    assert all(isinstance(bench.records[id].outcome, Succeeded) for id in ids)
    assert [len(bench.starts(id)) for id in ids] == [1] * len(ids)
    return findings
