"""A session: one broker's part of a worker. A lease, a consumer for each queue, and upkeep.

broker ──▶ consumer (one per queue) ──▶ pool ──▶ executor ──▶ completer ──▶ broker
                                                                            backend

Sessions share the worker's slots and its quarantine, and nothing else: when one loses its broker or
its lease, what runs in the others goes on.
"""

import asyncio
from collections.abc import (
    AsyncGenerator,
    Awaitable,
    Callable,
    Collection,
    Iterable,
    Sequence,
)
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from functools import partial

import anyio
import msgspec
from anyio import create_task_group, current_time
from anyio.abc import TaskStatus

from asyncq.config import Config
from asyncq.errors import (
    BrokerUnavailable,
    ConfigurationError,
    LeaseLost,
    QueueUnavailable,
    first_error,
)
from asyncq.language.policies import Retry
from asyncq.loggers import get_logger
from asyncq.seams.backend import Backend
from asyncq.seams.broker import (
    Broker,
    Completion,
    Consumer,
    Delivery,
    Lease,
    Leased,
    Nack,
    PushedConsumer,
)
from asyncq.seams.quarantine import Quarantine
from asyncq.worker.burst import Burst
from asyncq.worker.completer import Completer
from asyncq.worker.consumers import Consumers
from asyncq.worker.executor import Executor
from asyncq.worker.fetcher import Fetcher
from asyncq.worker.leases import LeaseRenewal, MakeRenewal
from asyncq.worker.pool import Pool, Slots
from asyncq.worker.stragglers import Stragglers
from asyncq.worker.sweeper import Sweeper

log = get_logger(__name__)

PAUSE = Retry(times=0, base=0.1, ceiling=1.0)  # while a broker is away
PAUSE_OF_WRONG = Retry(times=0, base=0.5, ceiling=15.0)  # while only a change would help
PAUSE_OF_VAIN = Retry(times=0, base=0.2, ceiling=30.0, jitter=False)  # after leases without use
STEADY = 10.0  # seconds; a lease that lasted so long was of use, also if nothing was to do

Announce = Callable[[], None]

TO_THE_BROKER = 0.85  # of the lease; in the rest, others look who has died: 15 s is 15 s in all


class Setup(msgspec.Struct, kw_only=True):
    """What the sessions of a worker have in common."""

    worker: str
    backend: Backend
    executor: Executor
    config: Config
    slots: Slots
    quarantine: Quarantine
    lines: int
    """How many queues the worker consumes, of all brokers."""
    burst: Burst | None
    leases: int = 0
    """How many the worker has had."""
    stragglers: Stragglers | None = None
    """Of a worker that runs."""

    def most(self, queue: str) -> int:
        """How many deliveries of this queue run at a time."""
        line = self.slots.bounds.get(queue)
        return self.config.concurrency if line is None else min(line, self.config.concurrency)


class Session:
    """Consumes some queues of one broker until stopped."""

    def __init__(self, broker: Broker, queues: Sequence[str], setup: Setup) -> None:
        self._broker = broker
        self._queues = tuple(queues)
        self._setup = setup
        self._fetching = anyio.CancelScope()
        self._pool: Pool | None = None
        self._stopped = anyio.Event()
        self._hurrying = False
        self._fetchers: dict[str, Fetcher] = {}  # of the queues that are entered
        self._is_refused = False  # by all of its queues, as it last tried
        self._renewing = anyio.CancelScope()
        self._has_consumed = False
        self._reason: BaseException | None = None  # why it could not, the last time
        self._completers: Collection[Completer] = ()  # of this lease, or the last one

    @property
    def is_consuming(self) -> bool:
        """Whether it takes from each of its queues."""
        if len(self._fetchers) < len(self._queues) or self._stopped.is_set():
            return False
        return not any(fetcher.is_interrupted for fetcher in self._fetchers.values())

    @property
    def is_at_work(self) -> bool:
        """Whether it does what it can: it takes from each of its queues but for the `refused`."""
        if self._stopped.is_set():
            return False
        fetchers = self._fetchers.values()
        is_away = any(fetcher.is_interrupted and not fetcher.is_refused for fetcher in fetchers)
        return bool(self.refused or fetchers) and not is_away

    @property
    def refused(self) -> Sequence[str]:
        """Its queues that it was not let into, as somebody else has them or they are declared
        otherwise, and which it tries again; none before all of them were tried."""
        if not self._fetchers:
            return self._queues if self._is_refused else ()
        return [
            queue
            for queue in self._queues
            if (fetcher := self._fetchers.get(queue)) is None or fetcher.is_refused
        ]

    async def run(self, announce: Announce, make_renewal: MakeRenewal | None = None) -> None:
        """Consume until stopped, and say when that begins; return once all is settled."""
        worker = self._setup.worker
        failures, in_vain, ended = 0, 0, False
        while not ended:
            began, self._completers, pause = current_time(), (), PAUSE.pause(0)
            try:
                await self._serve(announce, make_renewal)
                ended = True
            except* LeaseLost:
                # One loss is followed by a new lease at once. Whatever ends one lease after the
                # other before anything is settled must not make tasks run as often as it likes.
                failures, in_vain = 0, 0 if self._was_of_use(began) else in_vain + 1
                pause = PAUSE_OF_VAIN.pause(in_vain) if in_vain > 1 else pause
                later = f" in {pause:.1f} s" if in_vain > 1 else ""
                log.warning("worker %s lost its lease: restarting under a new one%s", worker, later)
            except* (BrokerUnavailable, ConfigurationError) as errors:
                failures += 1
                pause = self._pause_after(first_error(errors), failures)
                self._is_refused = isinstance(first_error(errors), QueueUnavailable)
            if self._stopped.is_set():
                return
            if not ended:
                with anyio.move_on_after(pause):
                    await self._stopped.wait()

    def _pause_after(self, error: BaseException, failures: int) -> float:
        """Seconds until it is tried again. Raises the error where that would be in vain.

        A set-up that is wrong ends a worker that begins. What was right once may become so again:
        a password that was changed, a user who was deleted.
        """
        is_wrong = isinstance(error, ConfigurationError)
        if is_wrong and (not self._has_consumed or self._setup.burst is not None):
            raise error
        if failures == 1 or type(error) is not type(self._reason):
            log.warning("worker %s cannot consume: %s; trying again", self._setup.worker, error)
        self._reason = error
        return (PAUSE_OF_WRONG if is_wrong else PAUSE).pause(failures)

    def stop(self) -> None:
        """Take in nothing more; `run` returns when what is running has ended, or its grace has."""
        self._stopped.set()
        self._fetching.cancel()

    def hurry(self) -> None:
        """Stop, and cancel at once what is running; it is given back."""
        self.stop()
        self._hurrying = True
        if self._pool is not None:
            self._pool.hurry()

    async def _serve(self, announce: Announce, make_renewal: MakeRenewal | None) -> None:
        """One incarnation: consume under one lease until stopped, or until the lease is lost.

        The blocks close from the inside out, and that is the shutdown: nothing more comes in, what
        runs ends, its ends are settled, what kept it alive goes last.
        """
        setup, config = self._setup, self._setup.config
        setup.leases += 1
        name = (
            f"{setup.worker}-{setup.leases}"  # in the log, too: who looks for one finds the other
        )
        lease = Lease(name, config.lease * TO_THE_BROKER, setup.quarantine)
        unified = self._broker.store == setup.backend.store
        async with AsyncExitStack() as stack:
            consumers = Consumers(self._broker, lease, setup.most, stack)
            await consumers.open(self._queues)
            self._is_refused = False
            completers: dict[str, Completer] = {}
            self._completers = completers.values()

            def give_back(delivery: Delivery) -> None:
                completers[delivery.envelope.queue].add(Completion(Nack(delivery)))

            pool = self._pool = Pool(setup.slots, give_back=give_back, lease=lease)
            async with create_task_group() as upkeep:
                upkeep.start_soon(_until_lost, lease)
                if isinstance(self._broker, Leased):
                    await upkeep.start(
                        self._renew, self._broker, lease, make_renewal, consumers.queues
                    )
                    await upkeep.start(Sweeper(self._broker, consumers.queues, lease).run)
                async with self._completing(completers, lease, unified=unified) as complete:
                    try:
                        lines = partial(self._line, pool, complete)
                        await self._fetch(consumers, lines, announce)
                        await _take_no_more(consumers.consumers.values())
                    except* LeaseLost:
                        lease.lose("its broker says so")
                        raise
                    finally:
                        at_once = self._hurrying or lease.lost  # then it belongs to others
                        try:
                            await pool.close(0.0 if at_once else config.grace)
                            if pool.running and not lease.lost and setup.stragglers is not None:
                                await setup.stragglers.part(pool, completers.values(), give_back)
                        finally:
                            await pool.abandon()
                upkeep.cancel_scope.cancel()

    def _was_of_use(self, began: float) -> bool:
        """Whether the lease that has ended served for anything."""
        settled = any(completer.settled for completer in self._completers)
        return settled or current_time() - began >= STEADY

    def _end_of_burst(self, queue: str) -> Callable[[], Awaitable[bool]] | None:
        burst = self._setup.burst
        return None if burst is None else partial(burst.is_over, (self, queue))

    async def _renew(
        self,
        broker: Leased,
        lease: Lease,
        make_renewal: MakeRenewal | None,
        queues: list[str],
        *,
        task_status: TaskStatus[None],
    ) -> None:
        """Renew the lease in the queues that are entered; begins anew when they become more."""
        while True:
            with anyio.CancelScope() as self._renewing:
                renewal = (make_renewal or LeaseRenewal)(
                    broker, lease, list(queues), self._setup.config
                )
                await renewal.run(task_status=task_status)
            task_status = anyio.TASK_STATUS_IGNORED

    def _line(
        self, pool: Pool, complete: Callable[[str, Consumer], Completer], queue: str, of: Consumer
    ) -> Fetcher:
        """A consumer's way into the pool, and out of it."""
        setup = self._setup
        fetcher = self._fetchers[queue] = Fetcher(
            queue,
            of,
            pool,
            setup.executor,
            complete(queue, of),
            lines=setup.lines,
            is_over=self._end_of_burst(queue),
            may_wait=self._is_one_well,
        )
        return fetcher

    async def _fetch(
        self, consumers: Consumers, line: Callable[[str, Consumer], Fetcher], announce: Announce
    ) -> None:
        """Consume until stopped, or in a burst until the queues are empty."""
        try:
            with self._fetching:
                async with create_task_group() as group:
                    for queue, consumer in consumers.consumers.items():
                        group.start_soon(line(queue, consumer).run)
                    log.info("worker %s consumes %s", self._setup.worker, ", ".join(self._fetchers))
                    for queue in self._queues:
                        if queue not in self._fetchers:
                            group.start_soon(self._join, queue, consumers, line)
                    self._has_consumed = True
                    announce()
        finally:
            self._fetchers.clear()

    async def _join(
        self, queue: str, consumers: Consumers, line: Callable[[str, Consumer], Fetcher]
    ) -> None:
        """Consume a queue as soon as it can be."""
        consumer = await consumers.enter_later(queue, self._end_of_burst(queue))
        if consumer is not None:
            self._renewing.cancel()
            await line(queue, consumer).run()

    def _is_one_well(self) -> bool:
        """Whether one of the queues can be consumed."""
        return any(not fetcher.is_interrupted for fetcher in self._fetchers.values())

    @asynccontextmanager
    async def _completing(
        self, completers: dict[str, Completer], lease: Lease, *, unified: bool
    ) -> AsyncGenerator[Callable[[str, Consumer], Completer]]:
        """What begins a completer for a consumer; each ends when what the block left is settled."""
        setup = self._setup
        async with create_task_group() as group:

            def complete(queue: str, consumer: Consumer) -> Completer:
                completer = completers[queue] = Completer(
                    consumer, setup.backend, lease, unified=unified, room=setup.config.concurrency
                )
                if not completer.is_unified:
                    setup.executor.apart.add(queue)
                group.start_soon(completer.run)
                return completer

            try:
                yield complete
            finally:
                for completer in completers.values():
                    completer.close()


async def _take_no_more(consumers: Iterable[Consumer]) -> None:
    """Leave to others at once what was pushed to us and does not run: a drain may take long."""
    for consumer in consumers:
        if isinstance(consumer, PushedConsumer):
            with suppress(BrokerUnavailable):  # then it is given back as we leave
                await consumer.take_no_more()


async def _until_lost(lease: Lease) -> None:
    """Raise `LeaseLost` once somebody says that the lease has ended."""
    loop, lost = asyncio.get_running_loop(), asyncio.Event()

    def tell() -> None:
        with suppress(RuntimeError):  # the loop ended before it heard
            loop.call_soon_threadsafe(lost.set)

    lease.watch(tell)
    await lost.wait()
    raise LeaseLost(lease.incarnation, lease.why_lost)
