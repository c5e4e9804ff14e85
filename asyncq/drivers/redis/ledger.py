"""Latches in Redis: two hashes and two lists each, and one sorted set of those to look at."""

import math
import struct
from collections.abc import Sequence
from typing import Any

import msgspec

from asyncq.drivers.redis.causes import too_large
from asyncq.drivers.redis.connection import Link, RedisStore, Script
from asyncq.drivers.redis.piece import Piece
from asyncq.drivers.redis.wire import ReplyError
from asyncq.errors import BackendError, BackendUnavailable
from asyncq.language.effects import Arrive, Hold, Send
from asyncq.language.message import UNREADABLE, derived_id
from asyncq.loggers import get_logger
from asyncq.seams.broker import MAX_BATCH
from asyncq.seams.ledger import (
    FAILED,
    OK,
    PAGE,
    PENDING,
    SENDER_AWAY,
    Due,
    LatchState,
    Missing,
    Part,
    Unsent,
)

log = get_logger(__name__)

PIECE = 8 * 1024 * 1024  # bytes of effects that are sent together
STATES = {b"p": PENDING, b"f": FAILED, b"o": OK}

_APPLY = Script("latch_apply", behind_prelude=False)
_UNSENT = Script("latch_unsent", behind_prelude=False)
_CONFIRM = Script("latch_confirm", behind_prelude=False)
_DUE = Script("latch_due", behind_prelude=False)

_send = msgspec.msgpack.Decoder(Send).decode
_names = msgspec.msgpack.Decoder(tuple[str, ...]).decode
_size = struct.Struct(">I")


class RedisLedger:
    """The latches of one Redis; used from one event loop."""

    def __init__(self, store: RedisStore, link: Link) -> None:
        self._store = store
        self._link = link

    async def apply(self, effects: Sequence[Hold | Arrive], sender: str) -> Sequence[str]:
        unsent: dict[str, None] = {}
        piece, size = Piece(2), 0
        for effect in effects:
            if piece.effects and (size > PIECE or len(piece.effects) == MAX_BATCH):
                unsent |= dict.fromkeys(await self._apply(piece, sender))
                piece, size = Piece(2), 0
            size += piece.add(effect)
        if piece.effects:
            unsent |= dict.fromkeys(await self._apply(piece, sender))
        return list(unsent)

    async def _apply(self, piece: Piece, sender: str) -> list[str]:
        try:
            names = await self._link.script(_APPLY, self._base, sender, *piece.args)
            return [name.decode() for name in names]
        except (ReplyError, BackendUnavailable) as error:
            sizes = [(effect[1], piece.size) for effect in piece.effects]
            if (no := await too_large(self._link, sizes)) is not None:
                raise BackendError(f"a latch cannot be kept: {no}") from error
            if isinstance(error, ReplyError):
                raise BackendError(f"latches cannot be written: {error}") from error
            raise

    async def unsent(
        self, latch: str, sender: str, *, is_failure: bool, limit: int = PAGE
    ) -> Unsent | None:
        reply = await self._ask(_UNSENT, latch, sender, int(is_failure), limit)
        if not reply:
            return None
        start, released_at, raw = reply
        sends = [send for each in raw if (send := _read_send(each)) is not None]
        at = released_at / 1000
        return Unsent(latch, is_failure, start, sends, at, start + max(len(raw), 1))

    async def confirm(self, unsent: Unsent) -> None:
        at = round(unsent.released_at * 1000)
        await self._ask(_CONFIRM, unsent.latch, int(unsent.is_failure), unsent.stop, at)

    async def due(
        self, sender: str, limit: int = PAGE, *, lease: float = SENDER_AWAY
    ) -> Sequence[Due]:
        reply = await self._ask(_DUE, sender, limit, math.ceil(lease * 1000))
        pairs = zip(reply[::2], reply[1::2], strict=True)
        return [Due(name.decode(), bool(has_unsent)) for name, has_unsent in pairs]

    async def missing(self, latch: str, cursor: str = "", limit: int = PAGE) -> Missing:
        """The cursor is the number of a part, or behind a colon Redis' own."""
        count, root = await self._get(latch, "count", "root")
        if not count:
            return Missing((), "")
        kind, _, scan = cursor.partition(":")
        start, count = int(kind or "0"), int(count)
        key = self._store.key("latch-parts", latch)
        if start < count:
            stop = min(start + limit, count)
            numbers = [str(number) for number in range(start, stop)]
            arrived = await self._command("HMGET", key, *numbers)
            ids = [
                (number, derived_id(root.decode(), number))
                for number, part in zip(numbers, arrived, strict=True)
                if part is None and root
            ]
            return Missing(ids, f"{stop}:")
        following, flat = await self._command("HSCAN", key, scan or "0", "COUNT", limit)
        parts = zip(flat[::2], flat[1::2], strict=True)
        names = [name.decode() for name, part in parts if part == b"p"]
        further = "" if following == b"0" else f"{start}:{following.decode()}"
        return Missing([(name, name) for name in names], further)

    async def parts(self, latch: str, names: Sequence[str]) -> Sequence[Part | None]:
        if not names:
            return ()
        found = await self._command("HMGET", self._store.key("latch-parts", latch), *names)
        return [None if raw is None else _read_part(raw) for raw in found]

    async def look(self, latches: Sequence[str]) -> Sequence[LatchState | None]:
        if not latches:
            return ()
        fields = (
            "missing", "failed", "released_at", "failed_at", "is_over", "until", "held", "sent",
            "held_on_failure", "sent_on_failure",
        )  # fmt: skip
        asked = [("TIME",)]
        asked += [("HMGET", self._store.key("latch", each), *fields) for each in latches]
        try:
            (seconds, micros), *found = await self._link.pipeline(asked)
        except ReplyError as error:
            raise BackendError(f"latches cannot be read: {error}") from error
        now = int(seconds) * 1000 + int(micros) / 1000
        return [_read_state(raw, now) for raw in found]

    async def forget_latches(self, latches: Sequence[str]) -> None:
        if not latches:
            return
        kinds = ("latch", "latch-parts", "latch-held", "latch-failure")
        keys = [self._store.key(kind, name) for name in latches for kind in kinds]
        await self._link.pipeline([("UNLINK", *keys), ("ZREM", f"{self._base}latches", *latches)])

    @property
    def _base(self) -> str:
        return f"{self._store.prefix}:"

    async def _ask(self, script: Script, *args: Any) -> Any:
        try:
            return await self._link.script(script, self._base, *args)
        except ReplyError as error:
            raise BackendError(f"latches cannot be read: {error}") from error

    async def _command(self, *command: Any) -> Any:
        try:
            return await self._link(*command)
        except ReplyError as error:
            raise BackendError(f"latches cannot be read: {error}") from error

    async def _get(self, latch: str, *fields: str) -> Any:
        return await self._command("HMGET", self._store.key("latch", latch), *fields)


def _read_send(raw: bytes) -> Send | None:
    """None of what other hands wrote."""
    try:
        return _send(raw)
    except UNREADABLE:
        return None


def _read_part(raw: bytes) -> Part | None:
    """None of what other hands wrote."""
    kind = raw[:1]
    if (state := STATES.get(kind)) is not None:
        return Part(state, True, raw[1:])
    if (state := STATES.get(kind.lower())) is None:
        return None
    try:
        begin = 1 + _size.size
        [size] = _size.unpack(raw[1:begin])
        adds = _names(raw[begin : begin + size]) if size else ()
    except (struct.error, *UNREADABLE):
        return None
    return Part(state, False, raw[begin + size :], adds)


def _read_state(raw: Sequence[bytes | None], now: float) -> LatchState | None:
    if raw[0] is None:
        return None
    values = [float(each) if each else None for each in raw]
    missing, failed, released_at, failed_at, is_over, until = values[:6]
    held, sent, held_on_failure, sent_on_failure = (int(each or 0) for each in values[6:])
    lapsed = until is not None and until <= now and released_at is None
    has_failed = failed_at is not None or lapsed
    unsent = held - sent if released_at is not None else 0
    unsent += held_on_failure - sent_on_failure if has_failed else 0
    return LatchState(
        missing=int(missing or 0),
        failed=int(failed or 0),
        is_released=released_at is not None,
        has_failed=has_failed,
        is_over=bool(is_over) or lapsed,
        unsent=unsent,
    )
