"""The RPC backend: outcomes as messages, each client process with a reply queue of its own.

Nothing is kept: who sent a task hears of its outcome, once and nobody else. A client that was cut
off for less than two minutes finds in its queue what came meanwhile.
"""

import asyncio
from collections import defaultdict, deque
from collections.abc import AsyncGenerator, Hashable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Generic, Self, TypeVar

import anyio
import msgspec
import pamqp.commands as amqp

from asyncq.clock import Clock
from asyncq.config import Url
from asyncq.drivers.hosts import Hosts
from asyncq.drivers.rabbitmq import names
from asyncq.drivers.rabbitmq.connection import AmqpSettings, Connector
from asyncq.drivers.rabbitmq.content import Parcel, TooLarge, tag_of
from asyncq.drivers.rabbitmq.sender import Sender
from asyncq.drivers.rabbitmq.wire import Channel, ChannelClosed, Content
from asyncq.errors import BackendError, BackendUnavailable
from asyncq.language.message import Failed, Failure, FailureType, new_id
from asyncq.language.record import Record
from asyncq.loggers import get_logger
from asyncq.seams.backend import BackendOffers
from asyncq.seams.feeds import Feed, Subscription
from asyncq.seams.records import encode_record, pack_pushes

log = get_logger(__name__)

T = TypeVar("T")
KEPT_WITHOUT_CLIENT = 120.0  # seconds that a reply queue outlives its client
PROBE_EVERY = 5.0  # seconds of silence after which the server is asked for life
LONGEST_ADDRESS = 200  # bytes; AMQP's names have 255
MOST_UNREAD = 100  # messages pushed and not yet read
MOST_BYTES = 8 * 1024 * 1024  # of outcomes in one message
ROUND_IT = 16  # bytes of a message beside its outcomes


class RpcBackend:
    """Outcomes through the RabbitMQ that carries the tasks."""

    def __init__(self, where: Url | Hosts, clock: Clock) -> None:
        self._settings = AmqpSettings(where)
        self._connector = Connector(self._settings, "answers", BackendUnavailable)
        self._sender = Sender(self._connector)
        # Addresses whose queue is there, unless somebody deleted it; at which server, by its moves.
        self._heard: dict[str, int] = {}
        self._knows_feeds = False  # that their exchange is there

    @property
    def offers(self) -> BackendOffers:
        return BackendOffers(keeps_nothing=True)

    @property
    def store(self) -> Hashable:
        return ("rpc", self._settings.identity)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self._sender.close()

    async def store_records(self, records: Sequence[Record]) -> Sequence[Record]:
        heard: dict[str, list[Record]] = defaultdict(list)
        for record in records:
            if record.reply_to and len(record.reply_to.encode()) <= LONGEST_ADDRESS:
                heard[record.reply_to].append(record)
            elif record.reply_to:
                log.warning(
                    "the outcome of task %s was dropped: its reply_to of %d characters is no "
                    "client's", record.id, len(record.reply_to),
                )  # fmt: skip
        try:
            await self._send(heard, MOST_BYTES)
        except TooLarge as error:  # for RabbitMQ: what is so by itself has failed
            bounded = {
                address: [_bounded(record, error.limit - ROUND_IT) for record in batch]
                for address, batch in heard.items()
            }
            await self._send(bounded, error.limit - ROUND_IT)
        return ()

    async def _send(self, heard: Mapping[str, Sequence[Record]], most: int) -> None:
        """Tell each address, in messages of so many bytes or with one outcome.

        Dropped where the client is gone: its queue is, and nobody else would read it.
        """
        await self._sender.send(
            [
                Parcel("", _queue(address), new_id(), body, mandatory=False)
                for address, batch in heard.items()
                for body in pack_pushes(map(encode_record, batch), most)
            ]
        )

    async def fetch(self, ids: Sequence[str]) -> Sequence[Record | None]:
        return [None] * len(ids)

    @asynccontextmanager
    async def subscribe(self, feed: Feed[T]) -> AsyncGenerator[Subscription[T]]:
        subscription = RpcSubscription(self._settings, feed)
        try:
            if feed.is_for_one:
                moves = await subscription.open(self._heard.get(feed.key))
                self._heard[feed.key] = moves
            else:
                await subscription.open()
            yield subscription
        finally:
            subscription.close()

    async def push(self, feed: Feed[T], items: Sequence[T]) -> None:
        exchange, key = ("", _queue(feed.key)) if feed.is_for_one else (names.FEEDS, feed.name)
        bodies = pack_pushes(map(feed.items.encode, items), MOST_BYTES)
        parcels = [Parcel(exchange, key, new_id(), body, mandatory=False) for body in bodies]
        try:
            if exchange and not self._knows_feeds:
                await self._connector.call(names.feeds())
                self._knows_feeds = True
            await self._sender.send(parcels)
        except TooLarge as error:
            raise BackendError(f"feed {feed.name} cannot be told: {error}") from error
        except ChannelClosed as error:
            raise self._connector.gone(error) from error
        except BackendUnavailable:
            self._knows_feeds = False  # it may be that somebody deleted them
            raise

    async def forget(self, ids: Sequence[str]) -> None:
        return None


class RpcSubscription(Generic[T]):
    """A subscriber's ear at its queue: a client's own reply queue, or one that ends with it."""

    def __init__(self, settings: AmqpSettings, feed: Feed[T]) -> None:
        self._hosts = settings.hosts
        self._connector = Connector(settings, "listens", BackendUnavailable)
        self._feed = feed
        self._queue = _queue(feed.key) if feed.is_for_one else f"{names.FEEDS}:{new_id()}"
        self._channel: Channel | None = None
        self._cancelled = False  # by the server: the queue is gone
        self._lost = False  # what came while the queue was gone
        self._unread: deque[Content] = deque()  # MOST_UNREAD at most: the server holds the rest
        self._news = asyncio.Event()

    async def open(self, heard_at: int | None = None) -> int:
        """Declare the queue and consume from it; returns at which server, by `Hosts.moves`.

        ``heard_at``: it was there, at that one; if it is gone, or another is in use, what was sent
        to it meanwhile is lost, and the first `receive` says so.
        """
        try:
            async with self._connector.asking():
                wire = await self._connector.wire()
                moves = self._hosts.moves
                if heard_at is not None:
                    there = amqp.Queue.Declare(queue=self._queue, passive=True)
                    self._lost = moves != heard_at or await self._connector.find(there) is None
                channel = self._channel = await wire.open_channel()
                channel.on_delivery = self._on_delivery
                channel.on_cancel = self._on_cancel
                channel.on_close = lambda _: self._news.set()
                await channel.call(
                    *self._declarations(),
                    amqp.Basic.Qos(0, MOST_UNREAD, False),
                    amqp.Basic.Consume(queue=self._queue),
                )
                return moves
        except ChannelClosed as error:
            raise self._connector.gone(error) from error

    def _declarations(self) -> Sequence[Any]:
        feed, queue = self._feed, self._queue
        if feed.is_for_one:
            expires: dict[str, Any] = {"x-expires": int(KEPT_WITHOUT_CLIENT * 1000)}
            return [amqp.Queue.Declare(queue=queue, durable=True, arguments=expires)]
        return [
            amqp.Queue.Declare(queue=queue, exclusive=True, auto_delete=True),
            *self._bindings(),
        ]

    def _bindings(self) -> Sequence[Any]:
        if self._feed.is_for_one:
            return []
        name = self._feed.name
        return [
            names.feeds(),
            amqp.Queue.Bind(queue=self._queue, exchange=names.FEEDS, routing_key=name),
        ]

    async def receive(self) -> Sequence[T]:
        """As `Subscription.receive`; raises `BackendUnavailable` when it has to be opened anew."""
        channel = self._channel
        if channel is None or channel.closed is not None:
            raise BackendUnavailable("the connection that listens for outcomes was lost")
        if self._lost:
            self._lost = False
            return ()
        while True:
            await self._wait(channel)
            content = self._unread.popleft()
            tag, _ = tag_of(content)
            items = self._feed.items.read(content.body)
            try:
                channel.send(channel.marshal(amqp.Basic.Ack(tag)))
            except (OSError, ChannelClosed) as error:
                raise self._connector.gone(error) from error
            if items:
                return items

    async def _wait(self, channel: Channel) -> None:
        while not self._unread:
            if self._cancelled:
                raise BackendUnavailable("somebody deleted the queue that outcomes come to")
            if channel.closed is not None:
                raise BackendUnavailable(f"no outcomes can be heard: {channel.closed}")
            self._news.clear()
            with anyio.move_on_after(PROBE_EVERY):
                await self._news.wait()
                continue
            await self._probe(channel)

    async def _probe(self, channel: Channel) -> None:
        """Is the server there, and the queue, and are we its consumer? It may not have told.

        Nor does it tell that somebody deleted what leads to the queue.
        """
        there = amqp.Queue.Declare(queue=self._queue, passive=True)
        try:
            async with self._connector.asking():
                queue = (await channel.call(*self._bindings(), there))[-1]
        except ChannelClosed as error:
            self._connector.close()
            raise self._connector.gone(error) from error
        self._cancelled = self._cancelled or queue.consumer_count == 0

    def close(self) -> None:
        self._connector.close()

    def _on_delivery(self, content: Content) -> None:
        self._unread.append(content)
        self._news.set()

    def _on_cancel(self, tag: str) -> None:
        self._cancelled = True
        self._news.set()


def _queue(address: str) -> str:
    return f"asyncq:reply:{address}"


def _bounded(record: Record, most: int) -> Record:
    """This outcome, or that it is too large to be told."""
    size = len(encode_record(record))
    if size <= most:
        return record
    why = (
        f"{size} bytes, and RabbitMQ takes messages of {most} (max_message_size in rabbitmq.conf): "
        "return a reference (a path, a key) instead, or raise it there"
    )
    failure = Failure(FailureType.RESULT_TOO_LARGE.value, why)
    return msgspec.structs.replace(record, outcome=Failed(failure))
