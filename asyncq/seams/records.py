"""Records, progress and what is pushed, as bytes in whatever store; and what is none of that.

Other hands may write into a store what they like. What cannot be read is shown as that to whoever
asks for it (`Unreadable`), and never raised where pushes are taken in for everybody.
"""

import time
from collections.abc import Iterable, Sequence
from typing import Any, Generic, TypeVar

import msgspec

from asyncq.language.message import UNREADABLE, Progress, Unreadable
from asyncq.language.record import Record
from asyncq.loggers import get_logger

SELDOM = 60.0  # seconds between two lines about what is unreadable
SHOWN = 60  # bytes of it that a line shows
BYTES = (bytes, bytearray, memoryview)

log = get_logger(__name__)

T = TypeVar("T")

encode_record = msgspec.msgpack.Encoder().encode
encode_progress = encode_record
pack_pushed = encode_record  # of a list of items, or of their bytes as they are

_decode_record = msgspec.msgpack.Decoder(Record).decode
_decode_pieces = msgspec.msgpack.Decoder(list[msgspec.Raw]).decode
_decode_progress = msgspec.msgpack.Decoder(Progress).decode


class _Complaints:
    """Lines about what could not be read: one, and then one a minute however much there is."""

    def __init__(self) -> None:
        self._next = 0.0  # on the monotonic clock
        self._unsaid = 0

    def add(self, what: str, error: Exception, raw: object) -> None:
        now = time.monotonic()
        if now < self._next:
            self._unsaid += 1
            return
        unsaid, self._unsaid, self._next = self._unsaid, 0, now + SELDOM
        log.warning(
            "%s was ignored: it cannot be read: %s: %s%s",
            what, error, _shown(raw), f" (and {unsaid} others before)" if unsaid else "",
        )  # fmt: skip


_complaints = _Complaints()


def read_record(id: str, raw: object) -> Record:
    """The record of this id; one that says so if the bytes that are kept for it are none."""
    try:
        record = _decode_record(_bytes(raw))
        if record.id != id:
            raise ValueError(f"it is the outcome of {record.id[:SHOWN]!r}")
    except UNREADABLE as error:
        return Record(id, Unreadable(f"{error}: {_shown(raw)}"))
    return record


def read_progress(id: str, raw: object) -> Progress | None:
    """How far a task says it is; None where what is kept for it cannot be read, which is logged."""
    if raw is None:
        return None
    try:
        return _decode_progress(_bytes(raw))
    except UNREADABLE as error:
        _complaints.add(f"the progress of message {id}", error, raw)
        return None


class ItemType(Generic[T]):
    """What the items of pushes are: how they are written, and read from what anybody may write."""

    def __init__(
        self,
        one: msgspec.msgpack.Decoder[T],
        many: msgspec.msgpack.Decoder[list[T]],
        *,
        called: str,
        several: str,
    ) -> None:
        self._decode_one = one.decode
        self._decode_many = many.decode
        self._called = called
        self._several = several

    def encode(self, item: T) -> bytes:
        return encode_record(item)

    def read(self, raw: object) -> list[T]:
        """The items of a push; without those that are none, which are logged."""
        try:
            return self._decode_many(_bytes(raw))
        except UNREADABLE as error:
            return self._readable_of(raw, error)

    def read_one(self, raw: object) -> list[T]:
        """The item that was laid out for somebody; nothing if it is none, which is logged."""
        try:
            return [self._decode_one(_bytes(raw))]
        except UNREADABLE as error:
            _complaints.add(f"{self._called} in a push", error, raw)
            return []

    def _readable_of(self, raw: object, error: Exception) -> list[T]:
        items: list[T] = []
        try:
            pieces: Sequence[Any] = _decode_pieces(_bytes(raw))
        except UNREADABLE:
            _complaints.add(f"a push of {self._several}", error, raw)
            return items
        for piece in pieces:
            items += self.read_one(bytes(piece))
        return items


RECORDS = ItemType(
    msgspec.msgpack.Decoder(Record),
    msgspec.msgpack.Decoder(list[Record]),
    called="an outcome",
    several="outcomes",
)
BLOBS = ItemType(
    msgspec.msgpack.Decoder(bytes),
    msgspec.msgpack.Decoder(list[bytes]),
    called="an item",
    several="items",
)


def pack_pushes(encoded: Iterable[bytes], most: int) -> list[bytes]:
    """Pushes of several items, each of at most so many bytes or of one item."""
    pushes: list[bytes] = []
    some: list[msgspec.Raw] = []
    size = 0
    for each in encoded:
        if some and size + len(each) > most:
            pushes.append(pack_pushed(some))
            some, size = [], 0
        some.append(msgspec.Raw(each))
        size += len(each)
    return [*pushes, pack_pushed(some)] if some else pushes


def _bytes(raw: object) -> Any:
    if not isinstance(raw, BYTES):
        raise TypeError(f"it is {type(raw).__name__}, not bytes")
    return raw  # pyright: ignore[reportUnknownVariableType] - a memoryview of anything


def _shown(raw: object) -> str:
    return repr(raw[:SHOWN] if isinstance(raw, bytes | str) else raw)[: 4 * SHOWN]
