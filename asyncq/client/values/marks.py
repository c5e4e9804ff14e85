"""Marks: what MessagePack has no type for, with its type, as extensions of ours.

What is inside of pydantic's types is marked: there the type decides what a validator does with
a value (a date in ``str | date``, a set in a strict model). Everything else is told by annotations,
but how long a deque may be is told by none.
"""

import uuid
from collections import deque
from collections.abc import Callable
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any, cast

import msgspec
from msgspec.msgpack import Ext

LONGEST_NUMBER = 4300  # digits; Python reads no longer ones either

_AS_THEY_ARE = frozenset({str, bool, float, bytes, type(None)})
_INTEGERS = range(-(2**63), 2**64)
_SCALARS: dict[type, tuple[int, Callable[[Any], Any], Callable[[Any], Any]]] = {
    datetime: (1, datetime.isoformat, datetime.fromisoformat),
    date: (2, date.isoformat, date.fromisoformat),
    time: (3, time.isoformat, time.fromisoformat),
    timedelta: (
        4,
        lambda value: [value.days, value.seconds, value.microseconds],
        lambda parts: timedelta(*parts),
    ),
    uuid.UUID: (5, str, uuid.UUID),
    Decimal: (6, str, Decimal),
}
_BIG = 7
_SERIES: dict[type, int] = {tuple: 8, set: 9, frozenset: 10}
_PAIRS = 11
_BOUNDED = 12
_READ: dict[int, Callable[[Any], Any]] = {
    **{code: read for code, _, read in _SCALARS.values()},
    **{code: cls for cls, code in _SERIES.items()},
    _BIG: lambda text: int(text[: LONGEST_NUMBER + 1]),
    _PAIRS: dict,
    _BOUNDED: lambda parts: deque(parts[1], maxlen=parts[0]),
}


def mark(value: Any, plain: Callable[[Any], Any]) -> Any:
    """``value`` as what MessagePack can carry; ``plain`` knows what to do with any other class."""
    cls = cast("type[Any]", type(value))
    if cls in _AS_THEY_ARE:
        return value
    if cls is int:
        return value if value in _INTEGERS else _extend(_BIG, str(value))
    if cls is list:
        return [mark(item, plain) for item in value]
    if cls is dict:
        return _mark_map(value, plain)
    if cls in _SERIES:
        items = [mark(item, plain) for item in value]
        if cls is not tuple:
            items.sort(key=_encode)  # one set, one text
        return _extend(_SERIES[cls], items)
    if cls in _SCALARS:
        code, write, _ = _SCALARS[cls]
        return _extend(code, write(value))
    if issubclass(cls, deque):
        marked = [mark(item, plain) for item in value]
        return mark_deque(deque(marked, value.maxlen), _encode)
    return mark(plain(value), plain)


def mark_deque(value: "deque[Any]", encode: Callable[[Any], bytes]) -> Any:
    """A deque as a list; with how long it may be, where it has a bound. ``encode`` its items."""
    items = list(value)
    return items if value.maxlen is None else Ext(_BOUNDED, encode([value.maxlen, items]))


def read_mark(code: int, data: memoryview) -> Any:
    """The value behind an extension; one that is none of ours stays one.

    Raises:
        msgspec.DecodeError: what is in it is no such value.
    """
    read = _READ.get(code)
    if read is None:
        return Ext(code, bytes(data))
    try:
        return read(_decode(data))
    # It comes from outside, and each of these types says in its own way that it cannot be.
    except Exception as error:
        raise msgspec.DecodeError(f"extension {code} holds no such value") from error


def _mark_map(pairs: dict[Any, Any], plain: Callable[[Any], Any]) -> Any:
    entries = [[mark(key, plain), mark(value, plain)] for key, value in pairs.items()]
    if all(type(key) is str or type(key) is int for key, _ in entries):
        return {key: value for key, value in entries}  # noqa: C416 - they are lists, not tuples
    # MessagePack has maps with any keys, and msgspec has none with extensions for keys.
    return _extend(_PAIRS, entries)


def _extend(code: int, value: Any) -> Ext:
    return Ext(code, _encode(value))


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(ext_hook=read_mark).decode
