"""What a consumer of RabbitMQ has in hand, and how each of it ends.

What outlived a worker, its queue's suspects, is in a queue of its own, of which nothing is pushed:
a consumer looks there now and then while its worker may have some, and takes as many as may run
beside what it has.
"""

import asyncio
from collections.abc import Generator, Iterable, Sequence
from contextlib import contextmanager

import anyio
import msgspec
import pamqp.commands as amqp

from asyncq.drivers.rabbitmq import names
from asyncq.drivers.rabbitmq.aftermath import Aftermath
from asyncq.drivers.rabbitmq.content import Parcel, TooLarge, waiting_behind
from asyncq.drivers.rabbitmq.looks import Looks
from asyncq.drivers.rabbitmq.parcels import VERDICTS, Received, unwrap, verdict_of, wrap
from asyncq.drivers.rabbitmq.publisher import Publisher
from asyncq.drivers.rabbitmq.wire import HEARD, Ask, Content
from asyncq.seams.broker import Ack, Delivery, Lease, Nack, Reject, Settlement
from asyncq.seams.quarantine import NO_ADMISSION, Admission

LOOK = 0.25  # seconds between two looks for suspects
# At a time. (Each is a write of the queue. To be pushed many would be several times quicker. But
# what comes as that ends goes back as if a worker had been lost with it.)
MOST_FETCHED = 20


class Suspects:
    """Those of one queue that one consumer has in hand, and when it looks for others."""

    def __init__(
        self, queue: str, lease: Lease, ask: Ask, hands: "Unsettled", looks: Looks
    ) -> None:
        self._looks = looks
        self._queue = queue
        self._name = names.suspects(queue)
        self._quarantine = lease.quarantine
        self._ask = ask
        self._hands = hands
        self.aftermath = Aftermath(self._name, lease.quarantine)
        self._loop = asyncio.get_running_loop()
        self._fetched: dict[int, Received] = {}  # those that nobody was handed yet
        self._tags: set[int] = set()  # of those in the quarantine
        self._next_look = 0.0  # loop time
        self.are_being_fetched = False
        """One may have come whose tag is not known yet."""

    def __contains__(self, tag: int) -> bool:
        return tag in self._tags or tag in self._fetched

    @property
    def unseen(self) -> Iterable[Received]:
        """Those that were fetched and not handed to anybody."""
        return self._fetched.values()

    @property
    def are_due(self) -> bool:
        """Whether to look for some without waiting for anything."""
        return not self._next_look

    def look_again(self) -> None:
        """There are others: look for them at once."""
        self._next_look = 0.0

    async def take(self, limit: int) -> list[Delivery]:
        """Suspects that there is room for in the quarantine, if it is time to look."""
        found = list[Received]()
        if limit <= 0 or self._loop.time() < self._next_look:
            return []
        admission = self._quarantine.reserve()
        if admission == NO_ADMISSION:
            return []
        self.are_being_fetched = True
        try:
            # Shielded: what was fetched and is not heard of would be in nobody's hands as long as
            # we live. It ends: what is asked has a deadline.
            with anyio.CancelScope(shield=True), self._looks.one():
                found = await self._fetch(limit, admission)
        finally:
            self.are_being_fetched = False
            self._tags.update(item.tag for item in found)
            self._quarantine.occupy(admission, [item.crashes for item in found])
        return [
            Delivery(
                envelope=item.envelope,
                crashes=item.crashes,
                suspect=True,
                again=True,
                verdict=item.verdict,
                token=(self._hands, item.tag),
            )
            for item in found
        ]

    def settle(self, tags: Sequence[int]) -> bool:
        """These deliveries ended; returns whether that makes room for others in the quarantine."""
        for tag in tags:
            self._fetched.pop(tag, None)
        leaving = self._tags.intersection(tags)
        self._tags -= leaving
        self._quarantine.leave(len(leaving))
        if not leaving or not self._quarantine.is_empty:
            return False
        self.look_again()
        return True

    def leave(self) -> None:
        """Nothing is in hand any more."""
        self.settle([*self._fetched, *self._tags])

    async def _fetch(self, limit: int, admission: Admission) -> list[Received]:
        """Fetch suspects while they fit; what does not goes behind the others."""
        wanted = 1  # whether others may come beside the first is known when it is here
        while True:
            waiting = await self._get(wanted)
            fits, others = self._sort(limit, admission)
            is_dry = waiting is None
            if is_dry or others or len(fits) == limit or fits[-1].crashes >= admission.together:
                break
            wanted = min(limit - len(fits), max(waiting, 1), MOST_FETCHED)
        lost = any(item.redelivered for item in others)
        if others:
            await self._hands.set_aside(others)
        for item in fits:
            del self._fetched[item.tag]
        self._next_look = self._loop.time() + LOOK if (is_dry or others) and not lost else 0.0
        return fits

    async def _get(self, count: int) -> int | None:
        """Fetch up to so many; returns how many wait behind them, None: there were less."""
        question = amqp.Basic.Get(queue=self._name)
        answers = await self._ask(*[question] * count)
        contents = [answer for answer in answers if isinstance(answer, Content)]
        for content in contents:
            self._hold(content)
        self._hands.keep_order()
        if len(contents) == count:
            return waiting_behind(contents[-1])
        if not self.aftermath.is_over:
            self.aftermath.see_new()
        return None

    def _hold(self, content: Content) -> None:
        """One was fetched."""
        item = unwrap(content, self._queue)
        if not item.verdict and (verdict := verdict_of(content, self._queue)):
            item = msgspec.structs.replace(item, verdict=verdict)
        if not self.aftermath.is_over:
            item = self.aftermath.judge(item, content)
        self._fetched[item.tag] = self._hands.by_tag[item.tag] = item

    def _sort(self, limit: int, admission: Admission) -> tuple[list[Received], list[Received]]:
        """What was fetched: those that there is room for, and the others."""
        fits: list[Received] = []
        others: list[Received] = []
        for item in self._fetched.values():
            is_joinable = not fits or fits[-1].crashes < admission.together
            may_come = item.crashes < admission.together or (admission.alone and not fits)
            if not item.redelivered and is_joinable and may_come and len(fits) < limit:
                fits.append(item)
            else:
                others.append(item)
        return fits, others


class Unsettled:
    """The deliveries of one channel that are not settled."""

    def __init__(
        self,
        queue: str,
        lease: Lease,
        publisher: Publisher,
        *,
        ask: Ask,
        pushed: asyncio.Event,
        looks: Looks,
    ) -> None:
        self._queue = queue
        self._publisher = publisher
        self._ask = ask
        self._pushed = pushed
        self.by_tag: dict[int, Received] = {}
        """In the order of their tags."""
        self.suspects = Suspects(queue, lease, ask, self, looks)
        self.unproven = 0
        """How many were settled, and RabbitMQ's channel alone has said that it has heard so."""
        self._may_acknowledge: asyncio.Event | None = None  # where that is not at once

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
            elif isinstance(settlement, Ack) or _is_buried(settlement):
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
            envelope,
            queue,
            crashes=delivery.crashes,
            delay=settlement.delay,
            eta=eta,
            verdict=delivery.verdict,
        )

    async def set_aside(self, deliveries: Sequence[Received]) -> None:
        """Put them behind the other suspects, each charged if a worker was lost with it."""
        suspects = names.suspects(self._queue)
        await self._publisher.move(
            [
                wrap(item.envelope, "", suspects, crashes=item.losses, verdict=item.verdict)
                for item in deliveries
            ]
        )
        await self._acknowledge([item.tag for item in deliveries])
        self.suspects.look_again()

    async def give_back(self, deliveries: Sequence[Received]) -> None:
        """To the end of its queue: what RabbitMQ itself puts back counts as delivered before."""
        parcels: list[Parcel] = []
        for item in deliveries:
            suspect = item.redelivered or item.tag in self.suspects
            queue = names.suspects(self._queue) if suspect else self._queue
            parcels.append(
                wrap(
                    item.envelope,
                    "",
                    queue,
                    crashes=item.losses,
                    again=item.again,
                    verdict=item.verdict,
                )
            )
        if parcels:
            await self._publisher.move(parcels)
            await self._acknowledge([item.tag for item in deliveries])

    def keep_order(self) -> None:
        """Something was fetched: what was pushed behind it was noted before it."""
        in_order = sorted(self.by_tag.items())
        self.by_tag.clear()
        self.by_tag.update(in_order)

    def leave(self) -> None:
        """Nothing is in hand any more."""
        self.by_tag.clear()
        self.suspects.leave()

    @contextmanager
    def kept_back(self) -> Generator[None]:
        """Acknowledge nothing meanwhile: each acknowledgement may have the queue push another."""
        self._may_acknowledge = asyncio.Event()
        try:
            yield
        finally:
            self._may_acknowledge.set()
            self._may_acknowledge = None

    async def _acknowledge(self, tags: Sequence[int]) -> None:
        """In as few frames as their order allows."""
        if self._may_acknowledge is not None:
            await self._may_acknowledge.wait()
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


def _is_buried(settlement: Nack | Reject) -> bool:
    """Whether it is to become the dead letter that RabbitMQ has made of it before."""
    return isinstance(settlement, Reject) and settlement.delivery.verdict in VERDICTS.values()
