"""Virtual time: an event loop whose clock jumps to the next timer when nothing else is to be done.

Thirty seconds pass in a millisecond, and are still exactly thirty. Threads go on in real time, so a
lease that a thread renews has to be long.
"""

import asyncio
import selectors
from collections.abc import Callable, Coroutine
from functools import wraps
from typing import Any, ParamSpec

from asyncq.app import App
from asyncq.config import Config
from asyncq.message import new_id

P = ParamSpec("P")
BEGINNING = 1_000_000.0
LONG = 1e9  # seconds; a lease that virtual time does not reach


class Jumping(selectors.DefaultSelector):
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
    def __init__(self) -> None:
        self._jumping = Jumping()
        super().__init__(self._jumping)

    def time(self) -> float:
        return BEGINNING + self._jumping.passed


class VirtualClock:
    """Moments in the virtual time of the loop that made it, for its threads as well."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()

    def now(self) -> float:
        return self._loop.time()


def on_virtual_time(test: Callable[P, Coroutine[Any, Any, None]]) -> Callable[P, None]:
    """Run an async test in a virtual loop of its own."""

    @wraps(test)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        with asyncio.Runner(loop_factory=VirtualLoop) as runner:
            runner.run(test(*args, **kwargs))

    return run


def virtual_app(**settings: Any) -> App:
    """An app that lives in the virtual time of the running loop."""
    given: dict[str, Any] = {"lease": LONG, "stall_limit": LONG, **settings}
    config = Config(**given)
    return App(f"memory://{new_id()}", config=config, clock=VirtualClock())
