"""What Redis does not let us do, and what it cannot do just now: said as what it is."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import msgspec
import pytest
from anyio import fail_after

from asyncq import outages
from asyncq.app import App
from asyncq.clock import SystemClock
from asyncq.config import Url
from asyncq.drivers.redis.backend import RedisBackend
from asyncq.drivers.redis.broker import RedisBroker
from asyncq.drivers.redis.connection import Link, RedisStore
from asyncq.drivers.redis.refusals import asked_for, refusal
from asyncq.drivers.redis.wire import ReplyError
from asyncq.errors import (
    AsyncqError,
    BackendUnavailable,
    BrokerUnavailable,
    ConfigurationError,
    QueueUnavailable,
)
from asyncq.language.message import Succeeded, new_id
from asyncq.language.record import Record
from asyncq.language.signature import Signature
from tests.contracts.rabbit_given import MAIL, envelope, lease
from tests.servers import start_redis
from tests.worker.test_barred_queues import SHORT

PATIENCE = 20.0  # seconds


@asynccontextmanager
async def asking(url: str) -> AsyncGenerator[Link]:
    """A connection behind the drivers' backs."""
    link = Link(RedisStore(Url(url)), BrokerUnavailable)
    try:
        yield link
    finally:
        link.close()


async def what_broker_and_backend_say(url: str) -> tuple[AsyncqError, AsyncqError]:
    """What each raises when it is asked to keep something."""
    with fail_after(PATIENCE), pytest.raises(AsyncqError) as of_broker:
        async with RedisBroker(Url(url), SystemClock()) as broker:
            await broker.publish([envelope()])
    record = Record(new_id(), Succeeded(msgspec.Raw(b"1")), keep=10.0)
    with fail_after(PATIENCE), pytest.raises(AsyncqError) as of_backend:
        async with RedisBackend(Url(url), SystemClock()) as backend:
            await backend.store_records([record])
    return of_broker.value, of_backend.value


@pytest.mark.parametrize(
    ("user", "path", "commands", "parts"),
    [
        ("", "", [], ["NOAUTH", "redis://:password@host"]),
        (":hunter2@", "", [], ["user or password is wrong"]),
        ("alice:hunter2@", "", [], ["user or password is wrong"]),
        ("bob:secret@", "", ["on", ">secret", "~*", "&*", "+@all", "-eval", "-evalsha", "-set"],
         ["lacks rights for", "ACL SETUSER"]),
        ("bob:secret@", "", ["on", ">secret", "~other:*", "&*", "+@all"],
         ["lacks rights for", "asyncq:", "~prefix:*"]),
        ("bob:secret@", "/99", ["on", ">secret", "~*", "&*", "+@all"],
         ["no database of this number", "databases"]),
    ],
)  # fmt: skip
async def test_what_only_a_change_mends_is_a_wrong_set_up(
    tmp_path: Path, user: str, path: str, commands: Sequence[str], parts: Sequence[str]
) -> None:
    with start_redis(tmp_path, "--requirepass", "right") as server:
        where = f"127.0.0.1:{server.port}"
        if commands:
            async with asking(f"redis://:right@{where}") as link:
                await link("ACL", "SETUSER", "bob", *commands)

        errors = await what_broker_and_backend_say(f"redis://{user}{where}{path}")

    for error in errors:
        assert isinstance(error, ConfigurationError)
        assert where in str(error)
        assert "hunter2" not in str(error)
        assert "secret" not in str(error)
        for part in parts:
            assert part in str(error)


async def test_a_password_that_the_server_does_not_have_is_to_be_left_out(redis_url: str) -> None:
    url = redis_url.replace("redis://", "redis://:hunter2@")

    for error in await what_broker_and_backend_say(url):
        assert isinstance(error, ConfigurationError)
        assert "the server has no password" in str(error) or "is wrong" in str(error)
        assert "hunter2" not in str(error)


@pytest.mark.parametrize(
    ("options", "part"),
    [
        (["--maxmemory", "1", "--maxmemory-policy", "noeviction"], "its memory is full (OOM"),
        (["--replicaof", "127.0.0.1 1"], "it is a replica"),
        (["--min-replicas-to-write", "1"], "it has too few replicas to write"),
    ],
)
async def test_what_may_pass_is_an_outage_that_says_why(
    tmp_path: Path, options: Sequence[str], part: str
) -> None:
    args = [word for option in options for word in option.split(" ")]
    with start_redis(tmp_path, *args) as server:
        of_broker, of_backend = await what_broker_and_backend_say(server.url)

    assert isinstance(of_broker, BrokerUnavailable)
    assert isinstance(of_backend, BackendUnavailable)
    for error in (of_broker, of_backend):
        assert server.url in str(error)
        assert part in str(error)


async def test_a_server_that_cannot_write_its_files_is_an_outage_that_says_so(
    tmp_path: Path,
) -> None:
    with start_redis(tmp_path) as server:
        async with asking(server.url) as link:
            await link("CONFIG", "SET", "dbfilename", "taken.rdb")
            (tmp_path / "taken.rdb").mkdir()  # where it is to write
            await link("SET", "a", "b")
            await link("CONFIG", "SET", "save", "1 1")
            with fail_after(PATIENCE):
                await link("BGSAVE")
                while b"rdb_last_bgsave_status:err" not in await link("INFO", "persistence"):  # noqa: ASYNC110 - it tells nobody
                    await anyio.sleep(0.01)

        errors = await what_broker_and_backend_say(server.url)
        server.kill()  # told to stop, it would write first

    for error in errors:
        assert isinstance(error, BrokerUnavailable | BackendUnavailable)
        assert "it cannot write its files (MISCONF)" in str(error)


@pytest.mark.parametrize("kind", ["ready:5", "bodies", "leases", "delayed", "dead", "declared"])
async def test_a_key_of_another_type_bars_one_queue_until_it_is_gone(
    redis_url: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWAY", "WRONG"):
        monkeypatch.setattr(outages, name, SHORT)
    prefix = new_id()
    url = f"{redis_url}?prefix={prefix}"
    app = App(url)

    @app.task(queue="good")
    async def double(n: int) -> int:
        return 2 * n

    @app.task(queue="bad", priority=5)
    async def same(n: int) -> int:
        return n

    async with asking(redis_url) as link:
        key = f"{prefix}:{{bad}}:{kind}"
        await link("SET", key, "by other hands")
        with fail_after(3 * PATIENCE):
            async with app.worker(queues=["bad", "good"]):
                assert await (await double.enqueue(2)).get(timeout=PATIENCE) == 4
                await link("DEL", key)
                assert await (await same.enqueue(1)).get(timeout=PATIENCE) == 1
                assert await (await double.enqueue(3)).get(timeout=PATIENCE) == 6


async def test_a_call_to_a_spoiled_queue_fails_alone_and_says_which_keys(redis_url: str) -> None:
    prefix = new_id()
    app = App(f"{redis_url}?prefix={prefix}")

    @app.task(queue="good", priority=5)
    async def good(n: int) -> int:
        return n

    @app.task(queue="bad", priority=5)
    async def bad(n: int) -> int:
        return n

    async with asking(redis_url) as link, app:
        await link("SET", f"{prefix}:{{bad}}:ready:5", "by other hands")
        outcomes: list[Exception | None] = [None] * 5

        async def send(place: int, call: Signature[int]) -> None:
            try:
                await app.enqueue(call)
            except AsyncqError as error:
                outcomes[place] = error

        async with anyio.create_task_group() as group:  # they go in one batch
            for place, task in enumerate([good, bad, good, bad, good]):
                group.start_soon(send, place, task.s(place))

        assert [type(each) for each in outcomes] == [
            type(None), ConfigurationError, type(None), ConfigurationError, type(None)
        ]  # fmt: skip
        assert f"queue bad in '{redis_url}" in str(outcomes[1])
        assert f"{prefix}:{{bad}}:ready:5 is a string, not a list" in str(outcomes[1])
        assert (await app.queues.depth("good")).ready == 3
        await link("DEL", f"{prefix}:{{bad}}:ready:5")
        assert (await app.queues.depth("bad")).ready == 0  # nor is one of them half there
        assert await link("HLEN", f"{prefix}:{{bad}}:bodies") == 0


async def test_a_worker_that_meets_a_spoiled_key_says_which_queue_and_keys(redis_url: str) -> None:
    prefix = new_id()
    url = f"{redis_url}?prefix={prefix}"
    async with asking(redis_url) as link, RedisBroker(Url(url), SystemClock()) as broker:
        await link("SET", f"{prefix}:{{mail}}:leases", "by other hands")

        with pytest.raises(QueueUnavailable, match=r"queue mail in .*WRONGTYPE.*rename or delete"):
            async with broker.consume(MAIL, lease()):
                pass
        with pytest.raises(QueueUnavailable):
            await broker.sweep("mail")


@pytest.mark.parametrize(
    ("said", "part"),
    [
        ("ERR unknown command 'EVALSHA', with args", "lacks a command that asyncq needs"),
        ("ERR DB index is out of range", "no database of this number"),
        ("NOPERM this user has no permissions", "lacks rights for GET on 'a'"),
    ],
)
def test_a_refusal_names_what_was_asked(said: str, part: str) -> None:
    packed = b"*2\r\n$3\r\nGET\r\n$1\r\na\r\n"

    error = refusal("'redis://here'", ReplyError(said).code, said, asked_for(packed))

    assert part in str(error)
    assert "'redis://here'" in str(error)


@pytest.mark.parametrize(
    "packed", [b"", b"*1\r\n$4\r\nPING\r\n", b"*2\r\n$3\r\nGET\r\n$1\r\n\xff\r\n"]
)
def test_whatever_was_asked_can_be_named(packed: bytes) -> None:
    assert isinstance(asked_for(packed), str)
