"""Reprs of what programs hold: one short line, without asking anybody, whatever is in it."""

import reprlib
from collections.abc import Iterable, Mapping
from typing import Any

from asyncq.texts import clipped, plain

LONGEST = 200  # characters of a whole repr
PART = 100  # of its arguments, of its options
VALUE = 60  # of one value

_class_name = vars(type)["__name__"].__get__

_short = reprlib.Repr()
_short.maxstring = _short.maxother = _short.maxlong = VALUE
_short.maxlevel = 3


def shown_value(value: Any) -> str:
    """The repr of a user's object, bounded; of what has none, its class."""
    try:
        return clipped(plain(_short.repr(value)), VALUE)
    except KeyboardInterrupt:
        raise
    except BaseException:  # noqa: BLE001 - the user's object, which may do anything
        return clipped(plain(f"<{_class_name(type(value))}>"), VALUE)


def shown_call(task: str, args: Iterable[Any], kwargs: Mapping[str, Any]) -> str:
    """``task(1, x=2)``."""
    given = [shown_value(each) for each in args]
    given += [f"{plain(name)}={shown_value(value)}" for name, value in kwargs.items()]
    return f"{clipped(plain(task), PART)}({clipped(', '.join(given), PART)})"


def shown_options(record: Any, default: Any) -> str:
    """Those fields of a record that are not as they are by default: ``queue='mail', delay=5.0``."""
    names: tuple[str, ...] = record.__struct_fields__
    values = [(name, getattr(record, name)) for name in names]
    asked = [each for each in values if each[1] is not getattr(default, each[0])]
    return clipped(", ".join(f"{name}={shown_value(value)}" for name, value in asked), PART)


def within(text: str, *, kind: str = "<{}>") -> str:
    """``text`` in its brackets, at most `LONGEST` characters with them."""
    return kind.format(clipped(text, LONGEST - len(kind) + 2))
