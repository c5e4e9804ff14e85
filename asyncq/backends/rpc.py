"""The RPC backend: outcomes as messages, each client process with a reply queue of its own.

Nothing is kept: who sent a task hears of its outcome, once and nobody else. A client that was cut
off for less than two minutes finds in its queue what came meanwhile.
"""

import asyncio
from collections import defaultdict, deque
from collections.abc import AsyncGenerator, Hashable, Sequence
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Any, Literal, Self

import anyio
import msgspec
import pamqp.commands as amqp

from asyncq.backends.base import Watch
from asyncq.clock import Clock
from asyncq.config import Url
from asyncq.errors import BackendUnavailable
from asyncq.message import Record, new_id
from asyncq.stores.amqp import CALL_TIMEOUT, AmqpSettings, Connector
from asyncq.stores.amqp_content import Parcel, tag_of
from asyncq.stores.amqp_sender import Sender
from asyncq.stores.amqp_wire import Channel, ChannelClosed, Content
from asyncq.stores.records import encode_record, pack_pushed, read_pushed

KEPT_WITHOUT_CLIENT = 120.0  # seconds that a reply queue outlives its client
PROBE_EVERY = 5.0  # seconds of silence after which the server is asked for life
MOST_UNREAD = 100  # messages pushed and not yet read
MOST_BYTES = 8 * 1024 * 1024  # of outcomes in one message


class RpcBackend:
    """Outcomes through the RabbitMQ that carries the tasks."""

    keeps_nothing: Literal[True] = True

    def __init__(self, url: Url, clock: Clock) -> None:
        self._settings = AmqpSettings(url)
        self._clock = clock
        self._sender = Sender(
            Connector(self._settings, "answers", BackendUnavailable), CALL_TIMEOUT
        )

    @property
    def store(self) -> Hashable:
        return ("rpc", self._settings.identity)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
        /,
    ) -> None:
        self._sender.close()

    async def store_records(self, records: Sequence[Record]) -> None:
        heard: dict[str, list[Record]] = defaultdict(list)
        for record in records:
            if record.reply_to:
                heard[record.reply_to].append(record)
        # Dropped where the client is gone: its queue is, and nobody else would read it.
        await self._sender.send(
            [
                Parcel("", _queue(address), new_id(), body, mandatory=False)
                for address, batch in heard.items()
                for body in _bodies(batch)
            ]
        )

    async def fetch(self, ids: Sequence[str]) -> Sequence[Record | None]:
        return [None] * len(ids)

    @asynccontextmanager
    async def watch(self, address: str) -> AsyncGenerator[Watch]:
        watch = RpcWatch(self._settings, _queue(address))
        try:
            await watch.open()
            yield watch
        finally:
            watch.close()

    async def forget(self, ids: Sequence[str]) -> None:
        return None


class RpcWatch:
    """A client's ear at its reply queue."""

    def __init__(self, settings: AmqpSettings, queue: str) -> None:
        self._connector = Connector(settings, "listens", BackendUnavailable)
        self._queue = queue
        self._channel: Channel | None = None
        self._unread: deque[Content] = deque()  # MOST_UNREAD at most: the server holds the rest
        self._news = asyncio.Event()

    async def open(self) -> None:
        try:
            with anyio.fail_after(CALL_TIMEOUT):
                wire = await self._connector.wire()
                channel = self._channel = await wire.open_channel()
                channel.on_delivery = self._on_delivery
                channel.on_close = self._on_close
                await channel.call(
                    amqp.Queue.Declare(
                        queue=self._queue,
                        durable=True,
                        arguments={"x-expires": int(KEPT_WITHOUT_CLIENT * 1000)},
                    ),
                    amqp.Basic.Qos(0, MOST_UNREAD, False),
                    amqp.Basic.Consume(queue=self._queue),
                )
        except (OSError, ChannelClosed) as error:
            self._connector.close_if_silent(error)
            raise self._connector.gone(error) from error

    async def receive(self) -> Sequence[Record]:
        """As `Watch.receive`; raises `BackendUnavailable` when it has to be opened anew."""
        channel = self._channel
        if channel is None or channel.closed is not None:
            raise BackendUnavailable("the connection that listens for outcomes was lost")
        while not self._unread:
            if channel.closed is not None:
                raise BackendUnavailable(f"no outcomes can be heard: {channel.closed}")
            self._news.clear()
            with anyio.move_on_after(PROBE_EVERY):
                await self._news.wait()
                continue
            await self._probe(channel)
        content = self._unread.popleft()
        tag, _ = tag_of(content)
        try:
            records = read_pushed(content.body)
            channel.send(channel.marshal(amqp.Basic.Ack(tag)))
        except (OSError, ChannelClosed) as error:
            raise self._connector.gone(error) from error
        return records

    async def _probe(self, channel: Channel) -> None:
        """A half-open connection is silent for ever; this is what it must answer."""
        try:
            with anyio.fail_after(CALL_TIMEOUT):
                await channel.call(amqp.Basic.Qos(0, MOST_UNREAD, False))
        except (OSError, ChannelClosed) as error:
            self._connector.close()
            raise self._connector.gone(error) from error

    def close(self) -> None:
        self._connector.close()

    def _on_delivery(self, content: Content) -> None:
        self._unread.append(content)
        self._news.set()

    def _on_close(self, why: Exception) -> None:
        self._news.set()


def _queue(address: str) -> str:
    return f"asyncq:reply:{address}"


def _bodies(records: Sequence[Record]) -> list[bytes]:
    """MessagePack arrays of records, none of them very large."""
    bodies: list[bytes] = []
    some: list[Any] = []
    size = 0
    for record in records:
        blob = encode_record(record)
        if some and size + len(blob) > MOST_BYTES:
            bodies.append(pack_pushed(some))
            some, size = [], 0
        some.append(msgspec.Raw(blob))
        size += len(blob)
    return [*bodies, pack_pushed(some)]
