"""Two servers behind one broker, and the first of them dies."""

import logging
from collections.abc import Generator
from contextlib import ExitStack
from pathlib import Path

import anyio
import pytest
from anyio import fail_after

from asyncq import App, BrokerUnavailable, Queue, QueueFull, UnknownResult, gather
from asyncq.clock import SystemClock
from asyncq.config import Config, Url
from asyncq.drivers.table import make_backend
from asyncq.errors import ConfigurationError
from asyncq.language.message import new_id
from tests.faults.conftest import Report
from tests.faults.lab.bench import Bench
from tests.faults.lab.ledger import now
from tests.faults.lab.proxy import Blackhole, start_proxy
from tests.faults.lab.redis_bed import RedisBed, redis_bed
from tests.faults.lab.waiting import until
from tests.servers import ServerMissing, free_port
from tests.servers.required import give_up

SOON = 10.0  # seconds until things go on, where the loss is noticed at once
HALF_OPEN = 30.0  # ... where only silence tells of it
PATIENCE = 60.0


@pytest.fixture
def servers(tmp_path: Path) -> Generator[tuple[RedisBed, RedisBed]]:
    with ExitStack() as stack:
        try:
            yield (
                stack.enter_context(redis_bed(_made(tmp_path / "first"))),
                stack.enter_context(redis_bed(_made(tmp_path / "second"))),
            )
        except ServerMissing as missing:
            give_up("redis", missing)


@pytest.fixture
def bench(servers: tuple[RedisBed, RedisBed], tmp_path: Path) -> Generator[Bench[RedisBed]]:
    bench = Bench(tmp_path, servers[0])
    try:
        yield bench
    finally:
        bench.close()


async def test_when_the_first_is_killed_all_go_on_with_the_second(
    bench: Bench[RedisBed], servers: tuple[RedisBed, RedisBed], report: Report
) -> None:
    first, second = servers
    both = f"{first.url},{second.url}"
    gate = bench.directory / "gate"
    moments: dict[str, float] = {}
    worker = await bench.hired(both)
    async with bench.app(both) as app, anyio.create_task_group() as load:
        for _ in range(4):
            load.start_soon(bench.produce, app, 0.005)
        await until(lambda: len(bench.ended()) > 200, PATIENCE, "tasks run")
        [stuck] = await bench.send(app, 1, task="gated", gate=str(gate))
        await until(lambda: bool(bench.starts(stuck.id)), PATIENCE, "it runs")

        await anyio.to_thread.run_sync(first.crash)
        moments["killed"] = now()
        goal = len(bench.accepted)
        await until(lambda: len(bench.accepted) > goal, PATIENCE, "enqueueing goes on")
        moments["accepted"] = now()
        goal = len(bench.starts())
        await until(lambda: len(bench.starts()) > goal, PATIENCE, "the worker goes on")
        moments["run"] = now()
        await gather(*await bench.send(app, 200), timeout=PATIENCE)
        with pytest.raises(UnknownResult):
            await stuck.get(timeout=PATIENCE)
        load.cancel_scope.cancel()
    assert worker.exit_code is None
    assert "going on with" in worker.log()
    times = {name: at - moments["killed"] for name, at in moments.items()}
    report(t_enqueue=times["accepted"], t_run=times["run"])
    assert max(times.values()) < SOON

    # What waited in the first one is there when it is back, and so are its outcomes.
    gate.touch()
    await anyio.to_thread.run_sync(first.restore)
    await bench.hired(first.url)
    with fail_after(PATIENCE):
        while await _unended(bench.accepted, servers):
            pass


async def test_a_first_that_falls_silent_is_given_up_as_well(
    bench: Bench[RedisBed], servers: tuple[RedisBed, RedisBed], report: Report
) -> None:
    first, second = servers
    with start_proxy(first.port) as proxy:
        both = f"{first.url_through(proxy.port)},{second.url}"
        async with bench.app(both) as app:
            await bench.hired(both)
            await gather(*await bench.send(app, 50), timeout=PATIENCE)

            silent = now()
            proxy.switch(Blackhole())
            await gather(*await bench.send(app, 1), timeout=PATIENCE)
            report(t_run=now() - silent)
            assert now() - silent < HALF_OPEN


async def test_a_first_that_is_down_at_the_start_is_passed_over(
    servers: tuple[RedisBed, RedisBed],
) -> None:
    app = App([f"redis://user:hunter2@127.0.0.1:{free_port()}/0", servers[1].url])

    @app.task
    async def one() -> int:
        return 1

    async with app, app.worker():
        assert await (await one.enqueue()).get(timeout=PATIENCE) == 1
        assert await app.queues.list() == ["default"]


async def test_a_short_absence_is_no_reason_to_leave(
    servers: tuple[RedisBed, RedisBed], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    first, second = servers
    app = App([first.url, second.url])

    @app.task
    async def one() -> int:
        return 1

    async with app, app.worker():
        await (await one.enqueue()).get(timeout=PATIENCE)
        await anyio.to_thread.run_sync(first.crash)
        await anyio.to_thread.run_sync(first.restore)
        await (await one.enqueue()).get(timeout=PATIENCE)

    assert "going on with" not in caplog.text


async def test_when_none_answers_all_are_named_and_no_password_shows() -> None:
    urls = [f"redis://user:hunter2@127.0.0.1:{free_port()}/{number}" for number in range(2)]

    with fail_after(PATIENCE), pytest.raises(BrokerUnavailable) as caught:
        async with App(urls):
            pass

    assert "/0" in str(caught.value)
    assert "/1" in str(caught.value)
    assert "hunter2" not in str(caught.value)


async def test_what_is_declared_holds_at_the_second_as_well(
    servers: tuple[RedisBed, RedisBed],
) -> None:
    first, second = servers
    app = App([first.url, second.url], queues=[Queue("q", max_length=1)])

    @app.task(queue="q")
    async def one() -> None: ...

    async with app:
        await one.enqueue()
        await anyio.to_thread.run_sync(first.crash)
        await one.enqueue()
        with pytest.raises(QueueFull):
            await one.enqueue()


async def test_a_list_is_of_one_kind() -> None:
    with pytest.raises(ConfigurationError, match="of several kinds"):
        async with App(["memory://a", "sqlite:///c.db"]):
            pass


async def test_a_backend_of_its_own_is_not_left(
    servers: tuple[RedisBed, RedisBed], tmp_path: Path
) -> None:
    first, second = servers
    app = App(
        [first.url, second.url],
        backend=f"sqlite:///{tmp_path}/outcomes.db",
        config=Config(grace=1.0),
    )

    @app.task
    async def one() -> int:
        return 1

    async with app, app.worker():
        before = await one.enqueue()
        assert await before.get(timeout=PATIENCE) == 1
        await anyio.to_thread.run_sync(first.crash)
        after = await one.options(id=new_id()).enqueue()
        assert await after.get(timeout=PATIENCE) == 1
        assert await app.result(before.id).get(timeout=PATIENCE) == 1


async def _unended(ids: list[str], servers: tuple[RedisBed, RedisBed]) -> set[str]:
    """Those of which no server has an outcome."""
    left = set(ids)
    for server in servers:
        async with make_backend(Url(server.url), SystemClock()) as backend:
            found = await backend.fetch(sorted(left))
        left -= {record.id for record in found if record is not None}
    return left


def _made(directory: Path) -> Path:
    directory.mkdir()
    return directory
