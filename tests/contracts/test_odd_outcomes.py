"""Backends that other hands wrote into, that lost what they had, or that are away."""

import sqlite3
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import pytest
import redis
from anyio import fail_after

from asyncq import App, Status, UnknownResult, UnreadableResult, gather
from asyncq.client import waiters
from asyncq.client.context import Context
from asyncq.errors import BackendUnavailable, BrokerUnavailable
from asyncq.language.message import new_id
from asyncq.seams.topics import progress_of
from tests.client.given import PATIENCE, Gate, until
from tests.servers import RedisServer, start_redis

Spoil = Callable[[str, str, Any], None]
"""Puts anything where a record or a progress is kept: what, its id, and the thing."""
GARBAGE = [b"", b"\xc1", b"\x91" * 5000, b"\xa4\xff\xfe\xfd\xfc", b"text", b"\x92\xa1a\xa1b"]


@pytest.fixture
def redis_prefix() -> str:
    return new_id()


@pytest.fixture
def redis_app(redis_url: str, redis_prefix: str) -> App:
    return App(f"{redis_url}?prefix={redis_prefix}")


@pytest.fixture
def client(redis_url: str) -> Iterator[Any]:
    untyped: Any = redis.Redis
    with untyped.from_url(redis_url) as client:
        yield client


@pytest.fixture
def sqlite_path(tmp_path: Path) -> Path:
    return tmp_path / "asyncq.db"


@pytest.fixture(params=["redis", "sqlite"])
def stored(request: pytest.FixtureRequest, sqlite_path: Path) -> tuple[App, Spoil]:
    """An app, and what writes into its backend behind its back."""
    if request.param == "sqlite":
        return App(f"sqlite:///{sqlite_path}"), partial(spoil_sqlite, sqlite_path)
    client: Any = request.getfixturevalue("client")
    prefix: str = request.getfixturevalue("redis_prefix")

    def spoil(what: str, id: str, raw: Any) -> None:
        if what == "record":
            client.set(f"{prefix}:r:{id}", raw)
        else:
            client.xadd(f"{prefix}:topic:{progress_of(id)}", {"item": raw}, id="1-1")

    return request.getfixturevalue("redis_app"), spoil


def spoil_sqlite(path: Path, what: str, id: str, raw: Any) -> None:
    with sqlite3.connect(path, timeout=10) as file:
        if what == "record":
            file.execute("INSERT INTO records (id, expires, record) VALUES (?, 1e12, ?)", (id, raw))
        else:
            topic = file.execute(
                "INSERT INTO topics (name, epoch, last, count, expires) VALUES (?, 1, 1, 1, 1e12)",
                (progress_of(id),),
            ).lastrowid
            file.execute("INSERT INTO topic_items VALUES (?, 1, ?)", (topic, raw))
    file.close()


async def test_a_record_that_is_none_is_unreadable_to_who_asks_and_to_nobody_else(
    stored: tuple[App, Spoil],
) -> None:
    app, spoil = stored

    @app.task
    async def double(number: int) -> int:
        return number * 2

    async with app, app.worker():
        for raw in GARBAGE:
            id = new_id()
            spoil("record", id, raw)
            spoil("progress", id, raw)
            with pytest.raises(UnreadableResult, match=f"of task {id} cannot be read"):
                await app.result(id).get(timeout=PATIENCE)
            assert await app.result(id).status() is Status.UNKNOWN
            assert await app.result(id).progress() is None
            await app.result(id).forget()
        results = await app.enqueue_many(double.s(number) for number in range(20))
        assert await gather(*results, timeout=PATIENCE) == [number * 2 for number in range(20)]


@pytest.mark.parametrize("raw", ["text", 17, 1.5])
async def test_a_row_that_holds_no_bytes_is_unreadable(sqlite_path: Path, raw: Any) -> None:
    app = App(f"sqlite:///{sqlite_path}")
    async with app:
        spoil_sqlite(sqlite_path, "record", "odd", raw)
        spoil_sqlite(sqlite_path, "progress", "odd", raw)

        with pytest.raises(UnreadableResult):
            await app.result("odd").get(timeout=PATIENCE)
        assert await app.result("odd").progress() is None


async def test_an_id_that_nobody_knows_is_unknown_before_outcomes_are_read_again(
    stored: tuple[App, Spoil],
) -> None:
    app, _ = stored
    async with app:
        with (
            fail_after(waiters.REREAD - 0.5),
            pytest.raises(UnknownResult, match="the id is wrong"),
        ):
            await app.result(new_id())


async def test_garbage_that_is_pushed_ends_nothing(
    redis_app: App, redis_prefix: str, client: Any, caplog: pytest.LogCaptureFixture
) -> None:
    app = redis_app

    @app.task
    async def child() -> int:
        return 42

    @app.task
    async def parent(ctx: Context) -> int:
        await ctx.progress(1)
        return await (await child.enqueue()).get(timeout=PATIENCE)

    async with app, app.worker() as worker:
        assert await (await parent.enqueue()).get(timeout=PATIENCE) == 42
        address = app.client.waiters.address
        for raw in GARBAGE:
            assert client.publish(f"{redis_prefix}:reply:{address}", raw) == 1
            assert await (await parent.enqueue()).get(timeout=PATIENCE) == 42
        assert worker.is_consuming
    assert "trying again" not in caplog.text


async def test_keys_of_other_types_end_nothing(
    redis_app: App, redis_prefix: str, client: Any
) -> None:
    app = redis_app

    @app.task
    async def answer() -> int:
        return 42

    async with app, app.worker():
        for key in ("r:odd", f"topic:{progress_of('odd')}"):
            client.lpush(f"{redis_prefix}:{key}", "a list")
        with pytest.raises(UnknownResult):
            await app.result("odd").get(timeout=PATIENCE)
        assert await app.result("odd").progress() is None
        assert await (await answer.enqueue()).get(timeout=PATIENCE) == 42


async def test_what_was_flushed_while_somebody_waits_is_unknown(
    redis_app: App, redis_prefix: str, client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiters, "REREAD", 0.2)
    app = redis_app

    @app.task
    async def task() -> None: ...

    async with app:
        result = await task.enqueue()
        heard = list[UnknownResult]()

        async def wait() -> None:
            try:
                await result
            except UnknownResult as error:
                heard.append(error)

        with fail_after(PATIENCE):
            async with anyio.create_task_group() as group:
                group.start_soon(wait)
                await flush_when_awaited(app, result.id, redis_prefix, client)
        assert len(heard) == 1


async def flush_when_awaited(app: App, id: str, prefix: str, client: Any) -> None:
    waiting = app.client.waiters._waiting  # pyright: ignore[reportPrivateUsage]
    await until(lambda: id in waiting)
    keys: Any = client.keys(f"{prefix}:*")
    client.delete(*keys)


async def test_a_subscription_that_was_cut_begins_again_and_nothing_is_missed(
    redis_app: App, client: Any, caplog: pytest.LogCaptureFixture
) -> None:
    app = redis_app
    gate = Gate()

    @app.task
    async def task(number: int) -> int:
        await gate.pass_through()
        return number

    async with app, app.worker():
        results = await app.enqueue_many(task.s(number) for number in range(50))
        async with anyio.create_task_group() as group:
            group.start_soon(results[0].get)
            await gate.until_reached()
            await until(lambda: app.client.waiters._arrivals.epoch > 0)  # pyright: ignore[reportPrivateUsage]
            client.client_kill_filter(_type="pubsub")
            gate.open()
        assert [await each.get(timeout=PATIENCE) for each in results] == list(range(50))


# Away


@pytest.fixture
def mortal(tmp_path: Path) -> Iterator[RedisServer]:
    """A Redis of this test's own, to be stopped."""
    with start_redis(tmp_path, "--appendonly", "yes", "--appendfsync", "always") as server:
        yield server


async def test_a_wait_goes_on_through_an_outage_and_a_timeout_names_it(
    mortal: RedisServer, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiters, "REREAD", 0.5)
    app = App(mortal.url)
    seen: list[int] = []

    @app.task
    async def answer() -> int:
        return 42

    async with app:
        result = await answer.enqueue()

        async def wait() -> None:
            seen.append(await result)

        with fail_after(60):
            async with anyio.create_task_group() as group:
                group.start_soon(wait)
                await until(lambda: app.client.waiters._arrivals.epoch > 0)  # pyright: ignore[reportPrivateUsage]
                mortal.kill()
                with pytest.raises(TimeoutError, match="the backend has been away for"):
                    await result.get(timeout=2.0)
                for ask in (result.status, result.progress, result.forget):
                    with fail_after(12), pytest.raises((BackendUnavailable, BrokerUnavailable)):
                        await ask()
                mortal.start()
                async with app.worker():
                    await until(lambda: seen == [42])
    assert seen == [42]
    assert "waiting for results is interrupted" in caplog.text
    assert "results goes on after" in caplog.text


async def test_a_backend_that_stands_still_is_named_by_the_timeout(mortal: RedisServer) -> None:
    app = App(mortal.url)

    @app.task
    async def answer() -> int:
        return 42

    async with app:
        result = await answer.enqueue()
        with pytest.raises(TimeoutError, match=r"after 0.1 s: it waits for a worker$"):
            await result.get(timeout=0.1)
        mortal.pause()
        try:
            with pytest.raises(TimeoutError, match=r"was asked .* ago and has not answered"):
                await result.get(timeout=3.0)
        finally:
            mortal.resume()
