"""What is larger than a store takes fails alone, and says how large it is and what to do."""

import re
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import pytest
from anyio import fail_after

from asyncq.app import App
from asyncq.config import Config, Url
from asyncq.drivers.sqlite.connection import SqliteSettings
from asyncq.drivers.sqlite.store import close_store, open_store
from asyncq.errors import AsyncqError, BrokerError, BrokerUnavailable, Refused, TaskFailed
from tests.contracts.rabbit_given import PATIENCE
from tests.servers import start_redis

MIB = 1024 * 1024
ROOM = Config(max_message_size=64 * MIB, max_result_size=64 * MIB)


def make_app(url: str, backend: str | None = None) -> App:
    app = App(url, backend=backend, config=ROOM)

    @app.task(name="length")
    async def length(text: str) -> int:
        return len(text)

    @app.task(name="make")
    async def make(size: int) -> str:
        return "x" * size

    return app


async def what_comes_of(app: App, task: str, values: list[object]) -> list[object]:
    """Of calls that are sent in one batch: their values, or what they raised."""
    ends: list[object] = [None] * len(values)

    async def call(place: int, value: object) -> None:
        try:
            result = await app.tasks[task].enqueue(value)
            ends[place] = await result.get(timeout=PATIENCE)
        except AsyncqError as error:
            ends[place] = error

    with fail_after(2 * PATIENCE):
        async with anyio.create_task_group() as group:
            for place, value in enumerate(values):
                group.start_soon(call, place, value)
    return ends


@pytest.mark.parametrize("other_backend", [False, True])
async def test_redis_takes_the_others_and_the_large_one_hears_of_its_size(
    tmp_path: Path, *, other_backend: bool
) -> None:
    with start_redis(tmp_path, "--proto-max-bulk-len", "1mb") as server:
        app = make_app(server.url, f"{server.url}?prefix=outcomes" if other_backend else None)
        async with app, app.worker():
            sent = await what_comes_of(
                app, "length", ["a", "x" * (2 * MIB), "b", "x" * MIB * 5, ""]
            )
            made = await what_comes_of(app, "make", [1, 2 * MIB, 2, 5 * MIB, 0])

    assert sent[::2] == [1, 1, 0]
    for error, least in ((sent[1], 2 * MIB), (sent[3], 5 * MIB)):
        assert isinstance(error, Refused)
        [size] = re.findall(r"it has (\d+) bytes and", str(error))
        assert least < int(size) < least + 1000
        assert f"takes {MIB} in one value (proto-max-bulk-len): pass a reference" in str(error)
    assert made[::2] == ["x", "xx", ""]
    for error in (made[1], made[3]):
        assert isinstance(error, TaskFailed)
        assert "proto-max-bulk-len" in error.message


@asynccontextmanager
async def bounded_sqlite(path: Path, most: int) -> AsyncGenerator[str]:
    """A file whose writer takes values of so many bytes, as if SQLite had been built so."""
    url = f"sqlite:///{path}"
    store = await open_store(SqliteSettings(Url(url)).path)
    try:
        await store.write(lambda file: file.setlimit(SQLITE_LIMIT_LENGTH, most))
        yield url
    finally:
        await close_store(store)


SQLITE_LIMIT_LENGTH = 0  # its category; the module names it where it is built with it


async def test_sqlite_takes_the_others_and_the_large_one_hears_of_it(tmp_path: Path) -> None:
    async with bounded_sqlite(tmp_path / "queue.db", MIB) as url:
        app = make_app(url)
        async with app, app.worker():
            sent = await what_comes_of(
                app, "length", ["a", "x" * (2 * MIB), "b", "x" * MIB * 5, ""]
            )
            made = await what_comes_of(app, "make", [1, 2 * MIB, 2, 5 * MIB, 0])

    assert sent[::2] == [1, 1, 0]
    for error in (sent[1], sent[3]):
        assert isinstance(error, BrokerError)
        assert not isinstance(error, BrokerUnavailable)
        assert "too big: SQLite takes no value of more than" in str(error)
        assert "pass a reference" in str(error)
    assert made[::2] == ["x", "xx", ""]
    for error in (made[1], made[3]):
        assert isinstance(error, TaskFailed)
        assert "SQLite takes no value of more than" in error.message
