"""A client that dies while it enqueues a large chord: nothing of it runs, and nothing is left."""

import os
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager

import anyio
import msgspec

from asyncq.language.message import Succeeded, derived_id, new_id
from tests.chords import ledger_of
from tests.faults.conftest import Report
from tests.faults.lab.beds import Bed
from tests.faults.lab.bench import Bench
from tests.faults.lab.redis_bed import count_latches as count_in_redis
from tests.faults.lab.scale import scaled
from tests.faults.lab.sqlite_bed import count_latches as count_in_file
from tests.faults.lab.staging import pages_of, stage_of
from tests.faults.lab.waiting import LOOK
from tests.faults.lab.workers import ROOT
from tests.faults.test_follow_ups import either_bench

__all__ = ["either_bench"]  # a fixture

PARTS = scaled(400, 100_000)
PAGE = scaled(20, 500)  # parts
AHEAD = 2  # pages that it may have written when it dies, or be at
SECONDS = scaled(10.0, 240.0)  # that the client may take
PATIENCE = scaled(90.0, 900.0)


@contextmanager
def client(bench: Bench[Bed], root: str, pages: int) -> Generator[subprocess.Popen[bytes]]:
    """Somebody who stages so many pages of a chord, and stands still if there are more."""
    environment = {
        **os.environ,
        "LAB_URL": bench.bed.url,
        "LAB_CONFIG": msgspec.json.encode(bench.config).decode(),
    }
    if bench.backend != bench.bed.url:
        environment["LAB_BACKEND"] = bench.backend
    command = [sys.executable, "-m", "tests.faults.lab.staging", root]
    command += [str(PARTS), str(PAGE), str(SECONDS)]
    pipe = subprocess.PIPE
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stdin=pipe, stdout=pipe)
    assert process.stdin is not None
    process.stdin.write(b"\n" * pages)
    process.stdin.flush()
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def read_pages(process: subprocess.Popen[bytes], most: int) -> int:
    """How many pages are held, once it is so many or no more come."""
    assert process.stdout is not None
    for count in range(most):
        if not process.stdout.readline():
            return count
    return most


async def test_a_client_that_dies_half_way_leaves_nothing_that_runs_and_its_stage_lapses(
    either_bench: Bench[Bed], report: Report
) -> None:
    bench, pages = either_bench, PARTS // PAGE
    dead, well = new_id(), new_id()
    names = [*pages_of(dead, PARTS, PAGE), stage_of(dead), dead]
    async with bench.app() as app:
        await bench.hired()
        held = pages * 2 // 5
        with client(bench, dead, held + AHEAD) as process:
            assert await anyio.to_thread.run_sync(read_pages, process, held) == held
            process.kill()
        staged = [state for state in await ledger_of(app).look(names) if state is not None]
        assert held + 1 <= len(staged) <= held + AHEAD + 1  # with the stage itself
        assert not any(state.is_released for state in staged)

        ids = [derived_id(well, name) for name in ("opener", "body", *map(str, range(PARTS)))]

        async def enqueue() -> None:
            with client(bench, well, pages) as process:
                assert await anyio.to_thread.run_sync(read_pages, process, pages) == pages
                assert await anyio.to_thread.run_sync(process.wait) == 0

        await bench.note(ids, enqueue)
        await bench.settled(PATIENCE)
        with anyio.fail_after(SECONDS + PATIENCE):
            while await anyio.to_thread.run_sync(count_latches, bench.backend):
                # Who forgets something takes some of what has lapsed along.
                await ledger_of(app).forget_latches([new_id()])
                await anyio.sleep(LOOK)
        assert not any(await ledger_of(app).look(names))
        findings = await bench.audit_all()
    report(findings, held=held, parts=PARTS)
    assert {start.id for start in bench.starts()} == {*ids}
    assert all(isinstance(bench.records[id].outcome, Succeeded) for id in ids)


def count_latches(url: str) -> int:
    """How much a store has of latches, as others see it."""
    return count_in_redis(url) if url.startswith("redis") else count_in_file(url)
