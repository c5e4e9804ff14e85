"""What a task asks of its worker: how often it is tried again, and how long it may take."""

import random
from collections.abc import Callable, Iterable
from typing import Any, cast

import msgspec

from asyncq.errors import InvalidValue
from asyncq.language.quantities import (
    LONGEST,
    Seconds,
    count,
    default,
    flag,
    is_endless,
    number,
    seconds,
)
from asyncq.language.spelling import Suggesting
from asyncq.shown import Shown

MOST_RETRIES = 1_000_000


class _Times(Shown, frozen=True, metaclass=Suggesting):
    times: int = 3
    """Attempts after the first."""


class Retry(_Times, frozen=True, kw_only=True):
    """How often, and after what pause, a failed task is tried again.

    The pause before attempt ``n + 1`` is ``base * factor ** (n - 1)`` seconds, never more than
    ``ceiling``. With ``jitter`` it is drawn evenly between nothing and that ("full jitter"), so
    that tasks which failed together do not come back together (Brooker, "Exponential Backoff And
    Jitter", 2015). ``Retry(5)`` is ``Retry(times=5)``.

    Raises:
        InvalidValue: a value that makes no sense.
    """

    base: Seconds = default(1.0)
    factor: float = 2.0
    ceiling: Seconds = default(600.0)
    """Infinity is the longest pause that there can be: 31 years."""
    jitter: bool = True
    on: type[BaseException] | Iterable[type[BaseException]] = (Exception,)
    """Only these are tried again; anything else fails at once. One class, or several.

    As ``except`` tells, by classes and what is derived from them: `TimeoutError` is the time limit
    (`TimeLimitExceeded`) as well, and itself an `OSError`. A group, as of an `asyncio.TaskGroup`,
    is tried again if it is named here, or if all that is in it is.
    """

    def __post_init__(self) -> None:
        ceiling = LONGEST if is_endless(self.ceiling) else self.ceiling
        plain: dict[str, Any] = {
            "times": count("Retry's times", self.times, most=MOST_RETRIES),
            "base": seconds("Retry's base", self.base),
            "factor": number("Retry's factor", self.factor, at_least=1),
            "ceiling": seconds("Retry's ceiling", ceiling),
            "jitter": flag("Retry's jitter", self.jitter),
            "on": _classes(self.on),
        }
        for name, value in plain.items():
            msgspec.structs.force_setattr(self, name, value)

    def allows(self, error: BaseException, attempt: int) -> bool:
        """Whether a task whose ``attempt`` (from 1) raised ``error`` is tried again.

        As ``except`` tells, which asks no class what it thinks its instances are.
        """
        kind, classes = type(error), cast("tuple[type, ...]", self.on)
        return attempt <= self.times and any(type.__subclasscheck__(on, kind) for on in classes)

    def pause(self, attempt: int, draw: Callable[[], float] = random.random) -> float:
        """Seconds to wait after ``attempt`` failed; ``draw`` gives a number in [0, 1)."""
        try:
            longest = min(self.ceiling, self.base * self.factor ** (attempt - 1))
        except OverflowError:  # the factor's power is beyond a float, and beyond any ceiling
            longest = self.ceiling if self.base else 0.0
        return longest * draw() if self.jitter else longest


def as_retry(value: Any) -> Retry | None:
    """A task's ``retry`` as it may be written: a policy, a number of times, True or False.

    Raises:
        InvalidValue: none of these.
    """
    allowed = "Retry(...), how many times to try again (3 is Retry(times=3)), True, False or None"
    match value:
        case Retry():
            return value
        case None | False:
            return None
        case True:
            return Retry()
        case int():
            try:
                return Retry(times=value)
            except InvalidValue:
                raise InvalidValue("retry", value, allowed) from None
        case _:
            raise InvalidValue("retry", value, allowed)


def _classes(on: Any) -> tuple[type[BaseException], ...]:
    """
    Raises:
        InvalidValue: something else than classes of exceptions.
    """
    allowed = "a class of exceptions or several of them, as in on=(OSError, TimeoutError)"
    found = (on,) if isinstance(on, type) else on
    if isinstance(found, str | bytes) or not isinstance(found, Iterable):
        raise InvalidValue("Retry's on", on, allowed)
    classes = tuple(cast("Iterable[Any]", found))
    if not classes:
        raise InvalidValue("Retry's on", on, f"{allowed}; for no retries, leave the policy out")
    for each in classes:
        if not isinstance(each, type) or not issubclass(each, BaseException):
            raise InvalidValue("Retry's on", on, allowed)
        if issubclass(each, KeyboardInterrupt):
            why = "KeyboardInterrupt ends the worker, and is not tried again"
            raise InvalidValue("Retry's on", on, f"{allowed}; {why}")
    return classes
