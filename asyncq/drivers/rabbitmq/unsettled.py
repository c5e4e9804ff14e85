"""What a consumer of RabbitMQ has in hand, and how each of it ends."""

import asyncio
from collections.abc import Iterable, Sequence

import msgspec
import pamqp.commands as amqp

from asyncq.drivers.rabbitmq import names
from asyncq.drivers.rabbitmq.content import Parcel, TooLarge
from asyncq.drivers.rabbitmq.parcels import Received, wrap
from asyncq.drivers.rabbitmq.publisher import Publisher
from asyncq.drivers.rabbitmq.suspects import Suspects
from asyncq.drivers.rabbitmq.wire import HEARD, Ask
from asyncq.seams.broker import Ack, Delivery, Lease, Nack, Reject, Settlement


class Unsettled:
    """The deliveries of one channel that are not settled."""

    def __init__(
        self, queue: str, lease: Lease, publisher: Publisher, ask: Ask, pushed: asyncio.Event
    ) -> None:
        self._queue = queue
        self._publisher = publisher
        self._ask = ask
        self._pushed = pushed
        self.by_tag: dict[int, Received] = {}
        """In the order of their tags."""
        self.suspects = Suspects(queue, lease, ask, self)
        self.unproven = 0
        """How many were settled, and RabbitMQ's channel alone has said that it has heard so."""

    async def settle(self, batch: Sequence[Settlement]) -> Sequence[Delivery]:
        """As `Consumer.settle`. RabbitMQ fences by the connection: then it raises `LeaseLost`."""
        fenced: list[Delivery] = []
        tags: list[int] = []
        others: dict[int, Nack | Reject] = {}
        for settlement in batch:
            delivery = settlement.delivery
            owner, tag = delivery.token
            if owner is not self:
                fenced.append(delivery)
            elif tag not in self.by_tag:
                continue  # settled before
            elif isinstance(settlement, Ack):
                tags.append(tag)
            else:
                others[tag] = settlement
        if tags:
            await self._acknowledge(tags)
        if others:
            if not tags:
                # What is sent goes another way: who lost these deliveries must not send them on.
                await self._ask(HEARD)
            await self._send(others.values())
            await self._acknowledge(list(others))
            if any(isinstance(settlement, Reject) for settlement in others.values()):
                await self._publisher.topology.count_dead(self._queue)
        return fenced

    async def _send(self, settlements: Iterable[Nack | Reject]) -> None:
        try:
            await self._publisher.move([self._parcel(each) for each in settlements])
        except TooLarge as error:
            # With what is told beside it: as it came, it will do.
            await self._publisher.move([
                self._parcel(each, bare=each.delivery.envelope.id in error.sizes)
                for each in settlements
            ])  # fmt: skip

    def _parcel(self, settlement: Nack | Reject, *, bare: bool = False) -> Parcel:
        """What is sent for a delivery that ends so; ``bare``: no larger than what came."""
        delivery = settlement.delivery
        if isinstance(settlement, Reject):
            if bare:
                settlement = msgspec.structs.replace(settlement, last=None, replacement=None)
            return self._publisher.to_the_dead(self._queue, settlement)
        envelope = settlement.replacement or delivery.envelope
        if bare:
            envelope = msgspec.structs.replace(envelope, headers=delivery.envelope.headers)
        queue = names.suspects(self._queue) if delivery.suspect else self._queue
        eta = envelope.eta if settlement.replacement is not None else None
        return self._publisher.parcel(
            envelope, queue, crashes=delivery.crashes, delay=settlement.delay, eta=eta
        )

    async def set_aside(self, deliveries: Sequence[Received]) -> None:
        """Put them behind the other suspects, each charged if a worker was lost with it."""
        suspects = names.suspects(self._queue)
        await self._publisher.move(
            [wrap(item.envelope, "", suspects, crashes=item.losses) for item in deliveries]
        )
        await self._acknowledge([item.tag for item in deliveries])
        self.suspects.look_again()

    async def give_back(self, deliveries: Sequence[Received]) -> None:
        """To the end of its queue: what RabbitMQ itself puts back counts as delivered before."""
        parcels: list[Parcel] = []
        for item in deliveries:
            suspect = item.redelivered or item.tag in self.suspects
            queue = names.suspects(self._queue) if suspect else self._queue
            parcels.append(wrap(item.envelope, "", queue, crashes=item.losses, again=item.again))
        if parcels:
            await self._publisher.move(parcels)
            await self._acknowledge([item.tag for item in deliveries])

    def hold(self, fetched: Sequence[Received]) -> None:
        """Have suspects in hand that were fetched."""
        # What was pushed behind them was noted before them: we hear of answers a turn later.
        in_order = sorted([*self.by_tag.items(), *((item.tag, item) for item in fetched)])
        self.by_tag.clear()
        self.by_tag.update(in_order)

    def leave(self) -> None:
        """Nothing is in hand any more."""
        self.by_tag.clear()
        self.suspects.leave()

    async def _acknowledge(self, tags: Sequence[int]) -> None:
        """In as few frames as their order allows."""
        settled = sorted(tags)
        self.unproven += len(settled)
        for tag in settled:
            self.by_tag.pop(tag, None)
        if self.suspects.settle(settled):
            self._pushed.set()  # let a waiter look for the next ones
        lowest_left = next(iter(self.by_tag), None)
        whole = [tag for tag in settled if lowest_left is None or tag < lowest_left]
        if self.suspects.are_being_fetched:
            whole = []  # a suspect may have come whose tag we do not know yet
        acks = [amqp.Basic.Ack(whole[-1], multiple=True)] if whole else []
        acks += [amqp.Basic.Ack(tag) for tag in settled[len(whole) :]]
        await self._ask(*acks, HEARD)  # acknowledgements are not answered
