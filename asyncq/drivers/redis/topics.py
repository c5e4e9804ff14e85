"""Topics in Redis: a stream each, whose ids are the places of its items.

So the stream itself refuses what is not later than all it ever had. Its channel has the same name.
"""

from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from asyncq.drivers.redis.causes import WRONG_TYPE, too_large
from asyncq.drivers.redis.connection import Link, RedisStore, Script, lifetime
from asyncq.drivers.redis.hearing import Hearing
from asyncq.drivers.redis.wire import ReplyError
from asyncq.errors import BackendError, BackendUnavailable
from asyncq.language.effects import Append
from asyncq.loggers import get_logger
from asyncq.seams.broker import MAX_BATCH
from asyncq.seams.topics import Ear, Item, Place

log = get_logger(__name__)

PART = 8 * 1024 * 1024  # bytes of items that are sent together
FIELD = b"item"  # of an entry of a stream; what has others was written by other hands
_GREATEST = 2**64 - 1  # either half of an id

_APPEND = Script("append", behind_prelude=False)

Entry = tuple[bytes, Sequence[bytes]]


class RedisTopics:
    """The topics of one Redis; used from one event loop."""

    def __init__(self, store: RedisStore, link: Link) -> None:
        self._store = store
        self._link = link
        self._hearing: Hearing | None = None
        self._noted = set[str]()  # rights that we lack

    async def append(self, appends: Sequence[Append]) -> None:
        part: list[Append] = []
        size = 0
        for each in appends:
            if part and (size + len(each.item) > PART or len(part) == MAX_BATCH):
                await self._append(part)
                part, size = [], 0
            part.append(each)
            size += len(each.item)
        if part:
            await self._append(part)

    async def _append(self, appends: Sequence[Append]) -> None:
        try:
            replies: list[bytes] = await self._link.scripts(_APPEND, self._calls(appends))
        except (ReplyError, BackendUnavailable) as error:
            sizes = [(each.topic, len(each.item)) for each in appends]
            if (no := await too_large(self._link, sizes)) is not None:
                raise BackendError(f"an item of a topic cannot be kept: {no}") from error
            if isinstance(error, ReplyError):
                raise BackendError(f"topics cannot be written: {error}") from error
            raise
        for unheard in filter(None, replies):
            self.note("publish", unheard.decode(errors="replace"))

    def _calls(self, appends: Sequence[Append]) -> list[list[Any]]:
        """Keys and arguments of the script: once for all items in turn that are bounded alike."""
        calls: list[list[Any]] = []
        latest: dict[str, list[Any]] = {}
        for each in appends:
            bounds: list[Any] = [
                self._key(each.topic),
                lifetime(each.keep),
                max(each.most, 0),
                _id(Place(each.epoch, -1)),
            ]
            call = latest.get(each.topic)
            if call is None or call[: len(bounds)] != bounds:
                call = latest[each.topic] = bounds
                calls.append(call)
            call += (_id(Place(each.epoch, each.number)), each.item)
        return calls

    async def read(
        self, topic: str, *, after: Place | None = None, limit: int = 100
    ) -> Sequence[Item]:
        key, begin = self._key(topic), "-" if after is None else f"({_id(after)}"
        items: list[Item] = []
        while (missing := limit - len(items)) > 0:
            entries = await self._ask("XRANGE", key, begin, "+", "COUNT", missing)
            items += filter(None, map(_item, entries))
            if len(entries) < missing:
                break
            begin = f"({entries[-1][0].decode()}"
        return items

    async def last(self, topics: Sequence[str]) -> Sequence[Item | None]:
        if not topics:
            return ()
        try:
            found = await self._link.pipeline(
                [("XREVRANGE", self._key(each), "+", "-", "COUNT", 1) for each in topics]
            )
        except ReplyError:  # one of them is no stream
            return [await self._last(topic) for topic in topics]
        items = [_item(entries[0]) if entries else None for entries in found]
        return [
            await self._last(topic) if item is None and entries else item
            for topic, item, entries in zip(topics, items, found, strict=True)
        ]

    async def _last(self, topic: str) -> Item | None:
        """The last item, behind what other hands may have written."""
        key, end = self._key(topic), "+"
        while entries := await self._ask("XREVRANGE", key, end, "-", "COUNT", 100):
            for item in filter(None, map(_item, entries)):
                return item
            end = f"({entries[-1][0].decode()}"
        return None

    async def _ask(self, *command: Any) -> Sequence[Entry]:
        """Entries of a stream; none of what other hands made another type."""
        try:
            return await self._link(*command)
        except ReplyError as error:
            if error.code != WRONG_TYPE:
                raise BackendError(f"topics cannot be read: {error}") from error
            return ()

    async def forget_topics(self, topics: Sequence[str]) -> None:
        if topics:
            await self._link("UNLINK", *[self._key(topic) for topic in topics])

    @asynccontextmanager
    async def listen(self, topic: str) -> AsyncGenerator[Ear]:
        if self._hearing is None or self._hearing.is_lost:
            self._hearing = Hearing(self._store, self.note)
        async with self._hearing.listen(topic) as ear:
            yield ear

    def close(self) -> None:
        """Whoever listens hears that it is over."""
        if self._hearing is not None:
            self._hearing.close()

    def note(self, right: str, why: str) -> None:
        """Say, once, what it costs that we lack a right."""
        if right in self._noted:
            return
        self._noted.add(right)
        log.warning(
            "items of topics reach their readers late, by polling: %r does not let us %s to "
            "channels; ACL SETUSER gives that right: +%s &%s* (%s)",
            self._store.url, right, right, self._key(""), why,
        )  # fmt: skip

    def _key(self, topic: str) -> str:
        return self._store.key("topic", topic)


def _id(place: Place) -> str:
    """Its id in the stream, which has no 0-0: numbers begin at 1 there."""
    epoch = min(max(place.epoch, 0), _GREATEST)
    return f"{epoch}-{min(max(place.number + 1, 0), _GREATEST - 1)}"


def _item(entry: Entry) -> Item | None:
    """None of what other hands wrote."""
    id, fields = entry
    epoch, _, number = id.partition(b"-")
    if len(fields) != 2 or fields[0] != FIELD or number == b"0":  # noqa: PLR2004 - name and value
        return None
    return Item(Place(int(epoch), int(number) - 1), fields[1])
