"""The worker: one event loop that takes messages from queues, runs their tasks, and settles them.

broker ──▶ consumer (one per queue) ──▶ pool of slots ──▶ executor ──▶ completer ──▶ broker
                                                                                     backend
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import anyio
from anyio import TASK_STATUS_IGNORED, create_task_group
from anyio.abc import TaskStatus

from asyncq.backends.base import Backend, ProgressBoard
from asyncq.brokers.base import Broker, Consumer, Lease, Leased, QueueSpec
from asyncq.clock import Clock
from asyncq.codecs.base import Codec
from asyncq.config import Config
from asyncq.errors import BrokerUnavailable, LeaseLost, first_error
from asyncq.message import Progress, new_id
from asyncq.policies import Retry
from asyncq.task import Task
from asyncq.worker.completer import Completer
from asyncq.worker.executor import Executor
from asyncq.worker.intake import Intake
from asyncq.worker.leases import Keep, LeaseRenewal
from asyncq.worker.pool import Pool
from asyncq.worker.sweeper import Sweeper

log = logging.getLogger(__name__)

PAUSE = Retry(times=0, base=0.1, ceiling=1.0)  # before a lost lease is followed by a new one

TO_THE_BROKER = 0.85  # of the lease; in the rest, others look who has died: 15 s is 15 s in all

Hook = Callable[[dict[str, Any]], Awaitable[None] | None]


class Worker:
    """Consumes queues until stopped. Lives in the event loop that runs it."""

    def __init__(
        self,
        *,
        tasks: Mapping[str, Task[..., Any]],
        broker: Broker,
        backend: Backend,
        codec: Codec,
        config: Config,
        clock: Clock,
        queues: Sequence[str],
        startup: Sequence[Hook] = (),
        shutdown: Sequence[Hook] = (),
        burst: bool = False,
    ) -> None:
        self.name = new_id()[-12:]
        self._tasks = tasks
        self._broker = broker
        self._backend = backend
        self._codec = codec
        self._config = config
        self._clock = clock
        self._queues = tuple(queues)
        self._startup = startup
        self._shutdown = shutdown
        self._burst = burst
        self._state: dict[str, Any] = {}
        self._intake = anyio.CancelScope()
        self._pool: Pool | None = None
        self._intakes: list[Intake] = []
        self._started_before = 0  # deliveries of earlier incarnations
        self._announced = False
        self._stopped = anyio.Event()
        self._hurrying = False

    @property
    def started(self) -> int:
        """How many deliveries it ever ran."""
        return self._started_before + (0 if self._pool is None else self._pool.started)

    @property
    def is_consuming(self) -> bool:
        """Whether it takes from every queue: not when stopped, nor while the broker is away."""
        if not self._intakes or self._stopped.is_set():
            return False
        return not any(intake.is_interrupted for intake in self._intakes)

    def message_at_hand(self) -> str | None:
        """The id of the message whose task has the event loop at this moment, if one has.

        To be asked in the loop's thread; a signal's handler may.
        """
        try:
            task = asyncio.current_task()
        except RuntimeError:  # the loop is not running
            return None
        return None if self._pool is None else self._pool.message_of(task)

    async def run(
        self,
        *,
        keep: Keep = LeaseRenewal,
        task_status: TaskStatus[None] = TASK_STATUS_IGNORED,
    ) -> None:
        """Consume until stopped; return once every delivery is settled or given back.

        ``keep`` says who renews the lease, where the broker has any: a thread of ours, by default.
        """
        executor = Executor(
            tasks=self._tasks,
            codec=self._codec,
            backend=self._backend,
            config=self._config,
            clock=self._clock,
            worker=self.name,
            state=self._state,
            report=self._post_progress,
        )
        async with self._hooks():
            failures, ended = 0, False
            while not ended:
                try:
                    await self._serve(executor, keep, task_status)
                    ended = True
                except* LeaseLost:
                    log.warning("worker %s lost its lease and begins anew", self.name)
                    failures = 0
                except* BrokerUnavailable as errors:
                    if failures == 0:
                        log.warning("worker %s cannot consume: %s", self.name, first_error(errors))
                    failures += 1
                if self._stopped.is_set():
                    return
                if not ended:
                    with anyio.move_on_after(PAUSE.pause(failures)):
                        await self._stopped.wait()

    def stop(self) -> None:
        """Take in nothing more; `run` returns when what is running has ended, or its grace has."""
        self._stopped.set()
        self._intake.cancel()

    def hurry(self) -> None:
        """Stop, and cancel at once what is running; it is given back."""
        self.stop()
        self._hurrying = True
        if self._pool is not None:
            self._pool.hurry()

    async def _serve(self, executor: Executor, keep: Keep, task_status: TaskStatus[None]) -> None:
        """One incarnation: consume under one lease until stopped, or until the lease is lost.

        The blocks close from the inside out, and that is the shutdown: nothing more comes in, what
        runs ends, its ends are settled, what kept it alive goes last.
        """
        lease = Lease(new_id(), self._config.lease * TO_THE_BROKER)
        unified = self._broker.store == self._backend.store
        async with AsyncExitStack() as stack:
            consumers: dict[str, Consumer] = {}
            for queue in self._queues:
                consumers[queue] = await stack.enter_async_context(
                    self._broker.consume(QueueSpec(queue), lease)
                )
            self._started_before = self.started
            pool = self._pool = Pool(self._config.concurrency)
            async with create_task_group() as upkeep:
                if isinstance(self._broker, Leased):
                    await upkeep.start(
                        keep(self._broker, lease, self._queues, self._config, pool).run
                    )
                    await upkeep.start(Sweeper(self._broker, self._queues, lease).run)
                async with self._completing(consumers, lease, unified=unified) as completers:
                    try:
                        intakes = [
                            Intake(
                                queue,
                                consumer,
                                pool,
                                executor,
                                completers[queue],
                                lines=len(consumers),
                                burst=self._burst,
                            )
                            for queue, consumer in consumers.items()
                        ]
                        await self._take_in(intakes, task_status)
                    finally:
                        await pool.close(0.0 if self._hurrying else self._config.grace)
                upkeep.cancel_scope.cancel()

    async def _take_in(self, intakes: list[Intake], task_status: TaskStatus[None]) -> None:
        """Consume until stopped, or in a burst until the queues are empty."""
        self._intakes = intakes
        try:
            with self._intake:
                async with create_task_group() as group:
                    for intake in intakes:
                        group.start_soon(intake.run)
                    log.info("worker %s consumes %s", self.name, ", ".join(self._queues))
                    if not self._announced:
                        self._announced = True
                        task_status.started()
        finally:
            self._intakes = []

    @asynccontextmanager
    async def _completing(
        self, consumers: Mapping[str, Consumer], lease: Lease, *, unified: bool
    ) -> AsyncGenerator[dict[str, Completer]]:
        """A completer for each consumer, which ends when what the block left is settled."""
        completers = {
            queue: Completer(
                consumer, self._backend, lease, unified=unified, room=self._config.concurrency
            )
            for queue, consumer in consumers.items()
        }
        async with create_task_group() as group:
            for completer in completers.values():
                group.start_soon(completer.run)
            try:
                yield completers
            finally:
                for completer in completers.values():
                    completer.close()

    @asynccontextmanager
    async def _hooks(self) -> AsyncGenerator[None]:
        """Run the start-up hooks, and on the way out the shutdown hooks of what was started."""
        async with AsyncExitStack() as stack:
            for hook in reversed(self._shutdown):
                stack.push_async_callback(self._shut_down, hook)  # all of them, also if one fails
            for hook in self._startup:
                await _call(hook, self._state)
            yield

    async def _shut_down(self, hook: Hook) -> None:
        # Shielded: a worker that is cancelled still closes what it opened. Bounded: it must end.
        with anyio.move_on_after(self._config.grace, shield=True):
            await _call(hook, self._state)

    async def _post_progress(self, id: str, progress: Progress) -> None:
        if isinstance(self._backend, ProgressBoard):
            await self._backend.post_progress(id, progress, self._config.keep_result)


async def _call(hook: Hook, state: dict[str, Any]) -> None:
    answer = hook(state)
    if answer is not None:
        await answer
