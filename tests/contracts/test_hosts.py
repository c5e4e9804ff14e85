"""Which of several servers is in use: when one is given up, for which, and what goes with it."""

import logging
import os
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Self

import anyio
import anyio.lowlevel
import pytest

from asyncq.app import App
from asyncq.clock import SystemClock
from asyncq.config import Config, Url
from asyncq.drivers.hosts import CONNECT_TIMEOUT, SAME_OUTAGE, Hosts
from asyncq.drivers.hosts import PATIENCE as AWAY
from asyncq.drivers.memory.broker import MemoryBroker
from asyncq.drivers.redis.broker import RedisBroker
from asyncq.drivers.redis.connection import Link, RedisStore
from asyncq.drivers.table import make_backend, make_broker
from asyncq.errors import BrokerUnavailable, ConfigurationError
from asyncq.language.message import new_id
from asyncq.language.topology import Queue
from asyncq.testing import on_virtual_time
from asyncq.testing.contracts.given import envelope
from tests.client.given import PATIENCE, until

FIRST, SECOND, THIRD = (Url(f"redis://:secret@{name}/0") for name in ("a", "b", "c"))


class Opened:
    """A connection to one of some servers."""

    def __init__(self, to: Url) -> None:
        self.to = to
        self.is_open = True

    def close(self) -> None:
        self.is_open = False


class Servers:
    """Some servers, and which of them are down; what has been asked of them."""

    def __init__(self, *urls: Url) -> None:
        self.hosts = Hosts(urls)
        self.hosts.broker_at = self.broker_at
        self.down: set[Url] = set()
        self.silent = False
        self.probed: list[Url] = []
        self.declared: list[Sequence[Queue]] = []

    async def open_one(self) -> Opened:
        url = self.hosts.url
        await anyio.lowlevel.checkpoint()
        if self.silent:
            await anyio.sleep_forever()
        if url in self.down:
            raise ConnectionRefusedError("refused")
        return Opened(url)

    def broker_at(self, url: Url) -> "Probe":
        return Probe(self, url)

    async def fail(self) -> None:
        with pytest.raises((OSError, TimeoutError)):
            await self.hosts.connect(self.open_one)


class Probe(MemoryBroker):
    """One of these servers by itself."""

    def __init__(self, servers: Servers, url: Url) -> None:
        super().__init__(Url(f"memory://{new_id()}"), SystemClock())
        self._servers = servers
        self._url = url

    async def __aenter__(self) -> Self:
        self._servers.probed.append(self._url)
        if self._url in self._servers.down:
            raise BrokerUnavailable("refused")
        return self

    async def declare(self, queues: Sequence[Queue]) -> None:
        self._servers.declared.append(queues)


@on_virtual_time
async def test_one_that_stays_away_is_given_up_for_the_first_that_answers() -> None:
    servers = Servers(FIRST, SECOND, THIRD)
    servers.down = {FIRST, SECOND}
    servers.hosts.declared = [Queue("mail")]

    await servers.fail()
    await anyio.sleep(AWAY - 0.1)
    await servers.fail()
    assert servers.hosts.at == 0
    assert not servers.probed
    await anyio.sleep(0.1)
    await servers.fail()

    assert servers.hosts.url is THIRD
    assert servers.probed == [SECOND, THIRD]
    assert servers.declared == [[Queue("mail")]]
    assert (await servers.hosts.connect(servers.open_one)).to is THIRD


@on_virtual_time
async def test_one_that_answered_meanwhile_is_not_given_up() -> None:
    servers = Servers(FIRST, SECOND)
    servers.down = {FIRST}
    await servers.fail()
    await anyio.sleep(AWAY)
    servers.down = set()
    await servers.hosts.connect(servers.open_one)

    servers.down = {FIRST}
    await servers.fail()

    assert servers.hosts.at == 0


@on_virtual_time
async def test_a_failure_long_after_the_last_begins_another_outage() -> None:
    servers = Servers(FIRST, SECOND)
    servers.down = {FIRST}
    await servers.fail()

    await anyio.sleep(SAME_OUTAGE + 0.1)
    await servers.fail()

    assert servers.hosts.at == 0


@on_virtual_time
async def test_a_silence_counts_from_its_begin() -> None:
    servers = Servers(FIRST, SECOND)
    servers.silent = True

    with anyio.fail_after(CONNECT_TIMEOUT + 0.1):
        await servers.fail()

    assert servers.hosts.at == 1


@on_virtual_time
async def test_one_that_refuses_us_is_not_given_up() -> None:
    servers = Servers(FIRST, SECOND)

    async def refuse() -> Opened:
        raise ConfigurationError("a wrong password")

    for _ in range(2):
        with pytest.raises(ConfigurationError):
            await servers.hosts.connect(refuse)
        await anyio.sleep(AWAY)

    assert servers.hosts.at == 0


@on_virtual_time
async def test_with_the_one_that_is_given_up_go_its_connections_and_what_was_known_of_it() -> None:
    servers = Servers(FIRST, SECOND)
    opened = [await servers.hosts.connect(servers.open_one) for _ in range(2)]
    open_as_told = list[bool]()
    servers.hosts.on_move(lambda: open_as_told.append(opened[0].is_open))
    servers.down = {FIRST}

    for _ in range(2):
        await servers.fail()
        await anyio.sleep(AWAY)

    assert not any(each.is_open for each in opened)
    assert open_as_told == [True]


@on_virtual_time
async def test_what_was_opened_to_the_former_while_it_was_given_up_is_closed() -> None:
    servers = Servers(FIRST, SECOND)
    late: list[Opened] = []

    async def open_late() -> Opened:
        late.append(Opened(servers.hosts.url))
        servers.down = {FIRST}
        servers.hosts.use(1)
        return late[0]

    with pytest.raises(ConnectionResetError, match="given up for another"):
        await servers.hosts.connect(open_late)

    assert not late[0].is_open


@on_virtual_time
async def test_a_silence_of_all_leaves_the_one_in_use(caplog: pytest.LogCaptureFixture) -> None:
    servers = Servers(FIRST, SECOND)
    servers.down = {FIRST, SECOND}

    for _ in range(3):
        await servers.fail()
        await anyio.sleep(AWAY)

    assert servers.hosts.at == 0
    assert not caplog.records


@on_virtual_time
async def test_the_log_names_both_without_their_passwords(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    servers = Servers(FIRST, SECOND)
    servers.down = {FIRST}

    for _ in range(2):
        await servers.fail()
        await anyio.sleep(AWAY)

    [line] = caplog.messages
    assert line == (
        "broker 'redis://:***@a/0' does not answer: going on with 'redis://:***@b/0'; messages in "
        "the former wait there until it is back"
    )


@on_virtual_time
async def test_a_list_of_one_is_never_given_up() -> None:
    servers = Servers(FIRST)
    servers.down = {FIRST}

    for _ in range(3):
        await servers.fail()
        await anyio.sleep(AWAY)

    assert not servers.probed


@pytest.fixture
async def both(redis_url: str) -> AsyncIterator[tuple[Hosts, RedisBroker]]:
    """A broker at two addresses, each with a prefix of its own."""
    hosts = Hosts([Url(f"{redis_url}?prefix={new_id()}") for _ in range(2)])
    broker = make_broker(hosts, SystemClock())
    assert isinstance(broker, RedisBroker)
    async with broker:
        yield hosts, broker


async def test_a_redis_is_used_by_its_own_prefix(both: tuple[Hosts, RedisBroker]) -> None:
    hosts, broker = both
    await broker.publish([envelope()])
    hosts.use(1)
    await broker.publish([envelope(), envelope()])

    ready = list[int]()
    for url in hosts.urls:
        async with make_broker(url, SystemClock()) as alone:
            assert isinstance(alone, RedisBroker)
            assert await alone.queues() == ["mail"]
            ready.append((await alone.depth("mail")).ready)
    assert ready == [1, 2]


async def test_what_was_asked_of_the_former_is_not_asked_of_another(
    both: tuple[Hosts, RedisBroker],
) -> None:
    hosts, _ = both
    link = Link(RedisStore(hosts), BrokerUnavailable)
    told = list[BrokerUnavailable]()

    async def ask() -> None:
        with pytest.raises(BrokerUnavailable, match="given up for another") as caught:
            await link("PING")
        told.append(caught.value)

    turn = link._turn  # pyright: ignore[reportPrivateUsage]
    async with anyio.create_task_group() as group, turn:
        group.start_soon(ask)
        await anyio.lowlevel.checkpoint()
        hosts.use(1)

    assert told
    assert await link("PING") == b"PONG"
    link.close()


async def test_broker_and_backend_of_a_list_are_one_store_and_keep_leases(
    both: tuple[Hosts, RedisBroker],
) -> None:
    hosts, broker = both

    assert broker.store == make_backend(hosts, SystemClock()).store
    assert broker.store != make_backend(hosts.urls[0], SystemClock()).store
    assert broker.offers.leases is broker


async def test_a_worker_at_a_list_renews_its_lease(redis_url: str) -> None:
    urls = [f"{redis_url}?prefix={new_id()}" for _ in range(2)]
    runs = list[str]()

    def app_at(where: str | list[str], name: str) -> App:
        app = App(where, config=Config(lease=0.5))

        @app.task(name="long")
        async def long() -> str:
            runs.append(name)
            await anyio.sleep(1.5)  # what another worker finds unless the lease is renewed
            return name

        return app

    listed, alone = app_at(urls, "listed"), app_at(urls[0], "alone")
    async with listed, listed.worker():
        result = await listed.tasks["long"].enqueue()
        await until(lambda: bool(runs))
        async with alone.worker():
            assert await result.get(timeout=PATIENCE) == "listed"
    assert runs == ["listed"]


async def test_of_files_the_first_is_used(tmp_path: Path) -> None:
    app = App([f"sqlite:///{tmp_path}/{name}.db" for name in "ab"])

    @app.task
    async def one() -> int:
        return 1

    async with app, app.worker():
        assert await (await one.enqueue()).get(timeout=5) == 1

    assert os.listdir(tmp_path) == ["a.db"]
