"""Networks that cut, lose, delay and fall silent."""

from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import anyio
import pytest

from asyncq import App, gather
from tests.faults.conftest import Report
from tests.faults.lab.beds import ServerBed
from tests.faults.lab.bench import Bench
from tests.faults.lab.ledger import now
from tests.faults.lab.proxy import (
    Blackhole,
    Delay,
    DropReply,
    Halve,
    Mode,
    Pass,
    Proxy,
    Slice,
    Throttle,
)
from tests.faults.lab.scale import scaled
from tests.faults.lab.waiting import until

CUTS = scaled(5, 60)
SILENCE = scaled(3.0, 60.0)  # seconds
NOTICED = 20.0  # seconds until a silence is noticed, if it lasts so long
LOST_REPLIES = scaled(20, 200)
ROUGH = scaled(500, 5000)  # tasks
RESUMPTION = 2.0  # seconds until tasks run again
AFTER_SILENCE = scaled(5.0, 2.0)  # a short one is over before anybody has noticed it


async def test_connections_that_are_cut_every_second_cost_nothing_but_time(
    server_bench: Bench[ServerBed], proxy: Proxy, report: Report
) -> None:
    bench = server_bench
    async with under_load(bench, proxy):
        for number in range(CUTS):
            await anyio.sleep(1.0)  # the rhythm is a part of the experiment
            proxy.cut(reset=number % 2 == 0)
            bench.healed()
            goal = len(bench.starts())  # those before the repair do not count
            await until(lambda goal=goal: len(bench.starts()) > goal, 60, "tasks run again")

    findings = await bench.audit_all()
    report(findings, cuts=CUTS)
    assert findings.ok == findings.acknowledged
    bench.see_no_repetition(findings)
    assert all(worker.exit_code == 0 for worker in bench.workers)
    assert findings.t_resume < RESUMPTION, findings


async def test_lost_replies_neither_repeat_nor_strand_anything(
    server_bench: Bench[ServerBed], proxy: Proxy, report: Report
) -> None:
    bench = server_bench
    if not bench.bed.keeps_hold:  # its server takes who lost a connection three times for dead
        bench.configure(max_crashes=1000)
    async with under_load(bench, proxy, task="flaky"):
        proxy.switch(DropReply(0.01))
        await until(lambda: proxy.lost >= LOST_REPLIES, 120, "replies are lost")
        proxy.switch(Pass())
        bench.healed()

    # A claim that nobody knows of would be held for ever, by a worker that lives.
    idle = await bench.until_audit(lambda audit: audit.is_idle, "nothing is held")
    findings = await bench.audit_all()
    attempts = Counter((start.id, start.attempt) for start in bench.starts())
    twice = [attempt for attempt, runs in attempts.items() if runs > 1]
    report(
        findings, lost_replies=proxy.lost, published_twice=len(twice), stranded=len(idle.in_flight)
    )
    if bench.bed.keeps_hold:
        assert not twice
    assert findings.ok == findings.acknowledged
    bench.see_no_repetition(findings)


@pytest.mark.parametrize(
    "mode", [Blackhole(), Halve("question"), Halve("reply")], ids=["both", "there", "back"]
)
async def test_connections_that_fall_silent_are_given_up_and_replaced(
    server_bench: Bench[ServerBed], proxy: Proxy, report: Report, mode: Mode
) -> None:
    bench = server_bench
    async with under_load(bench, proxy):
        proxy.switch(mode)
        began = now()
        if SILENCE > NOTICED:
            notice = "trying again" if bench.bed.keeps_hold else "lost its lease"
            for worker in bench.workers:
                await worker.says(notice, within=began + NOTICED - now())
        await anyio.sleep(began + SILENCE - now())  # how long it lasts is a part of the experiment
        proxy.switch(Pass())
        bench.healed()
        goal = len(bench.starts())
        await until(lambda: len(bench.starts()) > goal, 60, "tasks run again")

    findings = await bench.audit_all()
    report(findings, silence=SILENCE)
    assert findings.ok == findings.acknowledged
    assert findings.t_resume < AFTER_SILENCE, findings


async def test_a_worker_that_is_cut_off_in_silence_is_replaced_and_comes_back(
    server_bench: Bench[ServerBed], proxy: Proxy, report: Report
) -> None:
    bench = server_bench
    gate = bench.directory / "gate"
    async with bench.app() as app:
        lonely = await bench.hired(bench.bed.url_through(proxy.port))
        await bench.send(app, 20, task="gated", gate=str(gate))
        await until(lambda: len(bench.starts()) == 20, 60, "all of them run")
        other = await bench.hired()

        proxy.switch(Blackhole())
        await until(
            lambda: any(start.pid == other.pid for start in bench.starts()), 60, "others take over"
        )
        gate.touch()
        await bench.settled()
        proxy.switch(Pass())
        await lonely.says("restarting under a new one", within=60)
        other.kill()
        await bench.send(app, 20)

        findings = await bench.audit_all()
    report(findings)
    others = {start.run for start in bench.starts() if start.pid == other.pid}
    assert findings.ok == 40
    assert all(bench.value(id) in others for id in bench.accepted[:20])


@pytest.mark.parametrize(
    "mode", [Delay(0.05), Slice(7), Throttle(100_000)], ids=lambda mode: type(mode).__name__
)
async def test_a_bad_line_only_slows_things_down(
    server_bench: Bench[ServerBed], proxy: Proxy, report: Report, mode: Mode
) -> None:
    bench = server_bench
    async with bench.app(bench.bed.url_through(proxy.port)) as app:
        proxy.switch(mode)
        await bench.hired(bench.bed.url_through(proxy.port))

        results = await bench.send(app, ROUGH)
        await gather(*results, timeout=120)

        findings = await bench.audit_all()
    report(findings)
    assert findings.ok == ROUGH
    assert len(bench.starts()) == ROUGH


@asynccontextmanager
async def under_load(
    bench: Bench[ServerBed], proxy: Proxy, task: str = "work"
) -> AsyncGenerator[App]:
    """Two workers and four producers, all of them through the proxy, and tasks that run."""
    url = bench.bed.url_through(proxy.port)
    async with bench.app(url) as app, anyio.create_task_group() as load:
        await bench.hired(url)
        await bench.hired(url)
        for _ in range(4):
            load.start_soon(bench.produce, app, 0.005, task)
        await until(lambda: len(bench.ended()) > 100, 60, "tasks run")
        yield app
        load.cancel_scope.cancel()
