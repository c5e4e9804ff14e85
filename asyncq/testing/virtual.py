"""Virtual time: an event loop whose clock jumps to the next timer when nothing else is to be done.

Thirty seconds pass in a millisecond, and are still exactly thirty, also for ``asyncio.sleep`` and
time limits. Threads go on in real time.
"""

import asyncio
import selectors
from collections.abc import Callable, Coroutine
from functools import wraps
from typing import Any, ParamSpec

from asyncq.clock import SystemClock

P = ParamSpec("P")
BEGINNING = 1_000_000.0


class _Jumping(selectors.DefaultSelector):
    """A selector that says how long it would have waited, instead of waiting."""

    def __init__(self) -> None:
        super().__init__()
        self.passed = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:  # only a thread can end this
            return super().select(10.0)
        events = super().select(0)
        if not events:
            self.passed += timeout
        return events


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop in which no time is waited for: it passes.

    ``asyncio.Runner(loop_factory=testing.VirtualLoop)`` runs coroutines in one.
    """

    def __init__(self) -> None:
        self._jumping = _Jumping()
        super().__init__(self._jumping)

    def time(self) -> float:
        """Seconds that it would have waited since it was made, and a few more.

        A small number, and no Unix time: the loop counts in nanoseconds.
        """
        return BEGINNING + self._jumping.passed


class VirtualClock:
    """Moments in the virtual time of the loop that made it, for its threads as well.

    ``App("memory://", clock=testing.VirtualClock())`` is an app that lives in it.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._began = SystemClock().now() - self._loop.time()

    def now(self) -> float:
        return self._began + self._loop.time()


def on_virtual_time(test: Callable[P, Coroutine[Any, Any, None]]) -> Callable[P, None]:
    """Run an async test in a virtual loop of its own; no plugin of pytest's is needed for that."""

    @wraps(test)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        with asyncio.Runner(loop_factory=VirtualLoop) as runner:
            runner.run(test(*args, **kwargs))

    return run
