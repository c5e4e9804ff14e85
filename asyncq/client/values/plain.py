"""Plain data: what values of other classes are sent as, and how they are read again.

Subclasses go as their base (markupsafe's ``Markup`` as text), and what the standard library can
write as text and read again goes as text.
"""

import enum
import ipaddress
import pathlib
import re
import zoneinfo
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import (
    AsyncIterable,
    Awaitable,
    Callable,
    Container,
    ItemsView,
    Iterable,
    Iterator,
    KeysView,
    Reversible,
    ValuesView,
)
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from fractions import Fraction
from typing import Any, cast, get_args, get_origin
from uuid import UUID


class Unsendable(TypeError):
    """A value, or something in it, cannot be sent; says what, and what to send instead."""


REMEDY = "use a dataclass, a msgspec.Struct, a pydantic model, or plain data"


# Each with a function that asks nothing of the subclass: it may have methods of its own.
_BASES: tuple[tuple[type, Callable[[Any], Any]], ...] = (
    (str, str.__str__),
    (int, int.__int__),
    (float, float.__float__),
    (bytes, bytes.__bytes__),
    (bytearray, bytes),
    *((base, base) for base in (list, tuple, dict, set, frozenset)),
    (datetime, lambda value: datetime.combine(datetime.date(value), datetime.timetz(value))),
    (date, lambda value: date(value.year, value.month, value.day)),
    (
        time,
        lambda value: time(
            value.hour, value.minute, value.second, value.microsecond, value.tzinfo, fold=value.fold
        ),
    ),
    (timedelta, lambda value: timedelta(value.days, value.seconds, value.microseconds)),
    (Decimal, Decimal),
    (UUID, lambda value: UUID(int=value.int)),
)
_TEXTS: tuple[type, ...] = (
    pathlib.PurePath,
    Fraction,
    ipaddress.IPv4Address,
    ipaddress.IPv6Address,
    ipaddress.IPv4Network,
    ipaddress.IPv6Network,
    ipaddress.IPv4Interface,
    ipaddress.IPv6Interface,
    complex,
    zoneinfo.ZoneInfo,
)
"""Made from their own text."""
_NUMBERS = (complex, Fraction)
"""Made from other numbers as well."""
_LISTS: tuple[type, ...] = (Iterable, Reversible, Container)
_DICTS: tuple[type, ...] = (defaultdict, OrderedDict)
_KNOWN_CLASSES: frozenset[type] = frozenset({object, re.Pattern, deque, Counter, *_DICTS})


def as_plain(value: Any) -> Any:
    """A value of a class that MessagePack does not know, as one that it does.

    Raises:
        Unsendable: it is nothing of which that is known.
    """
    cls = cast("type[Any]", type(value))
    for base, plain in _BASES:
        if issubclass(cls, base):
            return plain(value)
    if issubclass(cls, enum.Enum):
        return value.value
    if issubclass(cls, _TEXTS):
        return str(value)
    if issubclass(cls, re.Pattern):
        return _pattern_text(value)
    remedy = REMEDY
    if issubclass(cls, Awaitable):
        remedy = "await it first"
    elif issubclass(cls, AsyncIterable):
        remedy = "make it a list, with [each async for each in ...]"
    elif issubclass(cls, (Iterator, range, KeysView, ValuesView, ItemsView)):
        remedy = "make it a list, with list(...)"
    elif hasattr(cls, "__index__") or hasattr(cls, "__float__"):
        remedy = "make it Python's own number, with int(...) or float(...)"
    raise Unsendable(f"a value of {cls.__qualname__} cannot be sent: {remedy}")


def is_known(cls: type) -> bool:
    """Whether `from_plain` can make values of this class."""
    return cls in _KNOWN_CLASSES or cls in _LISTS or issubclass(cls, _TEXTS)


def from_plain(annotation: Any, plain: Any, convert: Callable[[Any, Any], Any]) -> Any:
    """A value of a class that `is_known`; ``convert`` makes plain data what annotations say.

    Raises:
        ValueError: there is none.
    """
    cls = get_origin(annotation) or annotation
    args = get_args(annotation)
    if cls is object:
        return plain
    if cls in _LISTS or cls is deque:
        bound = None
        if isinstance(plain, deque):
            plain = cast("deque[Any]", plain)
            plain, bound = list(plain), plain.maxlen
        items: list[Any] = convert(plain, list[args[0]] if args else list)
        return deque(items, bound) if cls is deque else items
    if cls is Counter:
        counts: dict[Any, int] = convert(plain, dict[args[0], int] if args else dict[Any, int])
        return Counter(counts)
    if cls in _DICTS:
        entries = convert(plain, dict[args[0], args[1]] if args else dict)
        return OrderedDict(entries) if cls is OrderedDict else defaultdict(_factory(args), entries)
    is_number = cls in _NUMBERS and isinstance(plain, int | float)
    if not is_number and not isinstance(plain, str):
        raise ValueError(f"Expected `str`, got `{type(plain).__name__}`")
    try:
        return re.compile(cast("str", plain)) if cls is re.Pattern else cls(plain)
    except (ArithmeticError, LookupError, re.error, ValueError) as error:
        raise ValueError(f"Invalid {cls.__qualname__}") from error


def _factory(args: tuple[Any, ...]) -> Callable[[], Any] | None:
    """What makes the values that are not there: no function can be sent, but its type is known."""
    made = get_origin(args[1]) or args[1] if args else None
    return made if made in _FACTORIES else None


_FACTORIES = (list, dict, set, int, float, str, bool, bytes)


def _pattern_text(pattern: re.Pattern[Any]) -> str:
    text = pattern.pattern
    if not isinstance(text, str) or pattern.flags != re.compile(text).flags:
        raise Unsendable(
            "a pattern of bytes, or with flags, cannot be sent: write its flags into its text, as "
            "in '(?i)text'"
        )
    return text
