"""The Redis backend: one string per outcome, pushed on the channel of the client that waits."""

from collections import defaultdict
from collections.abc import AsyncGenerator, Hashable, Sequence
from contextlib import asynccontextmanager
from typing import Any, Generic, Self, TypeVar

import msgspec

from asyncq.clock import Clock
from asyncq.config import Url
from asyncq.drivers.hosts import Hosts
from asyncq.drivers.redis.causes import too_large
from asyncq.drivers.redis.connection import Link, RedisStore, lifetime
from asyncq.drivers.redis.ledger import RedisLedger
from asyncq.drivers.redis.registry import RedisRegistry
from asyncq.drivers.redis.topics import RedisTopics
from asyncq.drivers.redis.wire import ReplyError
from asyncq.errors import BackendError, BackendUnavailable
from asyncq.language.record import Record
from asyncq.seams.backend import BackendOffers
from asyncq.seams.feeds import Feed, Subscription
from asyncq.seams.records import (
    encode_record,
    pack_pushed,
    pack_pushes,
    read_record,
)

T = TypeVar("T")
MOST_PUSHED = 4 * 1024 * 1024  # bytes in one push: a subscriber may hold 32 MB


class RedisBackend:
    """Outcomes in one Redis."""

    def __init__(self, where: Url | Hosts, clock: Clock) -> None:
        self._store = RedisStore(where)
        self._link = Link(self._store, BackendUnavailable)
        self._topics = RedisTopics(self._store, self._link)
        self._ledger = RedisLedger(self._store, self._link)
        self._registry = RedisRegistry(self._store, self._link, self._topics)

    @property
    def offers(self) -> BackendOffers:
        return BackendOffers(topics=self._topics, ledger=self._ledger, registry=self._registry)

    @property
    def store(self) -> Hashable:
        return self._store.identity

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self._topics.close()
        self._link.close()

    async def store_records(self, records: Sequence[Record]) -> Sequence[Record]:
        if not records:
            return ()
        encoded = [encode_record(record) for record in records]
        commands = [
            ("SET", self._store.key("r", record.id), blob, "PX", lifetime(record.keep), "NX")
            if record.keep > 0
            else ("EXISTS", self._store.key("r", record.id))
            for record, blob in zip(records, encoded, strict=True)
        ]
        try:
            replies = await self._link.pipeline(commands)
        except (ReplyError, BackendUnavailable) as error:
            sizes = [(each.id, len(blob)) for each, blob in zip(records, encoded, strict=True)]
            if (no := await too_large(self._link, sizes)) is not None:
                raise BackendError(f"an outcome cannot be kept: {no}") from error
            raise
        heard: dict[str, list[msgspec.Raw]] = defaultdict(list)
        late: list[str] = []  # ids of which another record stands
        for record, blob, reply in zip(records, encoded, replies, strict=True):
            if reply is None or reply == 1:
                late.append(record.id)
            elif record.reply_to:
                heard[record.reply_to].append(msgspec.Raw(blob))
        if heard:
            await self._link.pipeline(
                [
                    ("PUBLISH", self._store.key("reply", address), pack_pushed(blobs))
                    for address, blobs in heard.items()
                ]
            )
        return [record for record in await self.fetch(late) if record is not None]

    async def fetch(self, ids: Sequence[str]) -> Sequence[Record | None]:
        if not ids:
            return ()
        blobs = await self._link("MGET", *[self._store.key("r", id) for id in ids])
        return [
            None if blob is None else read_record(id, blob)
            for id, blob in zip(ids, blobs, strict=True)
        ]

    @asynccontextmanager
    async def subscribe(self, feed: Feed[T]) -> AsyncGenerator[Subscription[T]]:
        link = Link(self._store, BackendUnavailable)
        try:
            await link("SUBSCRIBE", self._channel(feed))
            yield RedisSubscription(link, feed)
        finally:
            link.close()

    async def push(self, feed: Feed[T], items: Sequence[T]) -> None:
        channel = self._channel(feed)
        for body in pack_pushes(map(feed.items.encode, items), MOST_PUSHED):
            try:
                await self._link("PUBLISH", channel, body)
            except ReplyError as error:
                raise BackendError(f"feed {feed.name} cannot be told: {error}") from error

    def _channel(self, feed: Feed[Any]) -> str:
        if feed.is_for_one:
            return self._store.key(feed.kind, feed.key)
        return self._store.key("feed", feed.name)

    async def forget(self, ids: Sequence[str]) -> None:
        if ids:
            await self._link("UNLINK", *[self._store.key("r", id) for id in ids])


class RedisSubscription(Generic[T]):
    """A subscription, until its connection is lost."""

    def __init__(self, link: Link, feed: Feed[T]) -> None:
        self._link = link
        self._read = feed.items.read

    async def receive(self) -> Sequence[T]:
        while True:
            push: Any = await self._link.next_push()
            if push.__class__ is list and push[0] == b"message" and (items := self._read(push[2])):
                return items
