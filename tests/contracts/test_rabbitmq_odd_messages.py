"""Messages that other programs put into RabbitMQ: each is a dead letter, and harms no other."""

import logging
import os
import struct
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import anyio.to_thread
import msgspec
import pamqp.commands as amqp
import pamqp.encode
import pytest
from anyio import fail_after
from anyio.lowlevel import checkpoint

from asyncq import App, gather
from asyncq.drivers.rabbitmq import names
from asyncq.drivers.rabbitmq.content import Parcel, frames
from asyncq.drivers.rabbitmq.publisher import Publisher
from asyncq.drivers.rabbitmq.wire import BODY, END, HEADER
from asyncq.language.message import new_id
from tests.contracts.rabbit_given import PATIENCE, publisher
from tests.language.test_unreadable import ODD_TABLES
from tests.system.commands import Shell

__all__ = ["publisher"]  # a fixture

OURS = 20
NAN, INF = float("nan"), float("inf")

# AMQP's properties of a message (0-9-1, section 4.2.6), in their order, and their flags.
FLAGS = {
    "content_type": 0x8000,
    "encoding": 0x4000,
    "headers": 0x2000,
    "mode": 0x1000,
    "priority": 0x0800,
    "correlation": 0x0400,
    "reply_to": 0x0200,
    "expiration": 0x0100,
    "id": 0x0080,
    "timestamp": 0x0040,
    "type": 0x0020,
}
BYTES = ("mode", "priority")


def properties(**given: bytes) -> bytes:
    """The bytes of these properties: of a table or a moment as they are, of text with its size."""
    flags, packed = 0, b""
    for name, flag in FLAGS.items():
        if name in given:
            value, flags = given[name], flags | flag
            if name == "headers":
                packed += struct.pack(">I", len(value))
            elif name not in {*BYTES, "timestamp"}:
                packed += bytes([len(value)])
            packed += value
    return struct.pack(">H", flags) + packed


def table(headers: Mapping[str, Any]) -> bytes:
    return pamqp.encode.field_table(dict(headers))[4:]


def fields(*values: object) -> bytes:
    """A body as asyncq itself writes it, whatever the values."""
    return msgspec.msgpack.encode([0, b"no message", *values])


def nested(levels: int) -> bytes:
    return b"\x97\x00\xc4\x01x\xc0\xc0\xc0\x00" + b"\x81\xa1a" * levels + b"\xc0"


TABLES = [  # the others are refused by RabbitMQ itself (3.10.8)
    ODD_TABLES["a key that is no text"],
    ODD_TABLES["a moment after the year 9999"],
    ODD_TABLES["tables in tables"],
    ODD_TABLES["text that is none"],
    b"\x01aT" + b"\xff" * 8,  # a second before 1970
    table({"x-death": 7}),
    table({"x-death": ["no table", {"time": "no moment", "count": "many"}]}),
    table({"x-asyncq-reason": 5, "x-asyncq-died-at": 2**62, "x-first-death-reason": {"a": 1}}),
]
ODD: Sequence[tuple[bytes, bytes]] = [
    *((properties(headers=each, id=b"table"), b"body %d" % n) for n, each in enumerate(TABLES)),
    (properties(), b"a message without properties"),
    (properties(), b""),
    (properties(id=b""), b"its id has no character"),
    (properties(id=b"\xff" * 255), b"its id is no text"),
    (properties(id=b"junk", mode=b"\x02"), os.urandom(1_000_000)),
    (properties(id=b"type", content_type=b"\xff\xfe", encoding=b"\x00" * 255, type=b"\xff"), b"x"),
    (properties(id=b"far", priority=b"\xff", mode=b"\x01", reply_to=b"r" * 255), b"x"),
    (properties(id=b"old", timestamp=b"\xff" * 8, correlation=b"\xfe" * 255), b"x"),
    (properties(id=b"soon", expiration=b"86400000"), b"x"),
    (properties(id=b"priority"), msgspec.msgpack.encode([300, b"no message"])),
    (properties(id=b"moments"), fields(NAN, INF, None, -INF)),
    (properties(id=b"address"), fields(None, None, "r" * 300, 0.0)),
    (properties(id=b"crashes"), fields(None, None, None, 0.0, {}, 2**64 - 1)),
    (properties(id=b"deep"), nested(900)),
    (properties(id=b"last"), fields(None, None, None, 0.0, {}, 0, False, "", b"\xc1 junk")),
    (properties(id=b"copy"), fields(None, None, None, 0.0, {}, 0, False, "f" * 300)),
]  # fmt: skip


async def put_raw(publisher: Publisher, queue: str, properties: bytes, body: bytes) -> None:
    """Publish as no library would: with these properties, byte for byte."""
    channel = await publisher.connector.open_channel()
    wire = channel.wire
    method = frames(Parcel("", queue, "x", b""), channel.number, wire.frame_max)
    method = method[: 7 + struct.unpack_from(">I", method, 3)[0] + 1]  # its first frame
    head = struct.pack(">HHQ", 60, 0, len(body)) + properties
    data = method + struct.pack(">BHI", HEADER, channel.number, len(head)) + head + END
    for at in range(0, len(body), 100_000):
        piece = body[at : at + 100_000]
        data += struct.pack(">BHI", BODY, channel.number, len(piece)) + piece + END
    channel.send(data)
    await channel.call(amqp.Basic.Qos(0, 0, False))  # it has heard all that
    channel.close()


async def until_dead(app: App, queue: str, count: int) -> None:
    with fail_after(2 * PATIENCE):
        while (await app.queues.depth(queue)).dead < count:
            await checkpoint()


class Counting:
    """A task in a queue of its own, and how often it ran for each number."""

    def __init__(self, app: App) -> None:
        self.queue = f"spared-{new_id()}"
        self.runs = Counter[int]()
        self._app = app

        @app.task(queue=self.queue)
        async def count(number: int) -> None:
            self.runs[number] += 1

        self._task = count

    async def run(self) -> None:
        results = await self._app.enqueue_many(self._task.s(number) for number in range(OURS))
        await gather(*results, timeout=PATIENCE)


def command(shell: Shell, *arguments: str) -> Any:
    ended = shell.asyncq(*arguments, "--json")
    assert ended.code == 0, ended.err
    return ended.data


@pytest.mark.parametrize("where", [str, names.suspects])
async def test_an_odd_message_is_one_dead_letter_and_harms_no_other(
    rabbitmq_url: str,
    publisher: Publisher,
    caplog: pytest.LogCaptureFixture,
    where: Any,
) -> None:
    hit, app = f"hit-{new_id()}", App(rabbitmq_url)
    spared = Counting(app)

    @app.task(queue=hit)
    async def answer() -> int:
        return 42

    async with app, app.worker(queues=[hit, spared.queue]):
        assert await (await answer.enqueue()).get(timeout=PATIENCE) == 42
        for odd, body in ODD:
            await put_raw(publisher, where(hit), odd, body)
        await spared.run()
        assert await (await answer.enqueue()).get(timeout=PATIENCE) == 42
        await until_dead(app, hit, len(ODD))
        letters = await app.dead.list(hit)

    assert spared.runs == Counter(range(OURS))
    assert len(letters) == len(ODD)
    ours = [letter.envelope.body for letter in letters]
    # Of what is an envelope as asyncq writes it, that is what is in it.
    assert all(body in ours or b"no message" in body for _, body in ODD)
    assert "lost its lease" not in caplog.text
    assert "settling" not in caplog.text


async def test_odd_dead_letters_are_listed_sent_again_and_deleted_like_any_other(
    rabbitmq_url: str, publisher: Publisher, tmp_path: Path
) -> None:
    hit, app = f"hit-{new_id()}", App(rabbitmq_url)
    shell = Shell(tmp_path, os.environ)

    @app.task(queue=hit)
    async def answer() -> int:
        return 42

    async with app, app.worker(queues=[hit]):
        assert await (await answer.enqueue()).get(timeout=PATIENCE) == 42
        for odd, body in ODD:
            await put_raw(publisher, names.dead(hit), odd, body)
        await until_dead(app, hit, len(ODD))
        listed = await anyio.to_thread.run_sync(command, shell, "dead", "list", rabbitmq_url, hit)
        await anyio.to_thread.run_sync(shell.asyncq, "dead", "list", rabbitmq_url, hit, "--body")
        ids = [letter["id"] for letter in listed]
        replayed = await app.client.operator.admin(hit).replay(hit, ids)
        await until_dead(app, hit, len(ODD))
        deleted = await anyio.to_thread.run_sync(
            command, shell, "dead", "delete", rabbitmq_url, hit, "--all", "--yes"
        )
        assert await (await answer.enqueue()).get(timeout=PATIENCE) == 42
        assert (await app.queues.depth(hit)).dead == 0

    assert len(listed) == len(ODD)
    assert sorted(replayed) == sorted(ids)
    assert deleted["deleted"] == len(ODD)


async def test_an_address_that_is_no_clients_costs_its_neighbours_nothing(
    rabbitmq_url: str, publisher: Publisher, caplog: pytest.LogCaptureFixture
) -> None:
    app = App(rabbitmq_url)
    runs = Counter[int]()

    @app.task(queue="hit")
    async def count(number: int) -> int:
        runs[number] += 1
        return number

    async with app:
        await app.enqueue_many(count.s(number) for number in range(3))
        for id, address in ((b"a", "r" * 300), (b"b", "\x00/#*"), (b"c", "")):
            body = msgspec.msgpack.encode(
                [0, msgspec.msgpack.encode([1, count.name, [7], {}]), None, None, address]
            )
            await put_raw(publisher, "hit", properties(id=id), body)
        results = await app.enqueue_many(count.s(number) for number in range(3, 6))
        with caplog.at_level(logging.WARNING):
            async with app.worker(queues=["hit"]):
                assert await gather(*results, timeout=PATIENCE) == [3, 4, 5]
        assert (await app.queues.depth("hit")).dead == 0

    assert runs == Counter([0, 1, 2, 3, 4, 5, 7, 7, 7])
    assert caplog.text.count("its reply_to of 300 characters is no client's") == 1
    assert "settling" not in caplog.text
