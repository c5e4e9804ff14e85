"""Fidelity: whether a value arrives as it was sent.

It is asked where a task is called, of what the worker will make of the bytes. What is parsed on
purpose is no loss: text for a `datetime`, a list for a set, a dictionary for a dataclass.
"""

import dataclasses
import enum
from datetime import UTC, datetime
from typing import Any, cast

_TEXT_AND_NUMBERS = frozenset({str, int, float, bool, bytes, bytearray, memoryview, type(None)})
_MAY_BE_PARSED = _TEXT_AND_NUMBERS | {list, dict, tuple, set, frozenset}
_SERIES = (list, tuple)


def is_record(cls: type) -> bool:
    """Whether values of this class have fields: a dataclass, a Struct, a pydantic model."""
    return (
        hasattr(cls, "__struct_fields__")
        or hasattr(cls, "__pydantic_validator__")
        or dataclasses.is_dataclass(cls)
    )


def find_loss(sent: Any, arrived: Any, *, strict: bool, where: str = "") -> str | None:
    """What of ``sent`` is not the same in ``arrived``, and where; None if nothing is.

    ``strict`` is for places where every type is known: what goes as plain data into a place of any
    type (a dataclass into an `Any`) is no loss where it is not.
    """
    kind, came = cast("type[Any]", type(sent)), cast("type[Any]", type(arrived))
    if is_record(kind):
        if came is not kind:
            lost = strict or is_record(came)
            return _changed(where, sent, arrived) if lost else None
        return _find_loss_in_record(sent, arrived, strict=strict, where=where)
    if issubclass(kind, dict):
        if issubclass(came, dict):
            return _find_loss_in_dict(sent, arrived, strict=strict, where=where)
        if is_record(came):
            return _find_unknown_names(sent, came, where)
    if issubclass(kind, _SERIES) and issubclass(came, _SERIES):
        if len(sent) != len(arrived):
            return _changed(where, sent, arrived)
        for at, (one, other) in enumerate(zip(sent, arrived, strict=True)):
            if loss := find_loss(one, other, strict=strict, where=f"{where}[{at}]"):
                return loss
        return None
    return _find_loss_in_scalar(sent, arrived, strict=strict, where=where)


def _find_loss_in_scalar(sent: Any, arrived: Any, *, strict: bool, where: str) -> str | None:
    kind, came = cast("type[Any]", type(sent)), cast("type[Any]", type(arrived))
    if kind is came or (issubclass(kind, came) and not issubclass(kind, enum.Enum)):
        # What is no number equals nothing, itself included.
        same = sent is arrived or bool(sent == arrived) or (sent != sent and arrived != arrived)  # noqa: PLR0124
        if same or _is_same_moment(sent, arrived):
            return None
        return _changed(where, sent, arrived)
    if kind is int and came is float:
        return None if sent == arrived else _changed(where, sent, arrived)
    if kind in _MAY_BE_PARSED or issubclass(kind, came) or not strict:
        return None
    return _changed(where, sent, arrived)


def _is_same_moment(sent: Any, arrived: Any) -> bool:
    """Whether two that are not equal for Python are one moment.

    In the hour that comes twice when summer time ends, a datetime equals none of another time zone
    (PEP 495), and what is sent arrives in UTC.
    """
    if not isinstance(sent, datetime) or sent.utcoffset() is None or arrived.utcoffset() is None:
        return False
    return sent.astimezone(UTC) == arrived.astimezone(UTC)


def _find_loss_in_record(sent: Any, arrived: Any, *, strict: bool, where: str) -> str | None:
    for name, value in _fields(sent).items():
        others = _fields(arrived)
        if name not in others:
            return f"{where}.{name} does not arrive".lstrip(".")
        if loss := find_loss(value, others[name], strict=strict, where=f"{where}.{name}"):
            return loss
    return None


def _find_loss_in_dict(
    sent: dict[Any, Any], arrived: dict[Any, Any], *, strict: bool, where: str
) -> str | None:
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
    if hasattr(came, "__pydantic_validator__") or getattr(came, "__struct_config__", None):
        return None  # pydantic's own rules decide; a Struct may have its names from outside
    names = {field.name for field in dataclasses.fields(came)}
    unknown = [name for name in sent if name not in names]
    return f"{came.__qualname__} has no field {unknown[0]!r:.50}" if unknown else None


def _fields(record: Any) -> dict[str, Any]:
    cls = cast("type[Any]", type(record))
    if names := getattr(cls, "__struct_fields__", None):
        return {name: getattr(record, name) for name in names}
    if hasattr(cls, "__pydantic_validator__") and not dataclasses.is_dataclass(cls):
        return {
            **vars(record),
            **(record.__pydantic_extra__ or {}),
            **(record.__pydantic_private__ or {}),
        }
    return {
        field.name: getattr(record, field.name)
        for field in dataclasses.fields(record)
        if hasattr(record, field.name)
    }


def _changed(where: str, sent: Any, arrived: Any) -> str:
    kind, came = type(sent).__qualname__, type(arrived).__qualname__
    what = f"another `{kind}`" if kind == came else f"`{came}` instead of `{kind}`"
    place = where.lstrip(".")
    return f"{place} arrives as {what}" if place else f"it arrives as {what}"
