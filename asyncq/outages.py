"""Outages: what fails is tried again, and the log says when that begins and when it ends."""

import asyncio
import logging
import math
import time

from asyncq.errors import ConfigurationError
from asyncq.language.policies import Retry
from asyncq.loggers import get_logger
from asyncq.texts import shown

log = get_logger(__name__)

AWAY = Retry(times=0, base=0.05, ceiling=1.0)  # pauses while a server is away
WRONG = Retry(times=0, base=0.5, ceiling=15.0)  # and while only a change would help
TEXT_LIMIT = 1024  # bytes of what is wrong


class Outage:
    """One thing that is tried again until it works: since when it does not, and why.

    ``fails`` and ``works`` begin its lines in the log: "publishing is interrupted", "publishing
    goes on". There is one when it begins, one whenever it fails for another kind of reason (who was
    cut off, and is then refused, has to know why), one each ``remind`` seconds, and one at its end.
    """

    def __init__(self, fails: str, works: str, *, remind: float = math.inf) -> None:
        self.error: BaseException | None = None
        """Why it does not work; None while it does."""
        self._fails = fails
        self._works = works
        self._remind = remind
        self._failures = 0
        self._since = self._said_at = 0.0

    @property
    def seconds(self) -> float:
        """How long it has not worked."""
        return _now() - self._since

    @property
    def why(self) -> str:
        """What is wrong, fit for a line of the log."""
        text = str(self.error) or type(self.error).__name__
        return shown(text, TEXT_LIMIT).rstrip(".")

    def fail(self, error: BaseException) -> float:
        """It failed, perhaps not for the first time; returns seconds until it is tried again."""
        now, before = _now(), self.error
        is_wrong = isinstance(error, ConfigurationError)
        self.error = error
        self._failures += 1
        if before is None:
            self._since = now
        if type(error) is not type(before) or now - self._said_at >= self._remind:
            self._said_at = now
            level = logging.ERROR if is_wrong else logging.WARNING
        else:
            level = logging.DEBUG
        since = "" if before is None else f" since {self.seconds:.1f} s"
        log.log(level, "%s%s, trying again: %s", self._fails, since, self.why)
        return (WRONG if is_wrong else AWAY).pause(self._failures)

    def end(self) -> None:
        """It works, again or still."""
        if self.error is not None:
            log.warning("%s after %.1f s", self._works, self.seconds)
            self._failures, self.error = 0, None


def _now() -> float:
    """The loop's time; in a thread that has no loop, the clock that loops go by."""
    try:
        return asyncio.get_running_loop().time()
    except RuntimeError:
        return time.monotonic()
