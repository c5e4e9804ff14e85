"""What broker and consumers of one process share: sending, declaring, asking how much there is."""

import asyncio
import math
import time
from asyncio import timeout as deadline
from collections.abc import Sequence
from typing import Any

import msgspec
import pamqp.commands as amqp

from asyncq.clock import Clock
from asyncq.drivers.rabbitmq import names
from asyncq.drivers.rabbitmq.connection import CALL_TIMEOUT, AmqpSettings, Connector
from asyncq.drivers.rabbitmq.content import Parcel
from asyncq.drivers.rabbitmq.limits import is_at_limit
from asyncq.drivers.rabbitmq.parcels import DIED_AT, REASON, wrap
from asyncq.drivers.rabbitmq.rights import ACCESS_REFUSED, AccessRefused
from asyncq.drivers.rabbitmq.sender import Sender, Sent
from asyncq.drivers.rabbitmq.wire import Channel, ChannelClosed
from asyncq.errors import ConfigurationError, QueueUnavailable
from asyncq.language.topology import Queue
from asyncq.loggers import get_logger
from asyncq.seams.broker import Envelope, Reject
from asyncq.seams.dead import DeadLimits, pack_last
from asyncq.texts import counted

NOT_FOUND, RESOURCE_LOCKED, PRECONDITION_FAILED = 404, 405, 406  # AMQP's reply codes
CONFIGURES = {(40, 10), (50, 10)}  # Exchange.Declare, Queue.Declare
LONGEST_REASON = 2000  # characters that a header takes of it
COUNT_EVERY = 60.0  # seconds between two looks at how many dead letters a queue has

log = get_logger(__name__)


class DeclaredOtherwise(ConfigurationError):
    """There is a queue or an exchange of this name, made differently."""


class Publisher:
    """One connection that sends, and what it knows to be declared."""

    def __init__(
        self, settings: AmqpSettings, connector: Connector, clock: Clock, limits: DeadLimits
    ) -> None:
        self._settings = settings
        self._limits = limits
        self._next_count: dict[str, float] = {}  # of dead letters, by queue: when
        self._connector = connector
        self._now = clock.now
        self._sender = Sender(connector, CALL_TIMEOUT)
        self.declared: set[str] = set()
        self.specs: dict[str, Queue] = {}
        """Queues that the app declares; any other is a quorum queue without bounds."""
        self._levels = 0  # how many of the delay levels are there
        self._turn = asyncio.Lock()

    # Declaring

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
                await self._find(error, *(amqp.Queue.Declare(queue=each, passive=True)
                                          for each in names.queues_of(queue)))  # fmt: skip
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
        if await self.count(names.dead(queue)) >= self._limits.most:
            self._limits.note(queue, 1)

    async def _declare_levels(self, highest: int) -> None:
        async with self._turn:
            if self._levels > highest:
                return
            try:
                await self._call(*names.level_methods(self._levels, highest))
            except ChannelClosed as error:
                if error.code != ACCESS_REFUSED or error.method not in CONFIGURES:
                    raise self._connector.gone(error) from error
                # Whoever made the highest has made those below it before.
                there = amqp.Exchange.Declare(exchange=names.level(highest), passive=True)
                await self._find(error, there)
            self._levels = highest + 1

    # Sending

    def parcel(
        self,
        envelope: Envelope,
        queue: str,
        *,
        crashes: int = 0,
        delay: float = 0.0,
        eta: float | None = None,
        again: bool = False,
    ) -> Parcel:
        """A parcel that arrives in ``queue`` after ``delay`` seconds, and not before ``eta``."""
        if eta is not None:
            delay = max(delay, eta - self._now())
        if not delay > 0:  # nor is what is no number
            return wrap(envelope, "", queue, crashes=crashes, again=again)
        units = names.delay_units(delay)
        exchange = names.level(units.bit_length() - 1)
        key = names.delay_key(units, queue)
        return wrap(envelope, exchange, key, crashes=crashes, again=again)

    def to_the_dead(self, queue: str, rejected: Reject) -> Parcel:
        """A parcel for the queue's dead letters."""
        delivery = rejected.delivery
        parcel = wrap(
            rejected.replacement or delivery.envelope,
            names.DEAD,
            queue,
            crashes=delivery.crashes,
            last=b"" if rejected.last is None else pack_last(rejected.last),
        )
        # What headers can carry.
        text = rejected.reason[:LONGEST_REASON].encode(errors="replace").decode()
        headers = {REASON: text, DIED_AT: int(self._now() * 1000)}
        return msgspec.structs.replace(parcel, headers=headers)

    async def send(self, parcels: Sequence[Parcel], kept: set[str] | None = None) -> Sent:
        """Send parcels to queues that are declared; returns which are not kept.

        ``kept`` takes the ids of those that are known to be, also when this raises.

        Raises:
            BrokerUnavailable: some may be kept; sending them again may store them twice.
        """
        await self._prepare(parcels)
        sent = await self._sender.send(parcels, kept)
        if not sent.returned:
            return sent
        # Somebody deleted what we had declared: declare it again, once.
        again = [parcel for parcel in parcels if parcel.id in sent.returned]
        self._levels = 0
        for parcel in again:
            if names.is_ours(parcel.exchange):
                await self.declare(names.queue_of(parcel.exchange, parcel.key), anew=True)
        await self._prepare(again)
        resent = await self._sender.send(again, kept)
        return Sent(resent.returned, [*sent.refused, *resent.refused])

    async def move(self, parcels: Sequence[Parcel]) -> None:
        """Send parcels between queues of ours: all or an error.

        Raises:
            BrokerUnavailable: some may be kept; sending them again may store them twice.
        """
        sent = await self.send(parcels)
        if sent:
            missing = len(sent.returned) + len(sent.refused)
            raise self._connector.gone(
                OSError(f"{missing} of {counted(len(parcels), 'message')} not taken")
            )

    async def _prepare(self, parcels: Sequence[Parcel]) -> None:
        levels = [names.level_number(parcel.exchange) for parcel in parcels if parcel.exchange]
        highest = max((level for level in levels if level is not None), default=-1)
        if highest >= self._levels:
            await self._declare_levels(highest)

    # Asking

    async def count(self, queue: str) -> int:
        """How many messages are ready in a queue; 0 if there is no such queue."""
        return await self.count_if_there(queue) or 0

    async def difference(self, queue: str) -> str | None:
        """How a queue that is there differs from what we would declare; None if it does not.

        RabbitMQ names the first argument of several.
        """
        if queue in self.declared or await self.count_if_there(queue) is None:
            return None
        try:
            await self._call(names.main_method(self.specs.get(queue) or Queue(queue)))
        except ChannelClosed as error:
            other = error.code == PRECONDITION_FAILED and not is_at_limit(error)
            return str(error) if other else None
        return None

    async def count_if_there(self, queue: str) -> int | None:
        """How many messages are ready in a queue; None if there is no such queue."""
        try:
            [answer] = await self._call(amqp.Queue.Declare(queue=queue, passive=True))
        except ChannelClosed as error:
            if error.code == NOT_FOUND:
                return None
            raise self._connector.gone(error) from error
        return answer.message_count

    async def purge(self, queue: str) -> int:
        """Remove what is ready in a queue; returns how much it was."""
        try:
            [answer] = await self._call(amqp.Queue.Purge(queue=queue))
        except ChannelClosed as error:
            if error.code == NOT_FOUND:
                return 0
            raise self._connector.gone(error) from error
        return answer.message_count

    async def open_channel(self) -> Channel:
        """A channel for something of its own; close it."""
        try:
            async with deadline(CALL_TIMEOUT):
                wire = await self._connector.wire()
                return await wire.open_channel()
        except OSError as error:
            self._connector.close_if_silent(error)
            raise self._connector.gone(error) from error

    async def ask(self, channel: Channel, *methods: Any) -> list[Any]:
        """The answers to these methods; raises `ChannelClosed` where the server says no."""
        try:
            async with deadline(CALL_TIMEOUT):
                return await channel.call(*methods)
        except OSError as error:
            self._connector.close_if_silent(error)
            raise self._connector.gone(error) from error

    def gone(self, error: BaseException) -> Exception:
        """Our exception for a server that says no."""
        return self._connector.gone(error)

    async def _call(self, *methods: Any) -> list[Any]:
        """Ask on a channel of its own: an error closes it."""
        channel = await self.open_channel()
        try:
            return await self.ask(channel, *methods)
        finally:
            channel.close()

    def forget_declared(self) -> None:
        """Another server is in use."""
        self.declared.clear()
        self._levels = 0

    def doubt(self) -> None:
        """Another connection to the same server fell silent: take a new one."""
        self._connector.close()

    def close(self) -> None:
        self._sender.close()
