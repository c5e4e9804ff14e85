"""aio-pika without a task queue: the least that takes messages, runs them and acknowledges them.

    python -m benchmarks.contenders.bare_aio_pika

That is its worker, which works until it is killed.
"""

import asyncio
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager

import aio_pika
import uvloop
from aio_pika.abc import AbstractChannel, AbstractIncomingMessage, AbstractQueue

from benchmarks import tasks
from benchmarks.contenders.interface import CONCURRENCY, STORE_URL, Handle
from benchmarks.loops import repeat

QUEUE = "bare"
BULK_WIDTH = 50  # calls at a time

TASKS = {b"noop": tasks.noop, b"sleeper": tasks.sleeper}


class BareAioPika:
    """A durable quorum queue and persistent messages, but no results."""

    blocking = False
    settings: Mapping[str, object] = {
        "queue": "quorum; messages are persistent, and confirmed",
        "prefetch": CONCURRENCY,
        "acks": "multiple=True, for all that had arrived: faster than one by one",
        "results": "none: what has run counts as done",
        "bulk": f"{BULK_WIDTH} concurrent publish(): there is no bulk call",
    }

    def worker_command(self) -> Sequence[str]:
        return [sys.executable, "-m", __name__]

    @asynccontextmanager
    async def connect(self) -> AsyncIterator[None]:
        async with await aio_pika.connect(STORE_URL) as connection:
            channel = await connection.channel()
            await _declare(channel)
            self._exchange = channel.default_exchange
            yield

    async def enqueue(self, task: str) -> Handle:
        message = aio_pika.Message(task.encode(), delivery_mode=aio_pika.DeliveryMode.PERSISTENT)
        return await self._exchange.publish(message, routing_key=QUEUE)

    async def enqueue_many(self, task: str, count: int) -> Sequence[Handle]:
        return await repeat(lambda: self.enqueue(task), count, BULK_WIDTH)

    async def wait(self, handle: Handle) -> object:
        return tasks.DONE

    async def results(self, handles: Sequence[Handle]) -> list[object]:
        return [tasks.DONE] * len(handles)


contender = BareAioPika()


async def work() -> None:
    """Take what has arrived, run it all at once, acknowledge it with one word; until killed."""
    async with await aio_pika.connect(STORE_URL) as connection:
        channel = await connection.channel()
        await channel.set_qos(prefetch_count=CONCURRENCY)
        arrived: asyncio.Queue[AbstractIncomingMessage] = asyncio.Queue()
        await (await _declare(channel)).consume(arrived.put)
        while True:
            batch = [await arrived.get()]
            while len(batch) < CONCURRENCY and not arrived.empty():
                batch.append(arrived.get_nowait())
            async with asyncio.TaskGroup() as bodies:
                for message in batch:
                    bodies.create_task(TASKS[message.body]())
            await batch[-1].ack(multiple=True)  # it came last, so this covers the others


async def _declare(channel: AbstractChannel) -> AbstractQueue:
    quorum = {"x-queue-type": "quorum"}
    return await channel.declare_queue(QUEUE, durable=True, arguments=quorum)


if __name__ == "__main__":
    uvloop.run(work())
