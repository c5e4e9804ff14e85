"""Outages: what is away is said when that begins and when it ends, and to whom it concerns."""

import asyncio

from asyncq.language.policies import Retry
from asyncq.loggers import get_logger

log = get_logger(__name__)

PAUSE = Retry(times=0, base=0.05, ceiling=5.0)  # between two attempts


class Outage:
    """One thing that is tried again until it works: since when it does not, and why."""

    def __init__(self, what: str) -> None:
        self._what = what  # as a log line begins: "waiting for results"
        self._failures = 0
        self._since = 0.0  # loop time
        self.error: Exception | None = None
        """Why it does not work; None while it does."""

    def begin(self, error: Exception, pause: Retry | None = None) -> float:
        """It failed, perhaps not for the first time; returns seconds until it is tried again."""
        if not self._failures:
            self._since = asyncio.get_running_loop().time()
        # Again where it is another kind: who was cut off, and is then refused, has to know why.
        if type(error) is not type(self.error):
            log.warning("%s is interrupted, trying again: %s", self._what, error)
        self.error = error
        self._failures += 1
        return (pause or PAUSE).pause(self._failures)

    def end(self) -> None:
        """It works, again or still."""
        if self._failures:
            log.warning("%s goes on after %.1f s", self._what, self._seconds())
            self._failures, self.error = 0, None

    def explain(self) -> str | None:
        """What to tell somebody whose time was up meanwhile; None if it works."""
        if self.error is None:
            return None
        why = str(self.error) or type(self.error).__name__
        return f"the backend has been away for {self._seconds():.1f} s ({why})"

    def _seconds(self) -> float:
        return asyncio.get_running_loop().time() - self._since
