"""The client for code without an event loop, shared by threads."""

import sqlite3
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import anyio
import anyio.to_thread
import pytest

from asyncq.app import App
from asyncq.client.sync import SyncClient, SyncResult
from asyncq.errors import ConfigurationError, TaskFailed, UnknownResult
from asyncq.language.message import Status
from asyncq.language.signature import Signature
from tests.client.given import PATIENCE


@pytest.fixture
def sqlite_app(tmp_path_factory: pytest.TempPathFactory) -> App:
    return App(f"sqlite:///{tmp_path_factory.mktemp('store')}/queue.db")


@pytest.fixture(params=["memory", "sqlite"])
def any_app(request: pytest.FixtureRequest) -> App:
    name = "app" if request.param == "memory" else "sqlite_app"
    return request.getfixturevalue(name)


async def test_a_thread_sends_waits_asks_and_forgets(any_app: App) -> None:
    @any_app.task
    async def add(x: int, y: int) -> int:
        return x + y

    @any_app.task
    async def fail() -> None:
        raise ValueError("no")

    def script() -> None:
        with any_app.sync() as client:
            result = client.enqueue(add.s(1, 2))
            assert result.get(timeout=PATIENCE) == 3
            assert result.status() is Status.SUCCEEDED
            assert client.result(result.id).get(timeout=PATIENCE) == 3
            assert result.progress() is None
            result.forget()
            assert result.status() is Status.UNKNOWN
            with pytest.raises(TaskFailed, match="ValueError: no"):
                client.enqueue(fail.s()).get(timeout=PATIENCE)
            untyped: Any = add
            with pytest.raises(TypeError, match="missing argument 'y'"):
                client.enqueue(untyped.s(1))

    async with any_app.worker():
        await anyio.to_thread.run_sync(script)


async def test_threads_share_a_client(any_app: App) -> None:
    @any_app.task
    async def square(n: int) -> int:
        return n * n

    def script() -> list[int]:
        def ask(n: int) -> int:
            return client.enqueue(square.s(n)).get(timeout=PATIENCE)

        with any_app.sync() as client, ThreadPoolExecutor(8) as pool:
            return list(pool.map(ask, range(50)))

    async with any_app.worker():
        assert await anyio.to_thread.run_sync(script) == [n * n for n in range(50)]


async def test_a_source_is_iterated_in_the_thread_that_it_belongs_to(app: App) -> None:
    """Cursors and connections belong to a thread, and reading them blocks."""

    @app.task
    async def double(n: int) -> int:
        return 2 * n

    def script() -> list[int]:
        database = sqlite3.connect(":memory:")
        database.execute("CREATE TABLE t (n INTEGER)")
        database.executemany("INSERT INTO t VALUES (?)", [(n,) for n in range(1_200)])

        def source() -> Iterator[Signature[int]]:
            for (n,) in database.execute("SELECT n FROM t ORDER BY n"):
                assert threading.get_ident() == caller
                yield double.s(n)

        caller = threading.get_ident()
        with app.sync() as client:
            results = client.enqueue_many(source())
            values = [result.get(timeout=PATIENCE) for result in results]
        database.close()
        return values

    async with app.worker():
        assert await anyio.to_thread.run_sync(script) == [2 * n for n in range(1_200)]


def test_a_wait_that_takes_too_long_is_a_timeout(any_app: App) -> None:
    @any_app.task
    async def never() -> None: ...

    with any_app.sync() as client:
        result = client.enqueue(never.s())
        with pytest.raises(TimeoutError, match=r"no outcome after 0\.05 s"):
            result.get(timeout=0.05)
        assert result.status() is Status.QUEUED


def test_an_error_in_the_block_comes_out_as_itself(any_app: App) -> None:
    with pytest.raises(ZeroDivisionError), any_app.sync():
        _ = 1 / 0


def test_an_id_that_nobody_has_seen_is_unknown(
    any_app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("asyncq.client.waiters.REREAD", 0.05)

    with any_app.sync() as client, pytest.raises(UnknownResult):
        client.result("never-sent").get(timeout=PATIENCE)


async def test_a_plain_task_sends_through_a_client_of_its_own(app: App) -> None:
    @app.task
    async def leaf() -> int:
        return 5

    clients: list[SyncClient] = []

    @app.task
    def root() -> int:
        return clients[0].enqueue(leaf.s()).get(timeout=PATIENCE)

    with app.sync() as client:
        clients.append(client)
        async with app.worker():
            result = await root.enqueue()

            assert await result.get(timeout=PATIENCE) == 5


async def test_results_that_came_by_themselves_cross_no_threads(
    any_app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    crossings: list[object] = []
    call = SyncClient.call

    def counted(client: SyncClient, ask: Any, timeout: float | None = None) -> Any:
        crossings.append(ask)
        return call(client, ask, timeout)

    @any_app.task
    async def double(n: int) -> int:
        return 2 * n

    def script() -> list[int]:
        with any_app.sync() as client:
            client.enqueue(double.s(0)).get(timeout=PATIENCE)  # from here on they are pushed
            results = client.enqueue_many(double.s(n) for n in range(50))
            results[-1].get(timeout=PATIENCE)
            deadline = time.monotonic() + PATIENCE
            while not all("succeeded" in repr(result) for result in results):  # asks nobody
                assert time.monotonic() < deadline
                time.sleep(0.01)
            monkeypatch.setattr(SyncClient, "call", counted)
            return [result.get(timeout=PATIENCE) for result in results]

    async with any_app.worker():
        assert await anyio.to_thread.run_sync(script) == [2 * n for n in range(50)]

    assert not crossings


async def test_in_an_event_loop_a_result_is_refused_also_if_it_is_here(app: App) -> None:
    @app.task
    async def same(n: int) -> int:
        return n

    def send(client: SyncClient) -> SyncResult[int]:
        result = client.enqueue(same.s(1))
        assert result.get(timeout=PATIENCE) == 1
        return result

    async with app.worker():
        with app.sync() as client:
            result = await anyio.to_thread.run_sync(send, client)
            with pytest.raises(ConfigurationError, match="this client blocks"):
                result.get()
        assert await anyio.to_thread.run_sync(result.get) == 1  # it has it, closed or not
