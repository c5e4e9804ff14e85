"""An app under test: in memory, with a worker in this loop and a clock that is told the time."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, Generator, Iterable, Sequence
from contextlib import asynccontextmanager, contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import anyio

from asyncq.app import App
from asyncq.client.client import Client
from asyncq.client.result import Result
from asyncq.client.task import Task
from asyncq.clock import SystemClock
from asyncq.config import Url
from asyncq.drivers.table import make_backend
from asyncq.errors import (
    BackendUnavailable,
    BrokerUnavailable,
    ConfigurationError,
    TaskFailed,
    shown,
)
from asyncq.language.message import Failed, Status
from asyncq.language.signature import Signature
from asyncq.seams.backend import Backend
from asyncq.seams.broker import Broker
from asyncq.testing.place import Place, WatchedBroker
from asyncq.testing.sent import Sent
from asyncq.testing.virtual import VirtualClock, VirtualLoop

R = TypeVar("R")
PATIENCE = 30.0  # seconds of real time that what runs may take


class ToldClock:
    """A clock that stands until it is told the time."""

    def __init__(self) -> None:
        self.moment = SystemClock().now()

    def now(self) -> float:
        return self.moment


class Run:
    """What happens in a test: made by `run`, or by the fixture ``asyncq_run``."""

    def __init__(
        self,
        app: App,
        *,
        worker: bool = True,
        eager: bool = False,
        queues: Sequence[str] | None = None,
        concurrency: int | None = None,
    ) -> None:
        if not isinstance(app, App):  # pyright: ignore[reportUnnecessaryIsInstance] - a test's own
            raise ConfigurationError(
                f"testing.run: what is run is an asyncq.App, not {shown(app)}: pass the app itself "
                "(for pytest, the fixture asyncq_app returns it)"
            )
        if eager and not worker:
            raise ConfigurationError(
                "testing.run: eager=True needs the worker that worker=False leaves out"
            )
        self.app = app
        self._has_worker = worker
        self._eager = eager
        self._queues = queues
        self._concurrency = concurrency or (1000 if eager else None)  # callers inside of tasks wait
        self._told: ToldClock | None = None  # in virtual time there is none
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            loop = None
        if isinstance(loop, VirtualLoop):
            self._place = Place(VirtualClock())
        else:
            self._told = ToldClock()
            self._place = Place(self._told)
        self.clock = self._place.clock

    # What was sent, and what became of it

    @property
    def enqueued(self) -> list[Sent]:
        """Every call that the broker took, in their order; retries are no calls."""
        return [Sent(envelope, self.app.tasks) for envelope in list(self._place.sent)]

    def calls_of(self, task: Task[..., Any]) -> list[Sent]:
        """Those of one task."""
        return [sent for sent in self.enqueued if sent.task == task.name]

    @property
    def failures(self) -> list[TaskFailed]:
        """How tasks have failed for good, as who awaits them is told."""
        return [
            TaskFailed(record.id, error.type, error.message, error.traceback)
            for record in list(self._place.ended)
            if isinstance(record.outcome, Failed) and (error := record.outcome.error)
        ]

    # Time

    async def until_idle(self, timeout: float | None = PATIENCE) -> None:
        """Return once nothing that is due waits or runs, what that has sent included.

        Raises:
            TimeoutError: after ``timeout`` seconds of real time something still runs.
        """
        queues = self._worker_queues() if self._has_worker else ()
        # In virtual time the deadline would be the next thing to happen.
        with anyio.move_on_after(timeout if self._told else None) as scope:
            while True:
                change = self._place.listen()
                if not self._place.is_busy(queues):
                    return
                await change
        if scope.cancelled_caught:
            raise TimeoutError(
                f"tasks still wait or run after {timeout} s: one that waits for the test itself, "
                "that really sleeps, or is sent again and again?"
            )

    async def advance(self, seconds: float | timedelta) -> None:
        """Let time pass, and run what becomes due in its order; returns when all is idle.

        Virtual are delays, etas, expiry, the pauses of retries, how long results are kept and
        queues hold messages. What sleeps by itself (``asyncio.sleep``, a time limit) does so in
        real time, unless the test runs `on_virtual_time`.
        """
        passing = seconds.total_seconds() if isinstance(seconds, timedelta) else seconds
        if not passing >= 0:
            raise ValueError(f"time goes on, not back: {seconds!r}")
        target = self.clock.now() + passing
        await self.until_idle()
        while (due := self._place.next_due()) is not None and due <= target:
            await self._go_to(due)
            await self.until_idle()
        await self._go_to(target)
        await self.until_idle()

    async def _go_to(self, moment: float) -> None:
        if self._told is None:
            await anyio.sleep(max(moment - self.clock.now(), 0.0))
        else:
            self._told.moment = max(moment, self._told.moment)
        self._place.wake()

    # Faults

    def fail_next_publish(self, error: Exception | None = None, *, times: int = 1) -> None:
        """Have the next call to ``enqueue`` or ``enqueue_many`` raise, and send nothing.

        ``error`` is what it raises: a `BrokerUnavailable` if nothing else is given.
        """
        told = error or BrokerUnavailable("the broker is away, as the test wants it")
        self._place.publishing.extend([told] * times)

    def fail_next_store(self, error: Exception | None = None, *, times: int = 1) -> None:
        """Have the next attempt to store outcomes raise, and store nothing.

        ``error`` is what the worker gets: a `BackendUnavailable` if nothing else is given, after
        which it tries again, as it does when a backend is away. Those kept for 0 s are not stored.
        """
        told = error or BackendUnavailable("the backend is away, as the test wants it")
        self._place.storing.extend([told] * times)

    def lose_next_outcome(self, *, times: int = 1) -> None:
        """Have the next task that ends run again, as if its worker had died just then."""
        self._place.outcomes_to_lose += times

    def duplicate_next_delivery(self, *, times: int = 1) -> None:
        """Have the next task that starts run twice, at once where there are slots for it.

        So it is when a worker that was taken for dead goes on. The first outcome stands.
        """
        self._place.deliveries_to_repeat += times

    def lose_lease(self) -> int:
        """End the worker's lease now, as if it had been taken for dead; call it in its loop.

        What it runs is cancelled there, and runs again under a new lease, counted as a crash.
        Returns how many tasks that are.

        Raises:
            ConfigurationError: this run has no worker.
        """
        if not self._has_worker:
            raise ConfigurationError("lose_lease needs the worker that worker=False leaves out")
        return self._place.lose_leases()

    # How it is set up

    @contextmanager
    def installed(self) -> Generator[None]:
        """Have the app connect here instead of where its URL says."""
        with self.app.connect_through(self):
            try:
                yield
            finally:
                self._place.close()

    @asynccontextmanager
    async def running(self) -> AsyncGenerator[None]:
        """Connect, and run the worker; what still runs at the end is cancelled."""
        async with self.app:
            if not self._has_worker:
                yield
                return
            async with self.app.worker(
                queues=self._queues, concurrency=self._concurrency, grace=0.0
            ):
                yield

    def open_broker(self, url: Url) -> Broker:
        return WatchedBroker(self._place)

    def open_backend(self, url: Url) -> Backend:
        return make_backend(url if url.scheme == "null" else self._place.url, self.clock)

    def make_client(self, **parts: Any) -> Client:
        return _Client(self, **parts)

    async def sent(self, ids: Sequence[str]) -> None:
        """What becomes of calls before who sent them goes on: in an eager run they end."""
        if not self._eager:
            return
        taken = self._worker_queues()
        for sent in self.enqueued:
            if sent.id in ids and sent.queue not in taken:
                raise ConfigurationError(
                    f"no worker of this run takes queue {sent.queue!r}: "
                    f"testing.run(app, queues=[{sent.queue!r}, ...])"
                )
        for id in ids:
            while True:
                change = self._place.listen()
                where = self._place.find(id)
                if where not in (Status.QUEUED, Status.SCHEDULED, Status.RUNNING):
                    break
                due = self._place.next_due() if where is Status.SCHEDULED else None
                if due is None:
                    await change
                else:
                    await self._go_to(due)

    def raise_if_told(self) -> None:
        if self._place.publishing:
            raise self._place.publishing.popleft()

    def _worker_queues(self) -> Sequence[str]:
        return self._queues or self.app.queues.declared


class _Client(Client):
    """One that fails as it is told to, and waits for the end of what it sends in an eager run."""

    def __init__(self, run: Run, **parts: Any) -> None:
        super().__init__(**parts)
        self._run = run

    async def enqueue(self, signature: Signature[R]) -> Result[R]:
        self._run.raise_if_told()
        result = await super().enqueue(signature)
        await self._run.sent([result.id])
        return result

    async def enqueue_many(
        self, signatures: Iterable[Signature[R]] | AsyncIterable[Signature[R]]
    ) -> list[Result[R]]:
        self._run.raise_if_told()
        results = await super().enqueue_many(signatures)
        await self._run.sent([result.id for result in results])
        return results


@asynccontextmanager
async def run(
    app: App,
    *,
    worker: bool = True,
    eager: bool = False,
    queues: Sequence[str] | None = None,
    concurrency: int | None = None,
) -> AsyncGenerator[Run]:
    """Run an app in memory for this block, whatever its URL, with a worker and a clock of its own.

    ``worker=False`` only keeps what is sent. ``eager=True`` has ``enqueue`` return when the task
    has ended, its retries included; time goes on as far as that takes. ``queues`` and
    ``concurrency`` are the worker's.
    """
    made = Run(app, worker=worker, eager=eager, queues=queues, concurrency=concurrency)
    with made.installed():
        async with made.running():
            yield made
