"""The clock: where moments come from.

Durations come from the event loop; moments (eta, expires, when something ended) from here, so that
a test can say what time it is.
"""

import time
from typing import Protocol


class Clock(Protocol):
    """Says what time it is."""

    def now(self) -> float:
        """Unix seconds, UTC."""
        ...


class SystemClock:
    """The machine's own clock."""

    now = staticmethod(time.time)
