"""Connections to Redis that fall silent, and those that only seem to."""

import gc
import warnings
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path

import anyio
import anyio.lowlevel
import pytest

from asyncq.config import Url
from asyncq.drivers.redis import connection
from asyncq.drivers.redis.connection import Link, RedisStore, pack_command
from asyncq.errors import BrokerUnavailable
from tests.client.given import PATIENCE, until
from tests.faults.lab.proxy import Blackhole, Halve, Pass, Proxy, Throttle, Trap, start_proxy
from tests.servers import RedisServer, start_redis

BIG = 300_000  # bytes; three seconds on a slow line
SLOW = 100_000  # bytes a second
EARLY = connection.CALL_TIMEOUT - 1.0  # seconds; before what is silent everywhere is given up
PAUSE = 2.5  # seconds that a server stands still; longer than a doubt


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    with start_redis(tmp_path) as running:
        yield running


@pytest.fixture
def proxy(server: RedisServer) -> Iterator[Proxy]:
    with start_proxy(server.port) as running:
        yield running


@contextmanager
def linked(store: RedisStore) -> Generator[Link]:
    link = Link(store, BrokerUnavailable)
    try:
        yield link
    finally:
        link.close()


def store_for(port: int) -> RedisStore:
    return RedisStore(Url(f"redis://127.0.0.1:{port}/0"))


async def test_a_silent_connection_is_given_up_once_the_server_answers_on_another(
    proxy: Proxy,
) -> None:
    with linked(store_for(proxy.port)) as link:
        await link("PING")
        proxy.set_trap(Trap(b"ECHO", silently=True))

        with anyio.fail_after(EARLY), pytest.raises(BrokerUnavailable, match="no answer"):
            await link("ECHO", "lost")

        assert await link("ECHO", "again") == b"again"


@pytest.mark.parametrize("mode", [Blackhole(), Halve("question"), Halve("reply")])
async def test_what_else_is_silent_is_given_up_with_it(
    proxy: Proxy, mode: Blackhole | Halve
) -> None:
    store = store_for(proxy.port)
    with linked(store) as asked, linked(store) as idle:
        await asked("PING")
        await idle("PING")
        proxy.switch(mode)
        before = proxy.opened
        with anyio.fail_after(EARLY):
            async with anyio.create_task_group() as both:
                both.start_soon(fails, asked)
                await until(lambda: proxy.opened > before)  # it doubts, and tries another in vain
                proxy.switch(Pass())

        assert not idle.is_connected
        with anyio.fail_after(PATIENCE):
            assert await idle("PING") == b"PONG"


async def test_a_server_that_stands_still_keeps_its_connections(server: RedisServer) -> None:
    with linked(store_for(server.port)) as link:
        before = await link("CLIENT", "ID")
        server.pause()

        async with anyio.create_task_group() as group:
            group.start_soon(link, "PING")
            await anyio.sleep(PAUSE)
            server.resume()

        assert await link("CLIENT", "ID") == before


async def test_a_server_that_is_given_up_leaves_no_complaint_of_python_behind(
    server: RedisServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(connection, "DOUBT", 0.05)
    monkeypatch.setattr(connection, "CALL_TIMEOUT", 0.2)
    with linked(store_for(server.port)) as link:
        await link("PING")
        server.pause()
        with pytest.raises(BrokerUnavailable, match="did not answer in time"):
            await link("PING")
        server.resume()
    await anyio.lowlevel.checkpoint()  # the connection ends in the loop's next turn
    await anyio.lowlevel.checkpoint()

    gc.collect()
    assert "never retrieved" not in caplog.text


async def test_a_long_answer_on_a_slow_line_is_no_silence(proxy: Proxy) -> None:
    with linked(store_for(proxy.port)) as link:
        await link("SET", "big", b"x" * BIG)
        before = await link("CLIENT", "ID")
        proxy.switch(Throttle(SLOW))

        assert len(await link("GET", "big")) == BIG
        assert await link("CLIENT", "ID") == before


async def test_a_long_question_on_a_slow_line_is_no_silence(proxy: Proxy) -> None:
    with linked(store_for(proxy.port)) as link:
        before = await link("CLIENT", "ID")
        proxy.switch(Throttle(SLOW))

        await link("SET", "big", b"x" * BIG)
        assert await link("CLIENT", "ID") == before


@pytest.mark.parametrize("before", [0.1, 60.0])
async def test_who_asks_waits_as_long_as_he_says_whatever_was_asked_before(
    server: RedisServer, before: float
) -> None:
    wire = await store_for(server.port).connect()
    try:
        assert await wire.ask(pack_command(("PING",)), 1, before) == [b"PONG"]
        begun = anyio.current_time()

        answers = await wire.ask(pack_command(("BLPOP", "nothing", 2.0)), 1, 0.4)

        assert answers is None
        assert anyio.current_time() - begun >= 0.4
        assert await wire.wait_on(10.0) == [None]
        assert await wire.next_push(0.1) is None
    finally:
        wire.close()


async def test_a_connection_that_the_server_closed_is_forgotten_without_a_warning(
    server: RedisServer,
) -> None:
    store = store_for(server.port)
    with linked(store) as link, linked(store) as other, warnings.catch_warnings():
        warnings.simplefilter("error")
        await other("CLIENT", "KILL", "ID", await link("CLIENT", "ID"))
        while link.is_connected:
            await anyio.lowlevel.checkpoint()

        await link("PING")
        gc.collect()  # a warning here would be an error of this test


async def fails(link: Link) -> None:
    with pytest.raises(BrokerUnavailable):
        await link("PING")
