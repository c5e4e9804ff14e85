"""Consuming: the coroutine that reads one queue into the pool."""

import logging

import anyio

from asyncq.brokers.base import MAX_BATCH, Consumer, Delivery
from asyncq.errors import BrokerUnavailable
from asyncq.policies import Retry
from asyncq.worker.completer import Completer
from asyncq.worker.executor import Executor
from asyncq.worker.pool import Pool

log = logging.getLogger(__name__)

RECEIVE_TIMEOUT = 15.0  # seconds; a driver gives up on its own well before
PAUSE = Retry(times=0, base=0.05, ceiling=5.0)


async def consume(
    queue: str,
    consumer: Consumer,
    pool: Pool,
    executor: Executor,
    completer: Completer,
    *,
    burst: bool,
) -> None:
    """Claim what there are slots for, until cancelled; in a burst, until the queue is empty."""
    # Half the slots at a time: while one half runs, the other half's claim and settlement are on
    # their way.
    portion = min(MAX_BATCH, max(1, (pool.size + 1) // 2))
    failures = 0
    empty_before = False
    while True:
        await completer.wait_for_room()
        await pool.wait_for_room()
        try:
            slots = pool.take(portion)
            received = await _receive(consumer, pool, executor, completer, slots)
            if received == slots:
                empty_before = False
            elif not burst:
                await consumer.wait()
            else:
                # What still runs may send more, or make room for a suspect.
                await pool.wait_until_idle()
                await completer.wait_until_settled()
                if empty_before and not received:
                    return
                empty_before = not received
        except BrokerUnavailable as error:
            if failures == 0:
                log.warning("consuming queue %s is interrupted: %s", queue, error)
            failures += 1
            await anyio.sleep(PAUSE.pause(failures))
        else:
            if failures:
                log.warning("consuming queue %s goes on", queue)
            failures = 0


async def _receive(
    consumer: Consumer, pool: Pool, executor: Executor, completer: Completer, slots: int
) -> int:
    """Claim up to ``slots`` deliveries and start them; slots without one are given back."""
    deliveries: list[Delivery] | tuple[()] = ()
    try:
        # Shielded: what the broker has handed out while we are told to stop would be ours without
        # our knowing. Bounded: then the connection is dropped, and the driver sorts it out.
        with anyio.move_on_after(RECEIVE_TIMEOUT, shield=True):
            deliveries = list(await consumer.receive(slots))
    finally:
        if len(deliveries) < slots:
            pool.give(slots - len(deliveries))
    conclude = completer.add
    for delivery in deliveries:
        pool.start(delivery, executor.run(delivery, conclude))
    return len(deliveries)
