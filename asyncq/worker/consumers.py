"""A session's consumers, each of which is entered by itself.

A queue that cannot be consumed (it was declared otherwise, rights are missing, somebody else has it
for himself) is tried again until it can be, and stops none of the others.
"""

from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack

import anyio

from asyncq.errors import BrokerUnavailable, ConfigurationError, QueueUnavailable
from asyncq.language.policies import Retry
from asyncq.loggers import get_logger
from asyncq.seams.broker import Broker, Consumer, Lease, QueueSpec

log = get_logger(__name__)

PAUSE = Retry(times=0, base=0.5, ceiling=15.0)  # between two attempts at one queue

IsOver = Callable[[], Awaitable[bool]]


class Consumers:
    """Consumers of some queues, under one lease. What ``stack`` closes, leaves them."""

    def __init__(
        self, broker: Broker, lease: Lease, most: Callable[[str], int], stack: AsyncExitStack
    ) -> None:
        self._broker = broker
        self._lease = lease
        self._most = most
        """How many deliveries of a queue run at a time."""
        self._stack = stack
        self.consumers: dict[str, Consumer] = {}
        self.queues: list[str] = []  # that are entered; read by the sweeper as it grows

    async def open(self, queues: Sequence[str]) -> None:
        """Enter what can be entered; of the others the log says why.

        Raises:
            BrokerUnavailable: the broker is away; or none can be entered, and one may be later.
            ConfigurationError: none can be entered, and only a change mends it.
            LeaseLost: as `Consumer.receive`.
        """
        barred: dict[str, ConfigurationError | QueueUnavailable] = {}
        for queue in queues:
            try:
                await self._enter(queue)
            except (ConfigurationError, QueueUnavailable) as error:
                barred[queue] = error
        if barred and not self.consumers:
            raise min(barred.values(), key=lambda error: isinstance(error, ConfigurationError))
        for queue, error in barred.items():
            log.error("queue %s is not consumed, trying again: %s", queue, error)

    async def enter_later(self, queue: str, is_over: IsOver | None) -> Consumer | None:
        """Try until it is entered; None when a burst is over before that.

        Raises as `open`, but for what is wrong with this queue.
        """
        began, attempts = anyio.current_time(), 0
        while True:
            attempts += 1
            if is_over is None:
                await anyio.sleep(PAUSE.pause(attempts))
            elif await is_over():  # nothing can be had from this one
                return None
            try:
                consumer = await self._enter(queue)
            except (ConfigurationError, BrokerUnavailable) as error:
                log.debug("queue %s is still not consumed: %s", queue, error)
                continue
            waited = anyio.current_time() - began
            log.warning("queue %s is consumed now, after %.1f s", queue, waited)
            return consumer

    async def _enter(self, queue: str) -> Consumer:
        consumer = await self._stack.enter_async_context(
            self._broker.consume(QueueSpec(queue, self._most(queue)), self._lease)
        )
        self.consumers[queue] = consumer
        self.queues.append(queue)
        return consumer
