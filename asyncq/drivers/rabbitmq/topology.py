"""Queues, exchanges and bindings of one RabbitMQ: to have them, and to count what is in them.

On our own wire, which needs each of these methods beside messages as well: aiormq, on which
aio-pika stands, would add 100 ms and 2.6 MB to the start of each process, aio-pika 150 and 3.9. Nor
for an operator alone: aiormq keeps what RabbitMQ says to itself where it may not enter a vhost, or
has one connection too many.
"""

import asyncio
import math
import time
from typing import Any

import pamqp.commands as amqp

from asyncq.drivers.rabbitmq import names
from asyncq.drivers.rabbitmq.connection import NOT_FOUND, AmqpSettings, Connector
from asyncq.drivers.rabbitmq.refusals import ACCESS_REFUSED, AccessRefused, is_at_limit
from asyncq.drivers.rabbitmq.wire import ChannelClosed
from asyncq.errors import ConfigurationError, QueueUnavailable
from asyncq.language.topology import Queue
from asyncq.loggers import get_logger
from asyncq.seams.dead import DeadLimits

RESOURCE_LOCKED, PRECONDITION_FAILED = 405, 406  # AMQP's reply codes
CONFIGURES = {(40, 10), (50, 10)}  # Exchange.Declare, Queue.Declare
COUNT_EVERY = 60.0  # seconds between two looks at how many dead letters a queue has

log = get_logger(__name__)


class DeclaredOtherwise(ConfigurationError):
    """There is a queue or an exchange of this name, made differently."""


class Topology:
    """What is there, and what is known to be."""

    def __init__(self, settings: AmqpSettings, connector: Connector, limits: DeadLimits) -> None:
        self._settings = settings
        self._connector = connector
        self._limits = limits
        self._next_count: dict[str, float] = {}  # of dead letters, by queue: when
        self._call = connector.call
        self.declared: set[str] = set()
        self.specs: dict[str, Queue] = {}
        """Queues that the app declares; any other is a quorum queue without bounds."""
        self.levels = 0
        """How many of the delay levels are there."""
        self._turn = asyncio.Lock()

    def forget_declared(self) -> None:
        """Another server is in use."""
        self.declared.clear()
        self.levels = 0

    async def declare(self, queue: str, *, anew: bool = False) -> None:
        """Have a queue, with its suspects and dead letters.

        Raises:
            BrokerUnavailable: no answer; call again.
            DeclaredOtherwise: there is another queue of this name, made differently.
            AccessRefused: the user may not, and not all of it is there.
            QueueUnavailable: it is the exclusive queue of another connection, or one too many.
        """
        if queue in self.declared and not anew:
            return
        spec = self.specs.get(queue) or Queue(queue)
        try:
            await self._declare_dead(queue)
            await self._call(*names.queue_methods(spec), *names.binding_methods(spec))
        except ChannelClosed as error:
            if error.code == ACCESS_REFUSED and error.method in CONFIGURES:
                all_of_it = (queue, names.suspects(queue), names.dead(queue))
                await self._find(
                    error, *(amqp.Queue.Declare(queue=each, passive=True) for each in all_of_it)
                )
                await self._warn_of_the_doomed(queue)
                self.declared.add(queue)
                return
            if error.code == RESOURCE_LOCKED:
                raise QueueUnavailable(
                    queue,
                    f"queue {queue} in {self._settings.url!r} belongs to another connection, which "
                    f"declared it exclusive: end that one, or take another name ({error})",
                ) from error
            if is_at_limit(error):  # others, that are there, can be used all the same
                no = f"queue {queue} cannot be made: {self._connector.gone(error)}"
                raise QueueUnavailable(queue, no) from error
            if error.code != PRECONDITION_FAILED:
                raise self._connector.gone(error) from error
            raise DeclaredOtherwise(
                f"queue {queue} in {self._settings.url!r}, or an exchange of it, was made "
                f"otherwise than asyncq would: {error}. Delete it there, or declare it alike in "
                "App(queues=…)"
            ) from error
        self.declared.add(queue)

    async def _warn_of_the_doomed(self, queue: str) -> None:
        """Say so if others made this queue as older versions did, and we may not add to it."""
        doomed = amqp.Exchange.Declare(exchange=names.doomed(queue), passive=True)
        if await self._connector.find(doomed) is None:
            log.warning(
                "workflows are not told of what RabbitMQ buries in queue %s: it has no exchange "
                "%r, which older versions did not make; have it made by who may configure",
                queue,
                names.doomed(queue),
            )

    async def _find(self, refused: ChannelClosed, *passive: Any) -> None:
        """See that what we may not make was made by others: then it can be used all the same.

        Raises:
            AccessRefused: something is missing; says what, and which right it takes to make it.
        """
        try:
            await self._call(*passive)
        except ChannelClosed as error:
            right = self._connector.gone(refused)
            if error.code != NOT_FOUND or not isinstance(right, AccessRefused):
                raise self._connector.gone(error) from error
            raise right.with_missing(error) from error

    async def _declare_dead(self, queue: str) -> None:
        """Have a place for its dead letters. One that is there with other bounds keeps them.

        Raises:
            ChannelClosed: RabbitMQ says no.
        """
        try:
            await self._call(names.dead_method(queue, self._limits))
        except ChannelClosed as error:
            if error.code != PRECONDITION_FAILED or is_at_limit(error):
                raise
            if queue not in self.declared:
                log.warning(
                    "queue %s keeps its bounds, which are not those of this app: set them by a "
                    "policy, or delete it, so that it is made anew (%s)",
                    names.dead(queue),
                    error,
                )
            self._next_count[queue] = math.inf

    async def count_dead(self, queue: str) -> None:
        """See now and then whether dead letters give way: RabbitMQ lets them go without a word."""
        now = time.monotonic()
        if now < self._next_count.get(queue, 0.0):
            return
        self._next_count[queue] = now + COUNT_EVERY
        if (await self.count(names.dead(queue)) or 0) >= self._limits.most:
            self._limits.note(queue, 1)

    async def declare_levels(self, highest: int) -> None:
        """Have the delay levels up to this one. Raises as `declare`."""
        async with self._turn:
            if self.levels > highest:
                return
            try:
                await self._call(*names.level_methods(self.levels, highest))
            except ChannelClosed as error:
                if error.code != ACCESS_REFUSED or error.method not in CONFIGURES:
                    raise self._connector.gone(error) from error
                # Whoever made the highest has made those below it before.
                there = amqp.Exchange.Declare(exchange=names.level(highest), passive=True)
                await self._find(error, there)
            self.levels = highest + 1

    async def difference(self, queue: str) -> str | None:
        """How a queue that is there differs from what we would declare; None if it does not.

        RabbitMQ names the first argument of several.
        """
        if queue in self.declared or await self.count(queue) is None:
            return None
        try:
            await self._call(names.main_method(self.specs.get(queue) or Queue(queue)))
        except ChannelClosed as error:
            other = error.code == PRECONDITION_FAILED and not is_at_limit(error)
            return str(error) if other else None
        return None

    async def count(self, queue: str) -> int | None:
        """How many messages are ready in a queue; None if there is no such queue."""
        found = await self._connector.find(amqp.Queue.Declare(queue=queue, passive=True))
        return None if found is None else found.message_count

    async def purge(self, queue: str) -> int:
        """Remove what is ready in a queue; returns how much it was."""
        purged = await self._connector.find(amqp.Queue.Purge(queue=queue))
        return 0 if purged is None else purged.message_count
