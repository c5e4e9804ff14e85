"""The RabbitMQ broker (3.10 or newer): durable quorum queues, confirms, delay levels.

RabbitMQ does not know ids: a message that is published again after a lost confirm is stored twice.
It is marked, and a worker that gets it looks first whether it has an outcome. Where a worker may
have died over the first of them, the other goes to the suspects at once.
"""

from collections.abc import AsyncGenerator, Collection, Hashable, Sequence
from contextlib import asynccontextmanager
from typing import Self

import msgspec

from asyncq.clock import Clock
from asyncq.config import Url
from asyncq.drivers.hosts import Hosts
from asyncq.drivers.rabbitmq import names
from asyncq.drivers.rabbitmq.admin import RabbitQueueAdmin
from asyncq.drivers.rabbitmq.connection import AmqpSettings, Connector
from asyncq.drivers.rabbitmq.consumer import RabbitConsumer
from asyncq.drivers.rabbitmq.content import Parcel, TooLarge
from asyncq.drivers.rabbitmq.looks import Looks
from asyncq.drivers.rabbitmq.parcels import wrap
from asyncq.drivers.rabbitmq.publisher import Publisher
from asyncq.drivers.rabbitmq.refusals import AccessRefused
from asyncq.drivers.rabbitmq.sender import Sent
from asyncq.drivers.rabbitmq.topology import DeclaredOtherwise, Topology
from asyncq.errors import (
    BrokerError,
    BrokerUnavailable,
    MessageTooLarge,
    QueueFull,
    QueueUnavailable,
    Refused,
    Unroutable,
)
from asyncq.language.envelope import Envelope
from asyncq.language.topology import Queue, copy_id, resolve
from asyncq.loggers import get_logger
from asyncq.seams.broker import Consumer, Lease, Offers, QueueSpec
from asyncq.seams.dead import DeadLimits

log = get_logger(__name__)

MOST_REMEMBERED = 100_000  # ids of what was sent in vain


class RabbitBroker(RabbitQueueAdmin):
    """Queues in one RabbitMQ."""

    def __init__(self, where: Url | Hosts, clock: Clock, limits: DeadLimits | None = None) -> None:
        self._settings = AmqpSettings(where)
        self._hosts = self._settings.hosts
        self._hosts.on_move(self._forget_former)
        sending = Connector(self._settings, "sends", BrokerUnavailable)
        topology = Topology(self._settings, sending, limits or DeadLimits())
        super().__init__(Publisher(sending, topology, clock))
        self._consuming = Connector(self._settings, "consumes", BrokerUnavailable)
        self._clock = clock
        self._looks = Looks()
        self._unsure: dict[str, None] = {}  # sent, and whether it arrived is not known
        self._kept: dict[str, None] = {}  # arrived with others that did not, which go again

    @property
    def offers(self) -> Offers:
        return Offers(admin=self, is_there=self.is_there, bind=self.declare)  # with its bindings

    @property
    def store(self) -> Hashable:
        return self._settings.identity

    async def __aenter__(self) -> Self:
        await self._hosts.choose()
        channel = await self._publisher.connector.open_channel()
        channel.close()
        return self

    async def __aexit__(self, *_: object) -> None:
        self._publisher.close()
        self._consuming.close()

    def _forget_former(self) -> None:
        self._topology.forget_declared()
        self._unsure.clear()
        self._kept.clear()

    async def publish(self, envelopes: Sequence[Envelope]) -> None:
        parcels: list[Parcel] = []
        for envelope in envelopes:
            if envelope.id in self._kept:
                # It went with others that failed, and is sent again with them.
                del self._kept[envelope.id]
            elif envelope.exchange:
                parcels += self._parcels_by_exchange(envelope)
            else:
                queue = envelope.queue
                await self._topology.declare(queue)
                if envelope.suspect:
                    queue = names.suspects(queue)
                parcels.append(self._parcel(envelope, queue))
        kept: set[str] = set()
        try:
            sent = await self._publisher.send(parcels, kept)
        except BaseException as error:
            _remember(self._kept, kept)
            missing = {envelope.id for envelope in envelopes} - kept
            if isinstance(error, TooLarge):
                _remember(self._unsure, missing - error.sizes.keys())
                raise _too_large(error) from error
            _remember(self._unsure, missing)
            raise
        if self._unsure:
            for id in kept:
                self._unsure.pop(id, None)
        if sent:
            _remember(self._kept, kept)
            raise self._refusal(envelopes, sent)

    def _parcel(self, envelope: Envelope, queue: str) -> Parcel:
        again = envelope.id in self._unsure
        return self._publisher.parcel(envelope, queue, eta=envelope.eta, again=again)

    def _parcels_by_exchange(self, envelope: Envelope) -> list[Parcel]:
        """One for the exchange; of a delayed one, as delay levels end in queues, one for each.

        Raises:
            Unroutable: it is delayed, and no queue of ours is bound for it.
        """
        exchange, key = envelope.exchange, envelope.routing_key
        if envelope.eta is None or envelope.eta <= self._clock.now():
            again = envelope.id in self._unsure
            parcel = wrap(envelope, exchange, key, again=again, first=envelope.queue)
            return [msgspec.structs.replace(parcel, headers=envelope.headers | parcel.headers)]
        queues = resolve(self._topology.specs.values(), exchange, key, envelope.headers)
        if not queues:
            raise Unroutable(envelope.id, exchange, key)
        first = envelope.queue
        return [
            self._parcel(msgspec.structs.replace(envelope, id=copy_id(envelope.id, queue, first)),
                         queue)
            for queue in queues
        ]  # fmt: skip

    def _refusal(self, envelopes: Sequence[Envelope], sent: Sent) -> BrokerError:
        """What to raise for the first of these that RabbitMQ did not keep."""
        missing = {*sent.returned, *sent.refused}
        envelope = next(each for each in envelopes if each.id in missing)
        if envelope.id in sent.refused:
            ids = [each.id for each in envelopes
                   if each.id in sent.refused and each.queue == envelope.queue]  # fmt: skip
            spec = self._topology.specs.get(envelope.queue)
            if spec is not None and spec.max_length is not None:
                return QueueFull(ids, envelope.queue, spec.max_length)
            # A queue without a bound says so while its leader changes, or while it has no majority.
            where = f"queue {envelope.queue}" if envelope.queue else f"exchange {envelope.exchange}"
            return BrokerUnavailable(
                f"RabbitMQ does not take messages for {where} of {self._settings.url!r} just now "
                "(no majority of its members, or a limit that a policy sets)",
                missing,
            )
        if envelope.exchange:
            return Unroutable(envelope.id, envelope.exchange, envelope.routing_key)
        return Refused(envelope.id, f"RabbitMQ has no queue {envelope.queue}")

    async def declare(self, queues: Sequence[Queue]) -> None:
        for queue in queues:
            self._topology.specs[queue.name] = queue
        for queue in queues:
            try:
                await self._topology.declare(queue.name, anew=True)
            except (DeclaredOtherwise, AccessRefused, QueueUnavailable) as error:
                # The others work all the same; who sends to this one hears of it as well.
                log.error("queue %s cannot be used: %s", queue.name, error)  # noqa: TRY400 - no fault of ours
        self._hosts.declared = queues

    @asynccontextmanager
    async def consume(self, queue: QueueSpec, lease: Lease) -> AsyncGenerator[Consumer]:
        if (prefetch := self._settings.address.prefetch) is not None:
            queue = msgspec.structs.replace(queue, prefetch=prefetch)
        consumer = RabbitConsumer(self._consuming, self._publisher, queue, lease, self._looks)
        try:
            await consumer.enter()
            yield consumer
        finally:
            await consumer.leave()


def _too_large(error: TooLarge) -> MessageTooLarge:
    """What to raise for the first of them: each is told its own size."""
    id, size = next(iter(error.sizes.items()))
    if error.headers:
        what, remedy = "the message's header table in RabbitMQ", "raise frame_max in rabbitmq.conf"
    else:
        what, remedy = "the message", "raise RabbitMQ's max_message_size in rabbitmq.conf"
    return MessageTooLarge(id, what, size, error.limit, remedy)


def _remember(ids: dict[str, None], more: Collection[str]) -> None:
    if len(ids) + len(more) > MOST_REMEMBERED:
        ids.clear()
    ids.update(dict.fromkeys(more))
