"""Fidelity: whether a value arrives as it was sent.

It is asked where a task is called, of what the worker will make of the bytes, and where it has
returned, of what the caller will. What is parsed on purpose is no loss: text for a `datetime`, a
list for a set, a dictionary for a dataclass.
"""

import dataclasses
import enum
import functools
import inspect
from collections import defaultdict, deque
from datetime import UTC, datetime, time
from decimal import Decimal
from typing import Any, cast

_TEXT_AND_NUMBERS = frozenset({str, int, float, bool, bytes, bytearray, memoryview, type(None)})
_EXACT = frozenset({str, int, float, bool, bytes, type(None)})
_MAY_BE_PARSED = _TEXT_AND_NUMBERS | {list, dict, tuple, set, frozenset}
_SETS = (set, frozenset)
_SERIES: tuple[Any, ...] = ((list, tuple), deque)
_UNSET = object()
CLASSES = 1000  # whose fields are kept; a program has as many as it has records in its arguments


@functools.lru_cache(CLASSES)
def is_record(cls: type) -> bool:
    """Whether its values have fields: a dataclass, a Struct, a pydantic model, a class of attrs."""
    return (
        hasattr(cls, "__struct_fields__")
        or hasattr(cls, "__pydantic_validator__")
        or hasattr(cls, "__attrs_attrs__")
        or dataclasses.is_dataclass(cls)
    )


def find_loss(sent: Any, arrived: Any, *, strict: bool, where: str = "") -> str | None:
    """What of ``sent`` is not the same in ``arrived``, and where; None if nothing is.

    ``strict`` is for places where every type is known: what goes as plain data into a place of any
    type (a dataclass into an `Any`) is no loss where it is not.
    """
    kind, came = cast("type[Any]", type(sent)), cast("type[Any]", type(arrived))
    if kind is came and kind in _EXACT and sent == arrived:  # nearly all, and 1 µs less for each
        return None
    if is_record(kind) and came is not kind:
        lost = strict or is_record(came)
        return _changed(where, sent, arrived) if lost else None
    look = _find_loss_in_scalar
    if is_record(kind):
        look = _find_loss_in_record
    elif issubclass(kind, dict) and issubclass(came, dict):
        look = _find_loss_in_dict
    elif issubclass(kind, dict) and is_record(came):
        return _find_unknown_names(sent, came, where)
    elif issubclass(kind, _SETS) and issubclass(came, _SETS):
        look = _find_loss_in_set
    elif any(issubclass(kind, each) and issubclass(came, each) for each in _SERIES):
        look = _find_loss_in_series
    return look(sent, arrived, strict=strict, where=where)


def _find_loss_in_scalar(sent: Any, arrived: Any, *, strict: bool, where: str) -> str | None:
    kind, came = cast("type[Any]", type(sent)), cast("type[Any]", type(arrived))
    if kind is came or (issubclass(kind, came) and not issubclass(kind, enum.Enum)):
        if issubclass(kind, datetime | time):
            return _find_loss_in_time(sent, arrived, where)
        if issubclass(kind, Decimal):  # of which some raise when they are compared
            same = Decimal.compare_total(sent, arrived) == 0
        else:  # what is no number equals nothing, itself included
            same = sent is arrived or bool(sent == arrived) or (sent != sent and arrived != arrived)  # noqa: PLR0124
        return None if same else _changed(where, sent, arrived)
    if kind is int and came is float:
        return None if sent == arrived else _changed(where, sent, arrived)
    if kind in _MAY_BE_PARSED or issubclass(kind, came) or not strict:
        return None
    return _changed(where, sent, arrived)


def _find_loss_in_time(sent: Any, arrived: Any, where: str) -> str | None:
    """Of a moment, or a time of day. Moments arrive in UTC; what is in no zone has no fold."""
    if (sent.tzinfo is None) != (arrived.tzinfo is None):
        # ``time(9, tzinfo=ZoneInfo("Europe/Berlin"))`` is at no known distance from UTC.
        return _named(where, "arrives without its time zone: send that beside it, or a datetime")
    same = sent == arrived or _is_same_moment(sent, arrived)
    return None if same else _changed(where, sent, arrived)


def _is_same_moment(sent: Any, arrived: Any) -> bool:
    """Whether two that are not equal for Python are one moment.

    In the hour that comes twice when summer time ends, a datetime equals none of another time zone
    (PEP 495), and what is sent arrives in UTC.
    """
    if not isinstance(sent, datetime) or sent.utcoffset() is None or arrived.utcoffset() is None:
        return False
    return sent.astimezone(UTC) == arrived.astimezone(UTC)


def _find_loss_in_record(sent: Any, arrived: Any, *, strict: bool, where: str) -> str | None:
    fields, others = _fields(sent), _fields(arrived)
    for name, value in fields.items():
        if name not in others:
            return f"{where}.{name} does not arrive".lstrip(".")
        if loss := find_loss(value, others[name], strict=strict, where=f"{where}.{name}"):
            return loss
    for name in _own_attributes(sent):
        if name not in arrived.__dict__:
            return f"{where}.{name} does not arrive, as it is no field".lstrip(".")
    return None


def _find_loss_in_series(sent: Any, arrived: Any, *, strict: bool, where: str) -> str | None:
    kind, came = cast("type[Any]", type(sent)), cast("type[Any]", type(arrived))
    has_names = hasattr(kind, "_fields") and hasattr(came, "_fields")  # as a NamedTuple
    if len(sent) != len(arrived) or (has_names and kind is not came):
        return _changed(where, sent, arrived)
    if issubclass(kind, deque) and sent.maxlen != arrived.maxlen:
        return _named(where, "arrives without its maxlen")
    for at, (one, other) in enumerate(zip(sent, arrived, strict=True)):
        if loss := find_loss(one, other, strict=strict, where=f"{where}[{at}]"):
            return loss
    return None


def _find_loss_in_set(sent: Any, arrived: Any, *, strict: bool, where: str) -> str | None:
    """Members that are equal may still differ: a named tuple equals any other tuple."""
    if len(sent) != len(arrived):
        return _changed(where, sent, arrived)
    others = {member: member for member in arrived}
    strange: list[Any] = []
    for member in sent:
        other = others.pop(member, _UNSET)
        if other is _UNSET:
            strange.append(member)
        elif loss := find_loss(member, other, strict=strict, where=f"{where}{{{member!r:.50}}}"):
            return loss
    # What equals nothing, and what is parsed, text for a date: nobody can say which became which.
    for member in strange:
        losses = (find_loss(member, other, strict=strict, where=where) for other in others.values())
        loss = None
        if all(loss := each for each in losses):
            return loss
    return None


def _find_loss_in_dict(
    sent: dict[Any, Any], arrived: dict[Any, Any], *, strict: bool, where: str
) -> str | None:
    if isinstance(sent, defaultdict) and isinstance(arrived, defaultdict):
        made = cast("Any", sent).default_factory
        if made is not cast("Any", arrived).default_factory:
            why = "which the type of its values decides, as in defaultdict[str, list[int]]"
            return _named(where, f"arrives with another default_factory, {why}")
    if len(sent) != len(arrived):
        missing = [key for key in sent if key not in arrived]
        return f"{where}[{missing[0]!r:.50}] does not arrive" if missing else "entries are lost"
    # Keys may have been parsed, so they are compared by their places: the order is kept.
    for (key, value), (other_key, other) in zip(sent.items(), arrived.items(), strict=True):
        at = f"{where}[{key!r:.50}]"
        if loss := find_loss(key, other_key, strict=strict, where=f"key {at}"):
            return loss
        if loss := find_loss(value, other, strict=strict, where=at):
            return loss
    return None


def _find_unknown_names(sent: dict[Any, Any], came: type[Any], where: str) -> str | None:
    """What a dictionary for a record says that the record has no field for."""
    if hasattr(came, "__pydantic_validator__"):
        return None  # pydantic's own rules decide
    names = set(_names_of(came))
    if config := getattr(came, "__struct_config__", None):  # which may have other names outside
        names = {*cast("Any", came).__struct_encode_fields__, config.tag_field}
    unknown = [name for name in sent if name not in names]
    return f"{came.__qualname__} has no field {unknown[0]!r:.50}" if unknown else None


@functools.lru_cache(CLASSES)
def _names_of(cls: type[Any]) -> tuple[str, ...]:
    """Of the fields of a record's class."""
    if names := getattr(cls, "__struct_fields__", None):
        return names
    if attributes := getattr(cls, "__attrs_attrs__", None):
        return tuple(each.name for each in attributes)
    if dataclasses.is_dataclass(cls):
        return tuple(field.name for field in dataclasses.fields(cls))
    return tuple(getattr(cls, "__pydantic_fields__", None) or getattr(cls, "model_fields", ()))


def _fields(record: Any) -> dict[str, Any]:
    cls = cast("type[Any]", type(record))
    names = _names_of(cls)
    try:
        fields = {name: getattr(record, name) for name in names}
    except AttributeError:  # of a dataclass, one that is not set
        pairs = ((name, getattr(record, name, _UNSET)) for name in names)
        fields = {name: value for name, value in pairs if value is not _UNSET}
    if _is_model(cls):
        fields |= record.__pydantic_extra__ or {}
        fields |= record.__pydantic_private__ or {}
    return fields


def _own_attributes(record: Any) -> list[str]:
    """Those in the object itself that are neither fields nor what a property has cached there."""
    cls = cast("type[Any]", type(record))
    if _is_model(cls):  # it has such as private attributes
        return []
    names, known = getattr(record, "__dict__", {}), _names_of(cls)
    return [
        name
        for name in names
        if name not in known
        and not isinstance(inspect.getattr_static(cls, name, None), functools.cached_property)
    ]


def _is_model(cls: type[Any]) -> bool:
    return hasattr(cls, "__pydantic_validator__") and not dataclasses.is_dataclass(cls)


def _changed(where: str, sent: Any, arrived: Any) -> str:
    kind, came = type(sent).__qualname__, type(arrived).__qualname__
    what = f"another `{kind}`" if kind == came else f"`{came}` instead of `{kind}`"
    return _named(where, f"arrives as {what}")


def _named(where: str, what: str) -> str:
    return f"{where.lstrip('.') or 'it'} {what}"
