"""What is particular to Redis: its scripts, its server, its secrets, its lost connections."""

import logging
import re
import shutil
import tempfile
from collections.abc import AsyncIterator, Generator
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path

import anyio
import anyio.lowlevel
import msgspec
import pytest

from asyncq.app import App
from asyncq.clock import SystemClock
from asyncq.config import Url
from asyncq.drivers.redis import connection
from asyncq.drivers.redis.backend import RedisBackend
from asyncq.drivers.redis.broker import RedisBroker
from asyncq.drivers.redis.connection import Link, RedisStore, Script, pack_command
from asyncq.drivers.redis.wire import ReplyError, Wire
from asyncq.errors import BrokerUnavailable, ConfigurationError
from asyncq.language.envelope import Envelope
from asyncq.language.message import Succeeded, new_id
from asyncq.language.record import Record
from asyncq.seams.broker import Ack, Lease, Nack, QueueSpec
from asyncq.seams.feeds import replies_to
from asyncq.seams.records import encode_record, pack_pushed
from tests.servers import free_port, start_redis

MAIL = QueueSpec("mail")
SECRET = "hunter2:/@?"


def envelope(id: str = "one", body: bytes = b"hello") -> Envelope:
    return Envelope(id=id, queue="mail", body=body)


@pytest.fixture
async def broker(redis_url: str) -> AsyncIterator[RedisBroker]:
    async with RedisBroker(Url(f"{redis_url}?prefix={new_id()}"), SystemClock()) as broker:
        yield broker


@pytest.fixture
async def link(redis_url: str) -> AsyncIterator[Link]:
    link = Link(RedisStore(Url(redis_url)), BrokerUnavailable)
    yield link
    link.close()


def scripts() -> dict[str, str]:
    folder = files("asyncq.drivers.redis") / "scripts"
    return {path.name: path.read_text() for path in folder.iterdir()}


def test_every_script_touches_keys_of_one_slot_alone() -> None:
    without_prelude = {"prelude.lua", "append.lua"}
    for name, text in scripts().items():
        keys = set(re.findall(r"KEYS\[(\d+)\]", text))

        if name.startswith(("latch", "registry")):  # the backend's, which is one server
            assert keys <= {"1"}, name
            continue
        assert keys == ({"1"} if name in without_prelude else set()), name
        for call in re.findall(r"redis\.call\('[A-Z]+', ([^,)]+)", text):
            # A variable that was made from the base, the base itself, or (where broker and backend
            # are one server) the prefix of the records and reply channels.
            allowed = (
                r"base|in_flight|bodies|crashes|leases|dead|key\b|key_of\(|records|replies"
                r"|unpack\(keys"
            )
            assert re.match(allowed, call.strip()), (name, call)


def test_every_loop_in_a_script_is_over_something_bounded() -> None:
    for name, text in scripts().items():
        code = re.sub(r"--.*", "", text)

        assert "while" not in code, name
        # What one worker holds is bounded by its slots.
        assert "HGETALL" not in code or name == "enter.lua", name
        assert "'KEYS'" not in code, name


async def test_an_old_server_is_refused_with_both_versions(
    broker: RedisBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("asyncq.drivers.redis.broker.OLDEST", (99, 0))

    with pytest.raises(ConfigurationError, match=r"is Redis \d+\.\d+.*99\.0 or newer"):
        await broker.__aenter__()


async def test_an_eviction_policy_that_can_drop_tasks_is_warned_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    with start_redis(tmp_path, "--maxmemory-policy", "allkeys-lru") as server:
        async with RedisBroker(Url(server.url), SystemClock()):
            pass

    assert "maxmemory-policy allkeys-lru, which can drop tasks" in caplog.text


async def test_a_wrong_password_is_a_clear_error_and_is_not_shown(tmp_path: Path) -> None:
    with start_redis(tmp_path, "--requirepass", "right") as server:
        url = Url(
            f"redis://:{SECRET.replace('/', '%2F').replace('?', '%3F')}@127.0.0.1:{server.port}"
        )

        with pytest.raises(ConfigurationError, match="refuses us") as caught:
            await RedisBroker(url, SystemClock()).__aenter__()

    assert "hunter2" not in str(caught.value)
    assert "hunter2" not in repr(url)


async def test_nobody_at_the_url_is_unavailable_and_the_password_is_not_shown() -> None:
    url = Url(f"redis://user:hunter2@127.0.0.1:{free_port()}/0")

    with anyio.fail_after(10), pytest.raises(BrokerUnavailable, match="no answer") as caught:
        await RedisBroker(url, SystemClock()).__aenter__()

    assert "hunter2" not in str(caught.value)
    assert "127.0.0.1" in str(caught.value)


@pytest.mark.parametrize(
    "url", ["redis://:hunter2@localhost:port", "redis://:hunter2@localhost?no_such_option=1"]
)
def test_a_url_that_is_none_is_refused_without_its_password(url: str) -> None:
    with pytest.raises(ConfigurationError, match="not a Redis URL") as caught:
        RedisBroker(Url(url), SystemClock())

    assert "hunter2" not in str(caught.value)
    assert caught.value.__cause__ is None


async def test_bytes_that_another_hand_put_there_are_delivered_as_they_are(
    broker: RedisBroker, link: Link
) -> None:
    base = str(broker.store[0][3]) + ":{mail}"  # type: ignore[index] # the prefix is the last part of its address
    await link("HSET", f"{base}:bodies", "odd", b"\xff\x00 not a message")
    await link("RPUSH", f"{base}:ready:0", "odd")

    async with broker.consume(MAIL, Lease("worker", 15.0)) as consumer:
        [delivery] = await consumer.receive(10)

    assert delivery.envelope.id == "odd"
    assert delivery.envelope.body == b"\xff\x00 not a message"


async def test_an_id_without_a_body_is_delivered_empty_and_not_lost(
    broker: RedisBroker, link: Link
) -> None:
    base = str(broker.store[0][3]) + ":{mail}"  # type: ignore[index] # the prefix is the last part of its address
    await link("RPUSH", f"{base}:ready:0", "gone")

    async with broker.consume(MAIL, Lease("worker", 15.0)) as consumer:
        [delivery] = await consumer.receive(10)

    assert delivery.envelope == Envelope(id="gone", queue="mail", body=b"")


@pytest.mark.parametrize("due", [0.0, 0.0001, 0.001, 0.0015])
async def test_a_wait_for_what_is_due_in_a_moment_is_short(broker: RedisBroker, due: float) -> None:
    async with broker.consume(MAIL, Lease("worker", 15.0)) as consumer:
        consumer._next_due = due  # pyright: ignore[reportAttributeAccessIssue] - as a claim says it

        with anyio.fail_after(3):
            await consumer.wait()


async def test_a_claim_whose_reply_was_lost_is_given_back(
    broker: RedisBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    await broker.publish([envelope("one"), envelope("two")])

    async with broker.consume(MAIL, Lease("worker", 15.0)) as consumer:
        [first] = await consumer.receive(1)
        with losing_the_reply(monkeypatch), pytest.raises(BrokerUnavailable):
            await consumer.receive(10)
        assert (await broker.depth("mail")).in_flight == 2
        received = await consumer.receive(10)
        fenced = await consumer.settle([Ack(first), Ack(received[0])])

    assert [delivery.envelope.id for delivery in received] == ["two"]
    assert not fenced
    assert (await broker.depth("mail")).in_flight == 0


async def test_a_settlement_sent_again_after_a_lost_reply_is_not_called_fenced(
    broker: RedisBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    await broker.publish([envelope()])
    async with broker.consume(MAIL, Lease("worker", 15.0)) as consumer:
        [delivery] = await consumer.receive(1)
        with losing_the_reply(monkeypatch), pytest.raises(BrokerUnavailable):
            await consumer.settle([Ack(delivery)])

        fenced = await consumer.settle([Ack(delivery)])

    assert not fenced


async def test_giving_back_sent_again_spares_what_was_claimed_since(
    broker: RedisBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    await broker.publish([envelope()])
    async with broker.consume(MAIL, Lease("worker", 15.0)) as consumer:
        [first] = await consumer.receive(1)
        again = Nack(first, replacement=envelope(body=b"second attempt"))
        with losing_the_reply(monkeypatch), pytest.raises(BrokerUnavailable):
            await consumer.settle([again])
        [second] = await consumer.receive(1)

        assert not await consumer.settle([again])
        assert not await consumer.receive(1)
        assert not await consumer.settle([Ack(second)])

    assert second.envelope.body == b"second attempt"
    assert await broker.find(["one"]) == [None]


async def test_everything_accepted_survives_a_killed_server_with_its_log_on(
    tmp_path: Path,
) -> None:
    with start_redis(tmp_path, "--appendonly", "yes", "--appendfsync", "always") as server:
        async with RedisBroker(Url(server.url), SystemClock()) as broker:
            await broker.publish([envelope(str(n)) for n in range(100)])
            server.kill()
            server.start()

            depth = await _once_it_answers(broker)

    assert depth == 100


async def test_scripts_are_loaded_again_after_the_server_forgot_them(
    broker: RedisBroker, link: Link
) -> None:
    await broker.publish([envelope("one")])

    await link("SCRIPT", "FLUSH")
    await broker.publish([envelope("two")])

    assert (await broker.depth("mail")).ready == 2


async def test_keys_of_a_drained_queue_do_not_pile_up(broker: RedisBroker, link: Link) -> None:
    await broker.publish([envelope(str(n)) for n in range(50)])
    async with broker.consume(MAIL, Lease("worker", 15.0)) as consumer:
        await consumer.settle([Ack(delivery) for delivery in await consumer.receive(50)])

    prefix = str(broker.store[0][3])  # type: ignore[index] # the prefix is the last part of its address
    _, keys = await link("SCAN", 0, "MATCH", f"{prefix}:*", "COUNT", 100_000)

    assert {key.decode().removeprefix(prefix) for key in keys} <= {":queues", ":{mail}:wake"}


@pytest.mark.parametrize(
    "text",
    [
        "OOM command not allowed when used memory > 'maxmemory'.",
        "OOM command not allowed when used memory > 'maxmemory'. script: 29, on @user_script:29.",
        "ERR Error running script (call to f_29): @user_script:29: @user_script: 29: -OOM command.",
    ],
)
def test_a_full_server_is_told_from_a_fault_also_inside_a_script(text: str) -> None:
    assert ReplyError(text).code == "OOM"


async def test_a_sweep_that_was_on_its_way_while_the_server_stood_still_does_nothing(
    tmp_path: Path,
) -> None:
    with start_redis(tmp_path) as server:
        async with (
            RedisBroker(Url(server.url), SystemClock()) as broker,
            broker.consume(MAIL, Lease("living", 0.2)) as consumer,
        ):
            await broker.publish([envelope()])
            [delivery] = await consumer.receive(1)
            server.pause()
            recovered: list[int] = []

            async def sweep() -> None:
                recovered.append(await broker.sweep("mail"))

            async with anyio.create_task_group() as group:
                group.start_soon(sweep)
                await anyio.sleep(1.0)  # longer than the lease, and than a sweep may take
                server.resume()

            assert recovered == [0]
            assert await _swept_late(server.url) == 0
            assert not await consumer.settle([Ack(delivery)])


async def test_what_is_pushed_while_a_silent_connection_is_asked_for_life_is_heard(
    redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = encode_record(Record("one", Succeeded(msgspec.Raw(b"2"))))
    pushed = pack_command(("message", "reply:me", pack_pushed([msgspec.Raw(record)])))
    real = Wire.tell

    def tell_late(wire: Wire, question: bytes) -> None:
        wire.data_received(pushed)
        real(wire, question)

    monkeypatch.setattr(connection, "PING_EVERY", 0.05)

    with anyio.fail_after(5):
        async with RedisBackend(Url(redis_url), SystemClock()).subscribe(
            replies_to("me")
        ) as replies:
            monkeypatch.setattr(Wire, "tell", tell_late)
            [heard] = await replies.receive()

    assert heard.id == "one"


@contextmanager
def losing_the_reply(patch: pytest.MonkeyPatch) -> Generator[None]:
    """What is asked meanwhile is done, and its reply never heard."""
    real = Wire.ask

    async def ask(self: Wire, questions: bytes, count: int, patience: float) -> None:
        await real(self, questions, count, patience)
        self.close()
        raise ConnectionResetError("the reply was lost")

    with patch.context() as patched:
        patched.setattr(Wire, "ask", ask)
        yield


async def _swept_late(url: str) -> int:
    """What a sweep recovers that arrives long after it was sent."""
    link = Link(RedisStore(Url(url)), BrokerUnavailable)
    try:
        return await link.script(Script("sweep"), "asyncq:{mail}", 1)
    finally:
        link.close()


async def _once_it_answers(broker: RedisBroker) -> int:
    with anyio.fail_after(10):
        while True:
            try:
                return (await broker.depth("mail")).ready
            except BrokerUnavailable:
                await anyio.lowlevel.checkpoint()


async def carry(url: str) -> None:
    """Have a task run by a worker that is here, and hear of it."""
    app = App(url)

    @app.task(name="double")
    async def double(n: int) -> int:
        return 2 * n

    with anyio.fail_after(20):
        async with app.worker():
            assert await (await double.enqueue(21)).get(timeout=10) == 42


async def test_a_server_is_reached_by_its_socket(tmp_path: Path) -> None:
    folder = Path(tempfile.mkdtemp())  # short: a socket's path has about a hundred characters
    socket = folder / "redis.sock"
    with start_redis(tmp_path, "--unixsocket", str(socket)):
        await carry(f"unix://{socket}")
        await carry(f"unix://{socket}?db=1&prefix=other")
    shutil.rmtree(folder)


async def test_a_user_without_the_dangerous_commands_can_work(
    tmp_path: Path,
) -> None:
    worker = ("worker", "on", ">pw", "~*", "&*", "+@all", "-@dangerous")
    acl = ("--user", "default", "off", "--user", *worker)
    with start_redis(tmp_path, *acl) as server:
        await carry(server.url.replace("redis://", "redis://worker:pw@"))
