"""A Redis that answers and cannot serve just now: said as what it is, waited for, nothing lost."""

from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from pathlib import Path

import anyio
import pytest
from anyio import fail_after, to_thread

from asyncq.app import App
from asyncq.config import Config
from asyncq.drivers.redis.connection import Link
from asyncq.drivers.redis.wire import ReplyError
from asyncq.errors import AsyncqError, BrokerUnavailable
from tests.client.given import until
from tests.contracts.redis_given import soon, warnings
from tests.contracts.test_redis_refusals import PATIENCE, asking
from tests.servers import RedisServer, start_redis

__all__ = ["soon"]  # a fixture

pytestmark = pytest.mark.usefixtures("soon")

KEYS_TO_LOAD, SIZE = 40, 500_000  # while it loads, it answers every 2 MB
OPTIONS = (
    *("--key-load-delay", "30000"),  # microseconds
    *("--rdbcompression", "no"),
    *("--lua-time-limit", "50"),  # milliseconds; then it answers BUSY
    *("--appendonly", "no"),
)

Trouble = Callable[[RedisServer, Link, Path], AbstractAsyncContextManager[None]]


@asynccontextmanager
async def memory_is_full(_: RedisServer, link: Link, __: Path) -> AsyncGenerator[None]:
    await link("CONFIG", "SET", "maxmemory", "1")
    yield
    await link("CONFIG", "SET", "maxmemory", "0")


@asynccontextmanager
async def it_is_a_replica(_: RedisServer, link: Link, __: Path) -> AsyncGenerator[None]:
    await link("REPLICAOF", "127.0.0.1", "1")
    yield
    await link("REPLICAOF", "NO", "ONE")


@asynccontextmanager
async def its_disk_is_full(_: RedisServer, link: Link, place: Path) -> AsyncGenerator[None]:
    await link("CONFIG", "SET", "dbfilename", "taken.rdb")
    (place / "taken.rdb").mkdir()  # where it is to write
    await link("CONFIG", "SET", "save", "3600 1")
    await save(link, b"err")
    yield
    (place / "taken.rdb").rmdir()
    await save(link, b"ok")
    await link("CONFIG", "SET", "save", "")


async def save(link: Link, end: bytes) -> None:
    with fail_after(PATIENCE):
        await link("BGSAVE")
        while b"rdb_last_bgsave_status:" + end not in await link("INFO", "persistence"):  # noqa: ASYNC110 - it tells nobody
            await anyio.sleep(0.01)


async def until_busy(link: Link) -> None:
    """Return once it answers so, for a script runs that takes long."""
    with fail_after(PATIENCE):
        while True:
            try:
                await link("PING")
            except AsyncqError as error:
                if "(BUSY)" in str(error):
                    return
                raise
            await anyio.sleep(0.01)


@asynccontextmanager
async def a_script_takes_long(server: RedisServer, _: Link, __: Path) -> AsyncGenerator[None]:
    async with (
        asking(server.url) as busy,
        asking(server.url) as other,
        anyio.create_task_group() as group,
    ):

        async def run() -> None:
            with suppress(AsyncqError, ReplyError):  # it is killed
                await busy("EVAL", "while true do end", 0, blocks=PATIENCE)

        await other("PING")
        group.start_soon(run)
        try:
            await until_busy(other)
            yield
        finally:
            await other("SCRIPT", "KILL")


@asynccontextmanager
async def it_loads_its_data(server: RedisServer, link: Link, _: Path) -> AsyncGenerator[None]:
    for number in range(KEYS_TO_LOAD):
        await link("SET", f"other:{number}", "x" * SIZE)
    await link("SAVE")
    server.kill()
    async with anyio.create_task_group() as group:
        group.start_soon(to_thread.run_sync, server.start)
        yield


TROUBLES: dict[str, tuple[Trouble, str]] = {
    "memory": (memory_is_full, "its memory is full (OOM"),
    "replica": (it_is_a_replica, "it is a replica, which takes no writes (READONLY)"),
    "disk": (its_disk_is_full, "it cannot write its files (MISCONF)"),
    "script": (a_script_takes_long, "a script of somebody keeps it busy (BUSY): SCRIPT KILL"),
    "loading": (it_loads_its_data, "it loads its data from disk (LOADING), which ends by itself"),
}


def make_app(url: str, runs: list[int], publish_timeout: float) -> App:
    app = App(url, config=Config(publish_timeout=publish_timeout))

    @app.task(name="note")
    async def note(number: int) -> int:
        runs.append(number)
        return number

    return app


@pytest.mark.parametrize("name", TROUBLES)
async def test_what_is_sent_meanwhile_waits_and_runs_and_the_log_says_for_what(
    tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    trouble, said = TROUBLES[name]
    runs: list[int] = []
    with start_redis(tmp_path, *OPTIONS) as server:
        app = make_app(server.url, runs, PATIENCE)
        note = app.tasks["note"]
        async with asking(server.url) as link, app, app.worker() as worker:
            assert await (await note.enqueue(1)).get(timeout=PATIENCE) == 1

            async def send(number: int) -> None:
                assert await (await note.enqueue(number)).get(timeout=PATIENCE) == number

            with fail_after(2 * PATIENCE):
                async with (
                    anyio.create_task_group() as group,
                    trouble(server, link, tmp_path),
                ):
                    for number in range(2, 12):
                        group.start_soon(send, number)
                    await until(lambda: said in warnings(caplog))
                await until(lambda: worker.is_consuming)

    assert sorted(runs) == list(range(1, 12))


@pytest.mark.parametrize("name", ["memory", "replica", "disk", "script"])
async def test_who_cannot_wait_is_told_in_time_and_what_to_do(tmp_path: Path, name: str) -> None:
    trouble, said = TROUBLES[name]
    runs: list[int] = []
    with start_redis(tmp_path, *OPTIONS) as server:
        app = make_app(server.url, runs, 0.3)
        async with asking(server.url) as link, app, trouble(server, link, tmp_path):
            with fail_after(PATIENCE), pytest.raises(BrokerUnavailable) as refused:
                await app.tasks["note"].enqueue(1)

    assert said in str(refused.value)
