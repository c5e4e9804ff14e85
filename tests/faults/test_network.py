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
from tests.faults.lab.proxy import Blackhole, Delay, DropReply, Mode, Pass, Proxy, Slice, Throttle
from tests.faults.lab.scale import scaled
from tests.faults.lab.waiting import until

CUTS = scaled(6, 30)
SILENCE = scaled(3.0, 12.0)  # seconds
LOST_REPLIES = scaled(20, 200)
ROUGH = scaled(500, 5000)  # tasks
RESUMPTION = 2.0  # seconds until tasks run again, where the loss is noticed at once
HALF_OPEN = 15.0  # ... where only silence tells of it


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

    findings = await bench.conclude()
    report(findings, cuts=CUTS)
    assert findings.ok == findings.acknowledged
    assert findings.duplicated == findings.overlapped == findings.repeated == 0, findings
    assert all(worker.exit_code == 0 for worker in bench.workers)
    assert findings.t_resume < RESUMPTION, findings


async def test_lost_replies_neither_repeat_nor_strand_anything(
    server_bench: Bench[ServerBed], proxy: Proxy, report: Report
) -> None:
    bench = server_bench
    async with under_load(bench, proxy, task="flaky"):
        proxy.switch(DropReply(0.01))
        await until(lambda: proxy.lost >= LOST_REPLIES, 120, "replies are lost")
        proxy.switch(Pass())
        bench.healed()

    findings = await bench.conclude()
    report(findings, lost_replies=proxy.lost)
    attempts = Counter((start.id, start.attempt) for start in bench.starts())
    assert max(attempts.values()) == 1, attempts.most_common(3)
    assert findings.ok == findings.acknowledged
    assert findings.duplicated == findings.overlapped == findings.repeated == 0, findings


async def test_connections_that_fall_silent_are_given_up_and_replaced(
    server_bench: Bench[ServerBed], proxy: Proxy, report: Report
) -> None:
    bench = server_bench
    async with under_load(bench, proxy):
        proxy.switch(Blackhole())
        await anyio.sleep(SILENCE)  # how long it lasts is a part of the experiment
        proxy.switch(Pass())
        bench.healed()
        goal = len(bench.starts())
        await until(lambda: len(bench.starts()) > goal, 60, "tasks run again")

    findings = await bench.conclude()
    report(findings, silence=SILENCE)
    assert findings.ok == findings.acknowledged
    assert findings.t_resume < HALF_OPEN, findings


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
        await lonely.says("begins anew", within=60)
        other.kill()
        await bench.send(app, 20)

        findings = await bench.conclude()
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

        findings = await bench.conclude()
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
