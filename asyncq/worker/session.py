"""A session: one broker's part of a worker. A lease, a consumer for each queue, and upkeep.

broker ──▶ consumer (one per queue) ──▶ pool ──▶ executor ──▶ completer ──▶ broker
                                                                            backend

Sessions share the worker's slots and its quarantine, and nothing else: when one loses its broker or
its lease, what runs in the others goes on.
"""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Iterable, Sequence
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
from asyncq.language.marks import Mark
from asyncq.language.policies import Retry
from asyncq.loggers import get_logger
from asyncq.outages import Outage
from asyncq.seams.backend import Backend
from asyncq.seams.broker import (
    Broker,
    Completion,
    Consumer,
    Delivery,
    Lease,
    Leased,
    Nack,
    QueueSpec,
)
from asyncq.seams.quarantine import Quarantine
from asyncq.worker.burst import Burst
from asyncq.worker.completer import Completer
from asyncq.worker.drain import Stragglers
from asyncq.worker.executor import Executor
from asyncq.worker.fetcher import Fetcher
from asyncq.worker.latches import Latches
from asyncq.worker.leases import Renew, renew_lease, sweep
from asyncq.worker.pool import Pool, Slots
from asyncq.worker.releases import Publish

log = get_logger(__name__)

PAUSE = Retry(times=0, base=0.2, ceiling=30.0, jitter=False)  # after leases without use
STEADY = 10.0  # seconds; a lease that lasted so long was of use, also if nothing was to do

Announce = Callable[[], None]

TO_THE_BROKER = 0.85  # of the lease; in the rest, others look who has died: 15 s is 15 s in all


class Setup(msgspec.Struct, kw_only=True):
    """What the sessions of a worker have in common."""

    worker: str
    backend: Backend
    publish: Publish
    latches: Latches
    executor: Executor
    config: Config
    slots: Slots
    quarantine: Quarantine
    lines: int
    """How many queues the worker consumes, of all brokers."""
    burst: Burst | None
    why_asked: Callable[[str], str | None]
    """As `Cancellations.reason_for` says."""
    leases: int = 0
    """How many the worker has had."""
    renew: Renew = renew_lease
    stragglers: Stragglers | None = None
    """Of a worker that runs."""


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
        self._fetchers: Sequence[Fetcher] = ()  # while some of the queues can be consumed
        self._renewing = anyio.CancelScope()
        self._has_consumed = False
        worker = f"worker {setup.worker}"
        self._outage = Outage(f"{worker} cannot consume", f"{worker} consumes again")
        self._completers: Collection[Completer] = ()  # of this lease, or the last one

    @property
    def is_at_work(self) -> bool:
        """Whether it does what it can: it takes from each of its queues but for the `refused`."""
        if self._stopped.is_set():
            return False
        fetchers = self._fetchers
        is_away = any(fetcher.is_interrupted and not fetcher.is_refused for fetcher in fetchers)
        return bool(self.refused or fetchers) and not is_away

    @property
    def refused(self) -> Sequence[str]:
        """Its queues that it was not let into, as somebody else has them or they are declared
        otherwise, and which it tries again; none before all of them were tried."""
        if not self._fetchers:
            return self._queues if isinstance(self._outage.error, QueueUnavailable) else ()
        return [fetcher.queue for fetcher in self._fetchers if fetcher.is_refused]

    async def run(self, announce: Announce) -> None:
        """Consume until stopped, and say when that begins; return once all is settled."""
        worker = self._setup.worker
        in_vain = 0
        while True:
            began, self._completers, pause = current_time(), (), 0.0
            try:
                await self._serve(announce)
            except* LeaseLost:
                # One loss is followed by a new lease at once. Whatever ends one lease after the
                # other before anything is settled must not make tasks run as often as it likes.
                settled = any(completer.settled for completer in self._completers)
                is_of_use = settled or current_time() - began >= STEADY
                in_vain = 0 if is_of_use else in_vain + 1
                pause = PAUSE.pause(in_vain) if in_vain > 1 else pause
                later = f" in {pause:.1f} s" if in_vain > 1 else ""
                log.warning("worker %s lost its lease: restarting under a new one%s", worker, later)
            except* (BrokerUnavailable, ConfigurationError) as errors:
                pause = self._pause_after(first_error(errors))
            else:
                return
            if self._stopped.is_set():
                return
            with anyio.move_on_after(pause):
                await self._stopped.wait()

    def _pause_after(self, error: BaseException) -> float:
        """Seconds until it is tried again. Raises the error where that would be in vain.

        A set-up that is wrong ends a worker that begins. What was right once may become so again:
        a password that was changed, a user who was deleted.
        """
        is_wrong = isinstance(error, ConfigurationError)
        if is_wrong and (not self._has_consumed or self._setup.burst is not None):
            raise error
        return self._outage.fail(error)

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

    async def _serve(self, announce: Announce) -> None:
        """One incarnation: consume under one lease until stopped, or until the lease is lost.

        The blocks close from the inside out, and that is the shutdown: nothing more comes in, what
        runs ends, its ends are settled, what kept it alive goes last.
        """
        setup, config = self._setup, self._setup.config
        setup.leases += 1
        # In the log, too: who looks for one finds the other.
        name = f"{setup.worker}-{setup.leases}"
        lease = Lease(name, config.lease * TO_THE_BROKER, setup.quarantine)
        unified = self._broker.store == setup.backend.store
        completers: dict[str, Completer] = {}
        self._completers = completers.values()
        entered: list[str] = []  # queues; read by the sweeper as it grows
        async with AsyncExitStack() as stack:

            async def enter(queue: str) -> Consumer:
                most = config.concurrency
                spec = QueueSpec(queue, min(setup.slots.bounds.get(queue, most), most))
                consumer = await stack.enter_async_context(self._broker.consume(spec, lease))
                entered.append(queue)
                self._renewing.cancel()  # the lease is to be renewed in this queue, too
                return consumer

            def give_back(delivery: Delivery) -> None:
                completers[delivery.envelope.queue].add(Completion(Nack(delivery)))

            def end_left(delivery: Delivery, mark: Mark) -> None:
                completers[delivery.envelope.queue].add(setup.executor.cancelled(delivery, mark))

            fetchers = [self._make_fetcher(queue, enter) for queue in self._queues]
            await _enter_all(fetchers)
            self._outage.end()
            pool = self._pool = Pool(
                setup.slots, give_back=give_back, complete=end_left,
                why_asked=setup.why_asked, lease=lease,
            )  # fmt: skip
            async with create_task_group() as upkeep:
                upkeep.start_soon(_until_lost, lease)
                if (leased := self._broker.offers.leases) is not None:
                    await upkeep.start(self._renew, leased, lease, entered)
                    await upkeep.start(sweep, leased, entered, lease)
                async with self._completing(completers, lease, unified=unified) as complete:
                    try:
                        await self._fetch(fetchers, pool, complete, announce)
                        await _take_no_more(each.consumer for each in fetchers if each.is_entered)
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

    async def _renew(
        self, broker: Leased, lease: Lease, queues: list[str], *, task_status: TaskStatus[None]
    ) -> None:
        """Renew the lease in the queues that are entered; begins anew when they become more."""
        renew, config = self._setup.renew, self._setup.config
        while True:
            with anyio.CancelScope() as self._renewing:
                await renew(broker, lease, list(queues), config, task_status=task_status)
            task_status = anyio.TASK_STATUS_IGNORED

    def _make_fetcher(self, queue: str, enter: Callable[[str], Awaitable[Consumer]]) -> Fetcher:
        setup, burst = self._setup, self._setup.burst
        return Fetcher(
            queue,
            enter,
            setup.slots,
            setup.executor,
            lines=setup.lines,
            is_over=None if burst is None else partial(burst.is_over, (self, queue)),
            may_wait=lambda: any(not each.is_interrupted for each in self._fetchers),
        )

    async def _fetch(
        self,
        fetchers: Sequence[Fetcher],
        pool: Pool,
        complete: Callable[[str, Consumer], Completer],
        announce: Announce,
    ) -> None:
        """Consume until stopped, or in a burst until the queues are empty."""
        self._fetchers = fetchers
        try:
            with self._fetching:
                async with create_task_group() as group:
                    for fetcher in fetchers:
                        group.start_soon(fetcher.run, pool, complete)
                    entered = ", ".join(each.queue for each in fetchers if each.is_entered)
                    log.info("worker %s consumes %s", self._setup.worker, entered)
                    self._has_consumed = True
                    announce()
        finally:
            self._fetchers = ()

    @asynccontextmanager
    async def _completing(
        self, completers: dict[str, Completer], lease: Lease, *, unified: bool
    ) -> AsyncGenerator[Callable[[str, Consumer], Completer]]:
        """What begins a completer for a consumer; each ends when what the block left is settled."""
        setup = self._setup
        async with create_task_group() as group:

            def complete(queue: str, consumer: Consumer) -> Completer:
                completer = completers[queue] = Completer(
                    consumer, setup.backend, lease, setup.publish, setup.latches,
                    unified=unified, room=setup.config.concurrency,
                )  # fmt: skip
                if not completer.is_unified:
                    setup.executor.apart.add(queue)
                if setup.burst is not None:
                    setup.burst.completers.append(completer)
                group.start_soon(completer.run)
                return completer

            try:
                yield complete
            finally:
                for completer in completers.values():
                    completer.close()


async def _enter_all(fetchers: Sequence[Fetcher]) -> None:
    """Enter what can be entered; of the others the log says why.

    Raises:
        BrokerUnavailable: the broker is away; or none can be entered, and one may be later.
        ConfigurationError: none can be entered, and only a change mends it.
        LeaseLost: as `Consumer.receive`.
    """
    barred: list[tuple[Fetcher, ConfigurationError | QueueUnavailable]] = []
    for fetcher in fetchers:
        try:
            await fetcher.enter()
        except (ConfigurationError, QueueUnavailable) as error:
            barred.append((fetcher, error))
    if barred and len(barred) == len(fetchers):
        raise min((e for _, e in barred), key=lambda error: isinstance(error, ConfigurationError))
    for fetcher, error in barred:
        fetcher.fail(error)


async def _take_no_more(consumers: Iterable[Consumer]) -> None:
    """Leave to others at once what was pushed to us and does not run: a drain may take long."""

    async def leave(take_no_more: Callable[[], Awaitable[None]]) -> None:
        with suppress(BrokerUnavailable):  # then it is given back as we leave
            await take_no_more()

    async with create_task_group() as group:
        for consumer in consumers:
            if (take_no_more := consumer.offers.take_no_more) is not None:
                group.start_soon(leave, take_no_more)


async def _until_lost(lease: Lease) -> None:
    """Raise `LeaseLost` once somebody says that the lease has ended."""
    loop, lost = asyncio.get_running_loop(), asyncio.Event()

    def tell() -> None:
        with suppress(RuntimeError):  # the loop ended before it heard
            loop.call_soon_threadsafe(lost.set)

    lease.watch(tell)
    await lost.wait()
    raise LeaseLost(lease.incarnation, lease.why_lost)
