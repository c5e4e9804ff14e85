"""Entries in Redis: a string each, and two sorted sets of their names."""

import re
from collections.abc import Sequence
from typing import Any

from asyncq.drivers.redis.causes import too_large
from asyncq.drivers.redis.connection import Link, RedisStore, Script, lifetime
from asyncq.drivers.redis.piece import Piece
from asyncq.drivers.redis.topics import RedisTopics
from asyncq.drivers.redis.wire import ReplyError
from asyncq.errors import BackendError, BackendUnavailable
from asyncq.language.effects import Hold
from asyncq.seams.registry import KEEP_CHANGES, MOST_CHANGES, PAGE, Entry, Page, changes_of

PLACE_OF_HOLDS = 9  # in ARGV
MOST = 2**53  # changes of a kind; a greater number is not ours

_PUT = Script("registry_put", behind_prelude=False)
_REMOVE = Script("registry_remove", behind_prelude=False)
_LIST = Script("registry_list", behind_prelude=False)

_ENTRY = re.compile(rb"([0-9]{1,16}) ([0-9]{1,16})\n")
_COUNT = re.compile(rb"[0-9]{1,16}")

Size = tuple[str, int]


class RedisRegistry:
    """The entries of one Redis; used from one event loop."""

    def __init__(self, store: RedisStore, link: Link, topics: RedisTopics) -> None:
        self._store = store
        self._link = link
        self._topics = topics

    async def put(
        self,
        kind: str,
        name: str,
        data: bytes,
        *,
        version: int,
        keep: float | None,
        holds: Sequence[Hold] = (),
    ) -> Entry | None:
        piece = Piece(PLACE_OF_HOLDS)
        for hold in holds:
            piece.add(hold)
        args = [version, 0 if keep is None else lifetime(keep), data]
        args += piece.args if holds else [b""]
        sizes = [(name, len(data)), *((hold.latch, piece.size) for hold in holds)]
        reply = await self._change(_PUT, kind, name, *args, sizes=sizes)
        if reply is None:
            return None
        number, ends, unheard = reply
        self._hear(unheard)
        return Entry(kind, name, number, data, ends / 1000 if ends else None)

    async def remove(self, kind: str, name: str, *, version: int | None) -> bool:
        reply = await self._change(_REMOVE, kind, name, "" if version is None else version)
        if reply is None:
            return False
        self._hear(reply[0])
        return True

    async def get(self, kind: str, names: Sequence[str]) -> Sequence[Entry | None]:
        if not names:
            return ()
        keys = [self._store.key("entry", f"{kind}:{name}") for name in names]
        try:
            found = await self._link("MGET", *keys)
        except ReplyError as error:
            raise BackendError(f"entries cannot be read: {error}") from error
        return [_read(kind, name, raw) for name, raw in zip(names, found, strict=True)]

    async def list(self, kind: str, *, after: str = "", limit: int = PAGE) -> Page:
        entries: list[Entry] = []
        counted: int | None = None  # at the first page: what is read later may be newer
        begin: str | bytes = after
        while True:
            changes, last, *flat = await self._ask(_LIST, kind, begin, limit - len(entries))
            if counted is None:
                counted = int(changes) if _COUNT.fullmatch(changes) else 0
            for name, raw in zip(flat[::2], flat[1::2], strict=True):
                if (text := _text(name)) is not None and (entry := _read(kind, text, raw)):
                    entries.append(entry)
            further = _text(last)
            if further is None and len(entries) == limit:
                further = entries[-1].name
            if further is not None:
                return Page(entries, further, counted)
            begin = last

    async def _change(
        self, script: Script, kind: str, name: str, *args: Any, sizes: Sequence[Size] = ()
    ) -> Any:
        of_topic = (changes_of(kind), MOST_CHANGES, lifetime(KEEP_CHANGES))
        return await self._ask(script, kind, name, *of_topic, *args, sizes=sizes)

    async def _ask(self, script: Script, *args: Any, sizes: Sequence[Size] = ()) -> Any:
        """``sizes``: of what the server may not take."""
        try:
            return await self._link.script(script, f"{self._store.prefix}:", *args)
        except (ReplyError, BackendUnavailable) as error:
            if (no := await too_large(self._link, sizes)) is not None:
                raise BackendError(f"an entry cannot be kept: {no}") from error
            if isinstance(error, ReplyError):
                raise BackendError(f"entries cannot be read or written: {error}") from error
            raise

    def _hear(self, unheard: bytes) -> None:
        if unheard:
            self._topics.note("publish", unheard.decode(errors="replace"))


def _read(kind: str, name: str, raw: bytes | None) -> Entry | None:
    """None of what other hands wrote."""
    head = None if raw is None else _ENTRY.match(raw)
    if raw is None or head is None or not 0 < (version := int(head[1])) < MOST:
        return None
    return Entry(kind, name, version, raw[head.end() :], int(head[2]) / 1000 or None)


def _text(name: bytes) -> str | None:
    """None of what other hands wrote."""
    try:
        return name.decode()
    except UnicodeDecodeError:
        return None
