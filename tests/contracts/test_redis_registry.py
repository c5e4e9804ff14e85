"""What is particular to the registry in Redis: room, spoiled keys, rights, a full server."""

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from asyncq.clock import SystemClock
from asyncq.config import Url
from asyncq.drivers.redis.backend import RedisBackend
from asyncq.drivers.redis.connection import Link
from asyncq.drivers.redis.registry import RedisRegistry
from asyncq.errors import BackendError, BackendUnavailable
from asyncq.language.effects import Hold
from asyncq.language.message import new_id
from asyncq.seams.registry import MOST_CHANGES, Change
from asyncq.testing.contracts.entries import KIND, get, has_ended, heard, list_all, put
from asyncq.testing.contracts.given import FAR
from tests.contracts.redis_given import warnings
from tests.contracts.test_redis_refusals import asking
from tests.servers import start_redis

MIB = 1024 * 1024
ALL = ("on", ">secret", "~*", "&*", "+@all")


@asynccontextmanager
async def open_backend(url: str) -> AsyncGenerator[RedisBackend]:
    async with RedisBackend(Url(url), SystemClock()) as backend:
        yield backend


def registry_of(backend: RedisBackend) -> RedisRegistry:
    registry = backend.offers.registry
    assert isinstance(registry, RedisRegistry)
    return registry


@pytest.fixture
def prefix() -> str:
    return new_id()


@pytest.fixture
async def backend(redis_url: str, prefix: str) -> AsyncIterator[RedisBackend]:
    async with open_backend(f"{redis_url}?prefix={prefix}") as backend:
        yield backend


@pytest.fixture
def registry(backend: RedisBackend) -> RedisRegistry:
    return registry_of(backend)


@pytest.fixture
async def link(redis_url: str) -> AsyncIterator[Link]:
    async with asking(redis_url) as link:
        yield link


async def keys_of(link: Link, prefix: str) -> list[str]:
    return sorted(key.decode() for key in await link("KEYS", f"{prefix}:*"))


async def test_entries_that_change_on_and_on_take_no_more_room(
    registry: RedisRegistry, link: Link, prefix: str
) -> None:
    versions = dict.fromkeys([f"e{n}" for n in range(20)], 0)
    rooms: list[int] = []

    for turn in range(4):
        for name in [*versions] * (MOST_CHANGES // 20 + 1):
            entry = await put(registry, name, version=versions[name], keep=FAR + turn)
            versions[name] = entry.version
        keys = await keys_of(link, prefix)
        rooms.append(sum([await link("MEMORY", "USAGE", key, "SAMPLES", 0) for key in keys]))
        assert len(keys) == 20 + 4

    assert max(rooms[1:]) < 1.1 * rooms[0]


async def test_entries_that_have_ended_take_no_room(
    registry: RedisRegistry, link: Link, prefix: str
) -> None:
    for number in range(15):
        await put(registry, f"e{number}", keep=0.001)
    await has_ended(registry, "e14")

    await put(registry, "stays")

    assert await keys_of(link, prefix) == [
        f"{prefix}:entries:{KIND}",
        f"{prefix}:entry-changes:{KIND}",
        f"{prefix}:entry:{KIND}:stays",
        f"{prefix}:topic:registry/{KIND}",
    ]
    assert await link("ZCARD", f"{prefix}:entries:{KIND}") == 1


@pytest.mark.parametrize(
    "raw",
    [b"", b"text", b"1 " + b"9" * 17 + b"\n", b"\xff" * 40, b"0 0\n", b"-1 0\n", b"1 0", b"1.5 0\n",
     b"9007199254740993 0\n", b"9" * 400 + b" 0\n", b"1  0\n", b"1 x\n"],
)  # fmt: skip
async def test_an_entry_that_makes_no_sense_is_none_and_gives_way_to_one(
    registry: RedisRegistry, link: Link, prefix: str, raw: bytes
) -> None:
    await put(registry, "a")
    other = await put(registry, "b")
    await link("SET", f"{prefix}:entry:{KIND}:a", raw)

    assert await get(registry, "a") is None
    assert await list_all(registry, limit=1) == [other]
    assert not await registry.remove(KIND, "a", version=None)

    entry = await put(registry, "a", b"new")
    assert await list_all(registry) == [entry, other]


async def test_keys_of_another_type_are_no_entries_and_give_way_to_them(
    backend: RedisBackend, registry: RedisRegistry, link: Link, prefix: str
) -> None:
    for kind in ("entries", "entry-ends", "entry-changes"):
        await link("LPUSH", f"{prefix}:{kind}:{KIND}", "other hands")
    await link("LPUSH", f"{prefix}:entry:{KIND}:a", "other hands")
    await link("LPUSH", f"{prefix}:topic:registry/{KIND}", "other hands")
    assert (await registry.list(KIND)).entries == []
    assert list(await registry.get(KIND, ["a"])) == [None]
    assert not await registry.remove(KIND, "a", version=None)

    entry = await put(registry, "a", keep=FAR)

    assert await list_all(registry) == [entry]
    assert backend.offers.topics is not None
    assert await heard(backend.offers.topics) == [(1, Change("a", 1))]
    for kind in ("entries", "entry-ends"):
        await link("SET", f"{prefix}:{kind}:{KIND}", "other hands")
    assert await registry.remove(KIND, "a", version=entry.version)


async def test_a_name_that_is_no_text_is_left_out(
    registry: RedisRegistry, link: Link, prefix: str
) -> None:
    a, z = await put(registry, "a"), await put(registry, "\uffff")
    for name in (b"b\xff", b"c\xff", b"d\xff", b"z\xff", b"\xff\xff"):
        await link("ZADD", f"{prefix}:entries:{KIND}", 0, name)
        await link("SET", f"{prefix}:entry:{KIND}:".encode() + name, "1 0\n")

    for limit in (1, 2, 3, 100):
        assert await list_all(registry, limit=limit) == [a, z]


@pytest.mark.parametrize("count", ["text", "-7", "0", "1.5", "9223372036854775807", "", None])
async def test_a_count_that_makes_no_sense_is_taken_up_again(
    backend: RedisBackend, registry: RedisRegistry, link: Link, prefix: str, count: str | None
) -> None:
    for name in "abc":
        await put(registry, name)
    await registry.remove(KIND, "c", version=None)
    if count is None:
        await link("DEL", f"{prefix}:entry-changes:{KIND}")
    else:
        await link("SET", f"{prefix}:entry-changes:{KIND}", count)
    assert (await registry.list(KIND)).changes >= 0

    entry = await put(registry, "a", version=1)

    assert entry.version == 5
    assert backend.offers.topics is not None
    assert [number for number, _ in await heard(backend.offers.topics)] == [1, 2, 3, 4, 5]
    assert (await registry.list(KIND)).changes == 5


async def test_the_scripts_are_sent_again_after_the_server_forgot_them(
    registry: RedisRegistry, link: Link
) -> None:
    await put(registry, "a")

    await link("SCRIPT", "FLUSH")

    entry = await put(registry, "b", holds=[Hold("latch", ("p",))])
    await link("SCRIPT", "FLUSH")
    assert await registry.remove(KIND, "a", version=1)
    await link("SCRIPT", "FLUSH")
    assert await list_all(registry) == [entry]


async def test_what_the_server_never_takes_is_named(tmp_path: Path) -> None:
    with start_redis(tmp_path, "--proto-max-bulk-len", str(MIB)) as server:
        async with open_backend(server.url) as backend:
            with pytest.raises(BackendError, match=r"an entry cannot be kept: .*1048577"):
                await put(registry_of(backend), "a", b"x" * (MIB + 1))


async def test_a_full_server_is_away_and_what_it_has_is_read_and_removed(tmp_path: Path) -> None:
    with start_redis(tmp_path) as server:
        async with open_backend(server.url) as backend, asking(server.url) as link:
            registry = registry_of(backend)
            entry = await put(registry, "a", keep=FAR)
            await link("CONFIG", "SET", "maxmemory", "1")

            for name, version in (("a", entry.version), ("b", 0)):
                with pytest.raises(BackendUnavailable, match="its memory is full"):
                    await put(registry, name, version=version)

            assert await list_all(registry) == [entry]
            assert await registry.remove(KIND, "a", version=None)
            assert await list_all(registry) == []


async def test_without_the_right_to_tell_entries_are_written_all_the_same(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with start_redis(tmp_path) as server:
        async with asking(server.url) as root:
            await root("ACL", "SETUSER", "bob", *ALL, "-publish")
        url = server.url.replace("redis://", "redis://bob:secret@")
        async with open_backend(url) as backend:
            entry = await put(registry_of(backend), "a")
            await registry_of(backend).remove(KIND, "a", version=entry.version)

            assert backend.offers.topics is not None
            assert [number for number, _ in await heard(backend.offers.topics)] == [1, 2]

    assert warnings(caplog).count("does not let us publish to channels") == 1
