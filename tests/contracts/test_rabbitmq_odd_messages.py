"""Messages that other programs put into RabbitMQ, with headers that no table can be made of."""

import struct
from collections import Counter

import pytest
from anyio import fail_after
from anyio.lowlevel import checkpoint

from asyncq import App, gather
from asyncq.brokers.rabbitmq.post import Post
from asyncq.message import new_id
from asyncq.stores.amqp_content import Parcel, frames
from asyncq.stores.amqp_wire import BODY, END, HEADER
from tests.contracts.rabbit_given import PATIENCE, post
from tests.language.test_unreadable import ODD_TABLES, with_table

__all__ = ["post"]  # a fixture

OURS = 20
TABLES = [  # the others are refused by RabbitMQ itself (3.10.8)
    ODD_TABLES["a key that is no text"],
    ODD_TABLES["a moment after the year 9999"],
    ODD_TABLES["tables in tables"],
    ODD_TABLES["text that is none"],
]


async def put_raw(post: Post, queue: str, properties: bytes, body: bytes) -> None:
    """Publish as no library would: with these properties, byte for byte."""
    channel = await post.open_channel()
    wire = channel.wire
    method = frames(Parcel("", queue, "x", b""), channel.number, wire.frame_max)
    method = method[: 7 + struct.unpack_from(">I", method, 3)[0] + 1]  # its first frame
    head = struct.pack(">HHQ", 60, 0, len(body)) + properties
    channel.send(
        method
        + struct.pack(">BHI", HEADER, channel.number, len(head)) + head + END
        + struct.pack(">BHI", BODY, channel.number, len(body)) + body + END
    )  # fmt: skip
    channel.close()


async def test_an_unreadable_header_table_is_one_dead_letter_and_no_more(
    rabbitmq_url: str, post: Post, caplog: pytest.LogCaptureFixture
) -> None:
    hit, spared = f"hit-{new_id()}", f"spared-{new_id()}"
    app = App(rabbitmq_url)
    runs = Counter[int]()

    @app.task(queue=spared)
    async def count(number: int) -> None:
        runs[number] += 1

    @app.task(queue=hit)
    async def answer() -> int:
        return 42

    async with app, app.worker(queues=[hit, spared]):
        assert await (await answer.enqueue()).get(timeout=PATIENCE) == 42
        for number, table in enumerate(TABLES):
            await put_raw(post, hit, with_table(table, f"odd-{number}"), b"body %d" % number)
        results = await app.enqueue_many(count.s(number) for number in range(OURS))
        await gather(*results, timeout=PATIENCE)
        assert await (await answer.enqueue()).get(timeout=PATIENCE) == 42
        with fail_after(PATIENCE):
            while (await app.client.operator.depth(hit)).dead < len(TABLES):
                await checkpoint()
        letters = await app.client.operator.dead_letters(hit)

    assert runs == Counter(range(OURS))
    assert {letter.envelope.id: letter.envelope.body for letter in letters} == {
        f"odd-{number}": b"body %d" % number for number in range(len(TABLES))
    }
    assert "lost its lease" not in caplog.text
