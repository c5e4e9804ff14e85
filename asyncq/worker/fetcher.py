"""The fetcher: what reads one queue into the pool.

A queue that cannot be consumed (it was declared otherwise, rights are missing, somebody else has it
for himself) is tried again until it can be, and stops none of the others.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence

import anyio

from asyncq.errors import BrokerUnavailable, ConfigurationError, QueueUnavailable
from asyncq.outages import Outage
from asyncq.seams.broker import MAX_BATCH, Consumer, Delivery
from asyncq.worker.completer import Completer
from asyncq.worker.executor import Executor
from asyncq.worker.pool import Pool, Slots

RECEIVE_TIMEOUT = 15.0  # seconds; a driver gives up on its own well before
TURNS_TO_SETTLE = 2  # of the loop: a short task's run, and its completer's, which writes at once
LOOK = 0.1  # seconds between two looks of a burst for what its tasks wait for


class Fetcher:
    """One queue's way into the pool."""

    def __init__(
        self,
        queue: str,
        enter: Callable[[str], Awaitable[Consumer]],
        slots: Slots,
        executor: Executor,
        *,
        lines: int,
        is_over: Callable[[], Awaitable[bool]] | None = None,
        may_wait: Callable[[], bool],
    ) -> None:
        self.queue = queue
        self.is_entered = False
        self.consumer: Consumer  # once it is
        self._enter = enter
        self._wait_and_receive: Callable[[int], Awaitable[Sequence[Delivery]]] | None = None
        self._slots = slots
        self._pool: Pool
        self._executor = executor
        self._completer: Completer
        self._lines = lines
        """How many consumers share the pool."""
        self._is_over = is_over
        """Of a burst: asked whenever nothing was found and nothing runs."""
        self._may_wait = may_wait
        """Whether another queue is consumed while this one cannot be; else a burst ends."""
        self._outage = Outage(f"queue {queue} is not consumed", f"queue {queue} is consumed again")
        self._pause = 0.0  # seconds until it is tried again
        # Half the slots at a time: while one half runs, the other half's claim and settlement are
        # on their way.
        self._portion = min(MAX_BATCH, max(1, (slots.size + 1) // 2))
        self._line = slots.lines.get(queue)

    @property
    def is_interrupted(self) -> bool:
        """The broker is away, or does not let us consume this queue."""
        return self._outage.error is not None

    @property
    def is_refused(self) -> bool:
        """The broker answers, and does not let us consume this queue."""
        return isinstance(self._outage.error, ConfigurationError | QueueUnavailable)

    async def enter(self) -> None:
        """
        Raises:
            BrokerUnavailable: the broker is away, or this queue cannot be entered just now.
            ConfigurationError: it cannot be entered, and only a change mends that.
            LeaseLost: as `Consumer.receive`.
        """
        self.consumer = consumer = await self._enter(self.queue)
        self._wait_and_receive = consumer.offers.wait_and_receive
        self.is_entered = True

    def fail(self, error: BrokerUnavailable | ConfigurationError) -> None:
        """The queue cannot be consumed for now, as the log says."""
        self._pause = self._outage.fail(error)

    async def run(self, pool: Pool, complete: Callable[[str, Consumer], Completer]) -> None:
        """Claim what there are slots for, until cancelled; in a burst, until nothing is left.

        ``complete`` begins the completer of what is claimed.
        """
        while not self.is_entered:
            if self._is_over is None:
                await anyio.sleep(self._pause)
            elif await self._is_over():  # nothing can be had from this one
                return
            try:
                await self.enter()
            except (BrokerUnavailable, ConfigurationError) as error:
                self.fail(error)
        self._outage.end()
        self._pool, self._completer = pool, complete(self.queue, self.consumer)
        while True:
            try:
                if await self._step():
                    return
            except (BrokerUnavailable, ConfigurationError) as error:
                # Rights or a password that were taken away, say: they come back, and until then
                # it is well for other queues.
                is_wrong = isinstance(error, ConfigurationError)
                if is_wrong and self._is_over is not None and not self._may_wait():
                    raise
                self.fail(error)
                await anyio.sleep(self._pause)

    async def _step(self) -> bool:
        """Take in all there is, then wait for more; True when a burst is over."""
        while await self._receive():
            pass
        if self._is_over is None:
            while not await self._wait():
                pass
            return False
        # What still runs may send more, or make room for a suspect.
        while not await self._pool.wait_until_idle():
            # Some of it waits for what may be in here.
            with anyio.move_on_after(LOOK):
                await self.consumer.wait()
            await self._receive()
        await self._completer.wait_until_settled()
        before = self._slots.started
        if (catch_up := self.consumer.offers.catch_up) is not None:
            await catch_up()
        await self._receive()
        return self._slots.started == before and await self._is_over()

    async def _receive(self) -> bool:
        """Claim for the slots that are free and start what comes; whether there may be more."""
        await self._completer.wait_for_room()
        await self._slots.wait_for_room(self._line)
        slots = self._slots.take(self._portion, self._line)
        deliveries: Sequence[Delivery] = ()
        try:
            # Shielded: what the broker has handed out while we are told to stop would be ours
            # without our knowing. Bounded: then the connection is dropped, and the driver sorts
            # it out.
            with anyio.move_on_after(RECEIVE_TIMEOUT, shield=True):
                deliveries = await self.consumer.receive(slots)
                if self._outage.error is not None:
                    self._outage.end()
        finally:
            self._slots.give(slots - len(deliveries), self._line)
        self._start(deliveries)
        return len(deliveries) == slots

    async def _wait(self) -> bool:
        """Wait for work; whether there may be more than what came by itself.

        A consumer that waits holds no slots that others may need: one idle queue would starve
        them. Where many are free it waits with a few in hand, and saves a round trip.
        """
        wait_and_receive = self._wait_and_receive
        slots = 0 if wait_and_receive is None else self._slots.take_spare(self._lines, self._line)
        if wait_and_receive is None or slots == 0:
            await self.consumer.wait()
            if self._outage.error is not None:
                self._outage.end()
            return True
        deliveries: Sequence[Delivery] = ()
        try:
            deliveries = await wait_and_receive(slots)
        finally:
            self._slots.give(slots - len(deliveries), self._line)
        if self._outage.error is not None:
            self._outage.end()
        self._start(deliveries)
        if deliveries:
            # What came runs and is settled first, and only then do we ask for more: on an idle
            # worker somebody waits for the answer.
            for _ in range(TURNS_TO_SETTLE):
                await asyncio.sleep(0)
        return len(deliveries) == slots

    def _start(self, deliveries: Sequence[Delivery]) -> None:
        start, run, complete = self._pool.start, self._executor.run, self._completer.add
        for delivery in deliveries:
            start(delivery, run(delivery, complete))
