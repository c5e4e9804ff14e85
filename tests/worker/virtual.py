"""Virtual time for tests of workers: an app that lives in it.

Thirty seconds pass in a millisecond, and are still exactly thirty. Threads go on in real time, so a
lease that a thread renews has to be long.
"""

from typing import Any

from asyncq.app import App
from asyncq.config import Config
from asyncq.language.message import new_id
from asyncq.testing import VirtualClock, VirtualLoop, on_virtual_time

__all__ = ["VirtualClock", "VirtualLoop", "on_virtual_time", "virtual_app"]

LONG = 1e9  # seconds; a lease that virtual time does not reach


def virtual_app(**settings: Any) -> App:
    """An app that lives in the virtual time of the running loop."""
    given: dict[str, Any] = {"lease": LONG, "stall_limit": LONG, **settings}
    config = Config(**given)
    return App(f"memory://{new_id()}", config=config, clock=VirtualClock())
