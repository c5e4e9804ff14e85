"""For those who test tasks (`run`, `context`), and those who write drivers (`contracts`).

Needs neither pytest nor hypothesis. With pytest, `asyncq.testing.pytest_plugin` brings fixtures.
"""

from asyncq.testing.contexts import TestContext, context
from asyncq.testing.run import Run, run
from asyncq.testing.sent import Sent
from asyncq.testing.virtual import VirtualClock, VirtualLoop, on_virtual_time

__all__ = [
    "Run",
    "Sent",
    "TestContext",
    "VirtualClock",
    "VirtualLoop",
    "context",
    "on_virtual_time",
    "run",
]
