"""What a task asks of its worker: how often it is tried again, and how long it may take."""

import inspect
import random
from collections.abc import Callable, Iterable
from typing import Any, cast

import msgspec

from asyncq.errors import InvalidValue
from asyncq.language.quantities import (
    LONGEST,
    Seconds,
    SecondsOrNone,
    count,
    default,
    flag,
    is_endless,
    no_default,
    number,
    optional_seconds,
    seconds,
)
from asyncq.language.spelling import Suggesting
from asyncq.shown import Shown

MOST_RETRIES = 1_000_000
TIMES = 3

Errors = type[BaseException] | Iterable[type[BaseException]]
"""Classes of exceptions: one, or several."""


class _Times(Shown, frozen=True, metaclass=Suggesting):
    times: int | None = None
    """Attempts after the first; 3 if neither this nor ``for_seconds`` is given."""


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
    on: Errors = (Exception,)
    """Only these are tried again; anything else fails at once. One class, or several.

    As ``except`` tells, by classes and what is derived from them: `TimeoutError` is the time limit
    (`TimeLimitExceeded`) as well, and itself an `OSError`. A group, as of an `asyncio.TaskGroup`,
    is tried again if it is named here, or if all that is in it is.
    """
    not_on: Errors = ()
    """Of those, what fails at once all the same."""
    when: Callable[[BaseException], bool] | None = None
    """Asked last, in the event loop: whether what was raised is worth another attempt. If it raises
    itself, the task has failed, as it had."""
    for_seconds: SecondsOrNone = no_default()
    """No attempt begins later than so many seconds after the call was sent. Without ``times`` there
    are as many as fit in."""

    def __post_init__(self) -> None:
        ceiling = LONGEST if is_endless(self.ceiling) else self.ceiling
        for_seconds = optional_seconds("Retry's for_seconds", self.for_seconds)
        times = self.times
        if times is None:
            times = TIMES if for_seconds is None else MOST_RETRIES
        plain: dict[str, Any] = {
            "times": count("Retry's times", times, most=MOST_RETRIES),
            "base": seconds("Retry's base", self.base),
            "factor": number("Retry's factor", self.factor, at_least=1),
            "ceiling": seconds("Retry's ceiling", ceiling),
            "jitter": flag("Retry's jitter", self.jitter),
            "on": _classes("on", self.on),
            "not_on": _classes("not_on", self.not_on) if self.not_on else (),
            "when": _predicate(self.when),
            "for_seconds": for_seconds,
        }
        for name, value in plain.items():
            msgspec.structs.force_setattr(self, name, value)

    @property
    def most(self) -> int:
        """How many attempts there are at most."""
        return cast("int", self.times) + 1

    @property
    def is_open(self) -> bool:
        """Whether time alone ends it."""
        return self.for_seconds is not None and self.times == MOST_RETRIES

    def allows(self, error: BaseException, attempt: int) -> bool:
        """Whether a task whose ``attempt`` (from 1) raised ``error`` is tried again, by its class.

        As ``except`` tells, which asks no class what it thinks its instances are.
        """
        return attempt < self.most and is_one_of(error, self.on) and not self.excludes(error)

    def excludes(self, error: BaseException) -> bool:
        """Whether this is one of those that fail at once."""
        return bool(self.not_on) and is_one_of(error, self.not_on)

    def is_worth(self, error: BaseException) -> bool:
        """What ``when`` says of it. Raises whatever that raises."""
        return self.when is None or bool(self.when(error))

    def is_in_time(self, delay: float, now: float, sent_at: float) -> bool:
        """Whether an attempt in so many seconds begins before ``for_seconds`` are over."""
        return self.for_seconds is None or now + delay <= sent_at + self.for_seconds

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


def is_one_of(error: BaseException, classes: Errors) -> bool:
    """As ``except`` tells: asks no class what it thinks its instances are."""
    kind = type(error)
    return any(type.__subclasscheck__(each, kind) for each in cast("tuple[type, ...]", classes))


def check_errors(name: str, given: Any) -> tuple[type[BaseException], ...]:
    """
    Raises:
        InvalidValue: something else than classes of exceptions, one or several or none.
    """
    option = name.rpartition(" ")[2]
    allowed = f"a class of exceptions or several of them, as in {option}=(OSError, TimeoutError)"
    found = (given,) if isinstance(given, type) else given
    if isinstance(found, str | bytes) or not isinstance(found, Iterable):
        raise InvalidValue(name, given, allowed)
    classes = tuple(cast("Iterable[Any]", found))
    for each in classes:
        if not isinstance(each, type) or not issubclass(each, BaseException):
            raise InvalidValue(name, given, allowed)
    return classes


def _classes(option: str, given: Any) -> tuple[type[BaseException], ...]:
    """
    Raises:
        InvalidValue: something else than classes of exceptions that can be tried again.
    """
    classes = check_errors(f"Retry's {option}", given)
    instead = f"a class of exceptions or several of them, as in {option}=(OSError, TimeoutError)"
    if not classes:
        allowed = f"{instead}; for no retries, leave the policy out"
        raise InvalidValue(f"Retry's {option}", given, allowed)
    if any(issubclass(each, KeyboardInterrupt) for each in classes):
        allowed = f"{instead}; KeyboardInterrupt ends the worker, and is not tried again"
        raise InvalidValue(f"Retry's {option}", given, allowed)
    return classes


def _predicate(when: Any) -> Callable[[BaseException], bool] | None:
    if when is not None and (not callable(when) or inspect.iscoroutinefunction(when)):
        allowed = "a plain function that takes the exception and says whether to try again, or None"
        raise InvalidValue("Retry's when", when, allowed)
    return cast("Callable[[BaseException], bool] | None", when)
