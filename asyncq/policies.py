"""What a task asks of its worker: how often it is tried again, and how long it may take."""

import random
from collections.abc import Callable

import msgspec


class Retry(msgspec.Struct, frozen=True, kw_only=True):
    """How often, and after what pause, a failed task is tried again.

    The pause before attempt ``n + 1`` is ``base * factor ** (n - 1)`` seconds, never more than
    ``ceiling``. With ``jitter`` it is drawn evenly between nothing and that ("full jitter"), so
    that tasks which failed together do not come back together (Brooker, "Exponential Backoff And
    Jitter", 2015).
    """

    times: int = 3
    """Attempts after the first."""
    base: float = 1.0
    factor: float = 2.0
    ceiling: float = 600.0
    jitter: bool = True
    on: tuple[type[Exception], ...] = (Exception,)
    """Only these are tried again; anything else fails at once."""

    def __post_init__(self) -> None:
        if self.times < 0 or self.base < 0 or self.factor < 1 or self.ceiling < 0:
            raise ValueError(
                "Retry takes times, base and ceiling of at least 0 and a factor of at least 1, "
                f"not {self!r}"
            )

    def allows(self, error: BaseException, attempt: int) -> bool:
        """Whether a task whose ``attempt`` (from 1) raised ``error`` is tried again.

        As ``except`` tells, which asks no class what it thinks its instances are.
        """
        kind = type(error)
        return attempt <= self.times and any(type.__subclasscheck__(on, kind) for on in self.on)

    def pause(self, attempt: int, draw: Callable[[], float] = random.random) -> float:
        """Seconds to wait after ``attempt`` failed; ``draw`` gives a number in [0, 1)."""
        try:
            longest = min(self.ceiling, self.base * self.factor ** (attempt - 1))
        except OverflowError:  # the factor's power is beyond a float, and beyond any ceiling
            longest = self.ceiling if self.base else 0.0
        return longest * draw() if self.jitter else longest
