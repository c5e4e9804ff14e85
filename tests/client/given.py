"""What the tests of clients and workers begin with: apps of their own, and a broker to watch."""

from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import anyio
from anyio import fail_after

from asyncq.app import App
from asyncq.client.result import Result
from asyncq.clock import Clock
from asyncq.config import Config, Url
from asyncq.drivers.memory.broker import MemoryBroker
from asyncq.language.envelope import Envelope
from asyncq.language.message import Status, new_id
from asyncq.seams.dead import DeadLimits

PATIENCE = 10.0  # seconds after which something that should happen does not
AT_ONCE = 1.0  # seconds within which happens what waits for nothing


def new_app(url: str | None = None, **settings: Any) -> App:
    """An app on a store that no other test knows."""
    return App(url or f"memory://{new_id()}", config=Config(**settings))


async def until_status(result: Result[Any], wanted: Status) -> None:
    """Return once the message is there; there is nothing to wait on, so look at it again."""
    with fail_after(PATIENCE):
        while await result.status() is not wanted:  # noqa: ASYNC110 - there is no event
            await anyio.sleep(0.001)


async def until(holds: Callable[[], bool]) -> None:
    """Return once something is so that tells nobody."""
    with fail_after(PATIENCE):
        while not holds():  # noqa: ASYNC110 - there is no event
            await anyio.sleep(0.001)


async def until_empty(app: App, queue: str = "default") -> None:
    """Return once nothing of this queue is to be run now, and nothing runs."""
    with fail_after(PATIENCE):
        while (depth := await app.queues.depth(queue)).ready or depth.in_flight:  # noqa: ASYNC110
            await anyio.sleep(0.02)


class Gate:
    """Where a task says that it runs, and waits until it may go on."""

    def __init__(self) -> None:
        self.reached = anyio.Event()
        self.opened = anyio.Event()

    async def pass_through(self) -> None:
        self.reached.set()
        await self.opened.wait()

    async def until_reached(self) -> None:
        with fail_after(PATIENCE):
            await self.reached.wait()

    def open(self) -> None:
        self.opened.set()


class WatchedBroker(MemoryBroker):
    """A memory broker that counts what is published, and fails as it is told to."""

    def __init__(self, url: Url, clock: Clock, limits: DeadLimits | None = None) -> None:
        super().__init__(url, clock, limits)
        self.batches: list[list[str]] = []
        """The ids of each call that was answered."""
        self.calls = 0
        self.fail: Callable[[Sequence[Envelope]], Exception | None] = lambda _: None
        self.before: Callable[[], Coroutine[Any, Any, None]] = anyio.lowlevel.checkpoint

    async def publish(self, envelopes: Sequence[Envelope]) -> None:
        self.calls += 1
        await self.before()
        error = self.fail(envelopes)
        if error is not None:
            raise error
        await super().publish(envelopes)
        self.batches.append([envelope.id for envelope in envelopes])


def watched(app: App) -> WatchedBroker:
    """The broker of a connected app whose URL is ``watched://``."""
    broker = app.client.broker
    assert isinstance(broker, WatchedBroker)
    return broker
