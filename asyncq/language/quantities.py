"""Numbers that users write: each is checked and made plain where it is written, in one way.

A duration may be a number of seconds or a `timedelta`; inside asyncq it is a float. What makes no
sense raises `InvalidValue`, which names the setting, what was given, and what is allowed.
"""

import math
from collections.abc import Callable
from datetime import datetime, timedelta
from operator import index
from typing import Any, cast, overload

from asyncq.errors import LONGEST, InvalidValue

LAST_MOMENT = 253_402_300_799.0  # Unix seconds: the end of the year 9999
LARGEST = 512 * 1024 * 1024  # bytes; what Redis takes for one value
MOST = 1_000_000  # of what is counted in memory

Duration = float | timedelta
"""What users may write for a duration."""


class Seconds:
    """A field that is given as a `Duration` and is a float from then on.

    It says so to type checkers alone; the record's ``__post_init__`` does it.
    """

    @overload
    def __get__(self, record: None, of: Any, /) -> "Seconds": ...
    @overload
    def __get__(self, record: object, of: Any, /) -> float: ...
    def __get__(self, record: object | None, of: Any, /) -> Any: ...
    def __set__(self, record: object, value: Duration, /) -> None: ...


class SecondsOrNone:
    """A field as `Seconds`, or None."""

    @overload
    def __get__(self, record: None, of: Any, /) -> "SecondsOrNone": ...
    @overload
    def __get__(self, record: object, of: Any, /) -> float | None: ...
    def __get__(self, record: object | None, of: Any, /) -> Any: ...
    def __set__(self, record: object, value: Duration | None, /) -> None: ...


def default(value: float) -> Seconds:
    """The default of a field of this kind."""
    return cast("Seconds", value)


def no_default() -> SecondsOrNone:
    """The default None of a field of this kind."""
    return cast("SecondsOrNone", None)


def seconds(
    name: str,
    value: Any,
    *,
    at_least: float = 0.0,
    above: float | None = None,
    most: float = LONGEST,
    instead: str = "",
) -> float:
    """A duration in seconds.

    ``above`` takes the place of ``at_least`` where the bound itself is not allowed; ``instead``
    is what to write for "for ever", where that can be.

    Raises:
        InvalidValue: not a duration, or none that is allowed here.
    """
    number = _number(value.total_seconds() if isinstance(value, timedelta) else value)
    if (
        number is not None
        and (at_least <= number if above is None else above < number)
        and (number <= most)
    ):
        return number
    low = "not negative" if above is None and at_least == 0 else f"at least {at_least:g}"
    if above is not None:
        low = f"more than {above:g}"
    allowed = f"a number of seconds or a timedelta, {low} and at most {most:.0f}"
    if instead:
        allowed += f"; {instead} is for ever"
    raise InvalidValue(name, value, allowed)


def optional_seconds(name: str, value: Any, *, above: float | None = None) -> float | None:
    """As `seconds`; None and infinity are no limit."""
    if value is None or is_endless(value):
        return None
    try:
        return seconds(name, value, above=above)
    except InvalidValue as error:
        raise InvalidValue(name, value, f"{error.allowed}, or None for no limit") from None


def is_endless(value: Any) -> bool:
    """Whether it is infinity, whatever kind of number."""
    return _number(value) == math.inf


def wait(name: str, value: Any) -> float | None:
    """How long to wait, in seconds; None is for ever, and so is infinity."""
    if value is None or is_endless(value):
        return None
    return seconds(name, value, instead="None")


def count(name: str, value: Any, *, at_least: int = 0, most: int = MOST, none: str = "") -> int:
    """A whole number. ``none`` says what None would mean, where it is allowed.

    Raises:
        InvalidValue: not a whole number, or none that is allowed here.
    """
    try:
        number = None if isinstance(value, bool) else index(value)
    except TypeError:
        number = None
    if number is not None and at_least <= number <= most:
        return number
    allowed = f"from {at_least} to {most}, a whole number"
    raise InvalidValue(name, value, f"{allowed}; None is {none}" if none else allowed)


def number(name: str, value: Any, *, at_least: float | None = 0.0) -> float:
    """A finite number without a unit.

    Raises:
        InvalidValue: it is none, or less than is allowed here.
    """
    found = _number(value)
    lowest = -math.inf if at_least is None else at_least
    if found is None or not math.isfinite(found) or found < lowest:
        allowed = "a finite number" if at_least is None else f"a number of at least {at_least:g}"
        raise InvalidValue(name, value, allowed)
    return found


def flag(name: str, value: Any) -> bool:
    """
    Raises:
        InvalidValue: neither True nor False.
    """
    if not isinstance(value, bool):
        raise InvalidValue(name, value, "True or False")
    return value


def choice(name: str, value: Any, *choices: str) -> str:
    """
    Raises:
        InvalidValue: none of these.
    """
    if not isinstance(value, str) or value not in choices:
        two = len(choices) == 2  # noqa: PLR2004 - as one says it
        raise InvalidValue(
            name, value, " or ".join(choices) if two else f"one of {', '.join(choices)}"
        )
    return value


def moment(name: str, value: Any) -> float:
    """A moment in Unix seconds, from an aware datetime or as it is.

    Raises:
        InvalidValue: a datetime without a time zone, or no moment.
    """
    if isinstance(value, datetime):
        if value.tzinfo is None:
            raise InvalidValue(
                name, value, "with a time zone (this has no time zone): use datetime.now(UTC)"
            )
        value = value.timestamp()
    found = _number(value)
    if found is None or not 0 <= found <= LAST_MOMENT:
        allowed = "a moment: an aware datetime or Unix seconds, from 1970 to the end of 9999"
        if isinstance(value, timedelta):
            allowed += "; for a pause from now, write delay="
        raise InvalidValue(name, value, allowed)
    return found


def from_text(check: Callable[..., Any], name: str, text: str, **bounds: Any) -> Any:
    """What ``check`` makes of a number that stands in a text: in the query of a URL, say.

    Raises:
        InvalidValue: no number, or none that is allowed here.
    """
    for read in (int, float):
        try:
            return check(name, read(text), **bounds)
        except InvalidValue as error:
            raise InvalidValue(name, text, error.allowed) from None
        except ValueError:
            continue
    try:
        return check(name, text, **bounds)
    except InvalidValue as error:
        raise InvalidValue(name, text, error.allowed) from None


def _number(value: Any) -> float | None:
    """A float of anything that is a number (of numpy, a Decimal), and of no text or truth."""
    if isinstance(value, bool | str | bytes | bytearray):
        return None
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError, ArithmeticError):
        return None
