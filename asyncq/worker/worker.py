"""The worker: one event loop that takes messages from queues, runs their tasks, and settles them.

What it does with one broker is a session (`asyncq.worker.session`); most workers have one.
"""

import asyncio
from collections.abc import (
    AsyncGenerator,
    Awaitable,
    Callable,
    Mapping,
    Sequence,
)
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Any

import anyio
from anyio import TASK_STATUS_IGNORED, create_task_group
from anyio.abc import TaskStatus

from asyncq.client.client import Client
from asyncq.client.context import set_lender
from asyncq.client.places import set_place
from asyncq.client.task import Task
from asyncq.clock import Clock
from asyncq.config import Config
from asyncq.language.message import new_id
from asyncq.loggers import get_logger
from asyncq.seams.codec import Codec
from asyncq.seams.quarantine import Quarantine
from asyncq.texts import counted
from asyncq.worker.burst import Burst, what_waits
from asyncq.worker.cancellations import Cancellations
from asyncq.worker.drain import Drain, Stragglers
from asyncq.worker.executor import Executor
from asyncq.worker.latches import Latches
from asyncq.worker.leases import Renew
from asyncq.worker.loans import Loans
from asyncq.worker.pool import Slots
from asyncq.worker.scopes import Scopes
from asyncq.worker.services import WorkerServices
from asyncq.worker.session import Session, Setup
from asyncq.worker.stalls import LoopWatch
from asyncq.worker.tasks import label_by

log = get_logger(__name__)

Hook = Callable[[dict[str, Any]], Awaitable[None] | None]


class Worker:
    """Consumes queues until stopped. Lives in the event loop that runs it."""

    def __init__(
        self,
        *,
        tasks: Mapping[str, Task[..., Any]],
        client: Client,
        codec: Codec,
        config: Config,
        clock: Clock,
        queues: Mapping[str, Sequence[str]],
        bounds: Mapping[str, int] | None = None,
        startup: Sequence[Hook] = (),
        shutdown: Sequence[Hook] = (),
        burst: bool = False,
    ) -> None:
        self.name = new_id()[-12:]
        self._tasks = tasks
        self._client = client  # what its tasks use, and it
        self._brokers = client.brokers
        self._backend = client.backend
        self._codec = codec
        self._config = config
        self._clock = clock
        self._queues = queues  # by the name of their broker
        self._startup = startup
        self._shutdown = shutdown
        self._burst = burst
        self._is_told = False  # to stop
        self._left = ""  # of a burst that is over: what waits in its queues
        self._loop = asyncio.get_running_loop()
        self._state: dict[str, Any] = {}
        self.slots = Slots(config.concurrency, bounds, label_by(codec.decode))
        """How many tasks run, and may."""
        self.drain = Drain(self.name, config.grace, self.slots)
        self.cancellations = Cancellations(
            client.backend,
            self.slots,
            decode=codec.decode,
            now=clock.now,
            grace=config.cancel_grace,
            keep=config.keep_result,
        )
        """What was asked to end."""
        self.scopes = Scopes(
            client.backend.offers.registry,
            lease=config.lease,
            now=clock.now,
            end=client.canceller.cancel_scope,
            cancel=self.cancellations.cancel,
        )
        """What has to stand so that tasks go on."""
        self._sessions = self._make_sessions()

    @property
    def running(self) -> list[str]:
        """The ids of the messages whose tasks run now."""
        return [
            delivery.envelope.id for pool in self.slots.pools for delivery in pool.running.values()
        ]

    @property
    def worn(self) -> str:
        """Why its process should be replaced: too much goes on in there that was left behind."""
        stuck = self.cancellations.stuck + self.slots.threads.left
        if stuck < self._config.max_stuck:
            return ""
        return f"has {counted(stuck, 'task')} that did not end when told to"

    @property
    def started(self) -> int:
        """How many deliveries it ever ran."""
        return self.slots.started

    @property
    def is_consuming(self) -> bool:
        """Whether it takes from every queue: not when stopped, nor while a broker is away."""
        return self.is_at_work and not self.refused

    @property
    def is_at_work(self) -> bool:
        """Whether it takes from every queue but for the `refused`: another worker could stop."""
        return all(session.is_at_work for session in self._sessions)

    @property
    def refused(self) -> list[str]:
        """The queues that do not let it in, which it goes on trying."""
        return [queue for session in self._sessions for queue in session.refused]

    def message_at_hand(self) -> str | None:
        """What the message is called whose task has the event loop at this moment, if one has.

        To be asked in the loop's thread; a signal's handler may.
        """
        try:
            return self.slots.message_of(asyncio.current_task())
        except RuntimeError:  # the loop is not running
            return None

    async def run(
        self,
        *,
        renew: Renew | None = None,
        leave: Callable[[], None] | None = None,
        task_status: TaskStatus[None] = TASK_STATUS_IGNORED,
    ) -> None:
        """Consume until stopped; return once every delivery is settled or given back.

        ``renew`` renews leases, where the broker has any, and who gives it watches the loop:
        threads of ours do both, by default. ``leave`` ends the process at once, where that is the
        worker's to end: it is called when tasks run on in threads past their grace, after all else
        is settled. Without it, in somebody else's process, those threads are waited for.
        """
        async with self._hooks() as hooks:
            hooks.callback(self._sum_up)
            hooks.enter_context(self._client.worked_with())
            hooks.enter_context(self.slots.hosted())
            stragglers = Stragglers(len(self._sessions), leave, hooks.aclose)
            self._setup.stragglers = stragglers
            if renew is not None:
                self._setup.renew = renew
            waiting = set(self._sessions)
            most = self._config.max_waiting
            most = 10 * self.slots.size if most is None else most

            def announce(session: Session) -> None:
                if session in waiting:
                    waiting.remove(session)
                    if not waiting:
                        task_status.started()

            async def run(session: Session) -> None:
                with self.slots.hosted():
                    await session.run(partial(announce, session))
                stragglers.ended()

            async with create_task_group() as watch:
                if renew is None:
                    watch.start_soon(LoopWatch(self.slots).run)
                watch.start_soon(self._client.until_failed)
                watch.start_soon(self._setup.latches.look_after)
                watch.start_soon(self.cancellations.run)
                watch.start_soon(self.scopes.run)
                async with create_task_group() as group:
                    # What is started now can lend its slot while it waits for results.
                    lender = set_lender(Loans(self.slots, most, self._setup.quarantine))
                    place = set_place(None)  # an embedded worker belongs to no scope
                    for session in self._sessions:
                        group.start_soon(run, session)
                    lender.var.reset(lender)
                    place.var.reset(place)
                if self._burst and not self._is_told:
                    unsent = self._setup.latches.unsent
                    now = self._clock.now()
                    self._left = await what_waits(self._brokers, self._queues, now, unsent)
                watch.cancel_scope.cancel()

    def stop(self) -> None:
        """Take in nothing more; `run` returns when what is running has ended, or its grace has."""
        self._is_told = True
        self.drain.begin()
        for session in self._sessions:
            session.stop()

    def hurry(self) -> None:
        """Stop, and cancel at once what is running; it is requeued."""
        self._is_told = True
        self.drain.hurry()
        for session in self._sessions:
            session.hurry()

    def _make_sessions(self) -> list[Session]:
        executor = self._executor = Executor(
            tasks=self._tasks,
            codec=self._codec,
            backend=self._backend,
            config=self._config,
            clock=self._clock,
            worker=self.name,
            state=self._state,
            services=WorkerServices(
                self._backend,
                self._config.keep_result,
                self._client.follow_up,
                self.cancellations.reason_for,
            ),
            slots=self.slots,
            cancellations=self.cancellations,
            scopes=self.scopes,
        )
        lines = sum(len(queues) for queues in self._queues.values())
        latches = Latches(self._backend, self._client.send, is_eager=self._burst)
        setup = self._setup = Setup(
            worker=self.name,
            backend=self._backend,
            publish=self._client.send,
            latches=latches,
            executor=executor,
            config=self._config,
            slots=self.slots,
            quarantine=Quarantine(alone_from=self._config.max_crashes - 1),  # at their last chance
            lines=lines,
            burst=Burst(lines, self.slots, latches) if self._burst else None,
            why_asked=self.cancellations.reason_for,
        )
        return [
            Session(self._brokers[name], queues, setup) for name, queues in self._queues.items()
        ]

    def _sum_up(self) -> None:
        """Say at the end how many tasks came to which end."""
        why, left = "", f"; {self._left}" if self._left else ""
        if self._burst and not self._is_told:
            why = f", for {'nothing is due in its queues' if left else 'its queues are empty'}"
        counts = self._executor.task_log.summary(self.started, self.slots.running)
        log.info("worker %s ended%s: %s%s", self.name, why, counts, left)

    @asynccontextmanager
    async def _hooks(self) -> AsyncGenerator[AsyncExitStack]:
        """Run the start-up hooks, and on the way out the shutdown hooks of what was started."""
        async with AsyncExitStack() as stack:
            stack.callback(self.drain.end)
            for hook in reversed(self._shutdown):
                stack.push_async_callback(self._shut_down, hook)  # all of them, also if one fails
            for hook in self._startup:
                self.drain.phase = f"the start-up hook {_name_of(hook)}"
                await _call(hook, self._state)
            self.drain.phase = ""
            yield stack

    async def _shut_down(self, hook: Hook) -> None:
        # Shielded: a worker that is cancelled still closes what it opened. Bounded: it must end.
        self.drain.phase = f"the shutdown hook {_name_of(hook)}"
        with anyio.move_on_after(self._config.grace, shield=True):
            await _call(hook, self._state)


async def _call(hook: Hook, state: dict[str, Any]) -> None:
    answer = hook(state)
    if answer is not None:
        await answer


def _name_of(hook: Hook) -> str:
    return getattr(hook, "__qualname__", None) or repr(hook)
