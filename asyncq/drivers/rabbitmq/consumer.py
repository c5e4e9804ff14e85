"""Taking deliveries from a RabbitMQ queue, and ending them.

The connection is the lease: when it ends, RabbitMQ hands what was unsettled to others, and says of
it that it was delivered before. Such a message moves to the queue's suspects, charged with the
loss, from where it is fetched again (`asyncq.drivers.rabbitmq.suspects`); unless it was the server
that died, and no worker (`asyncq.drivers.rabbitmq.aftermath`). (RabbitMQ's own count of returns
alone will not do: when the leader of a queue changes, it may count several.)
"""

import asyncio
import contextlib
from asyncio import timeout as deadline
from collections import deque
from collections.abc import Sequence
from typing import Any

import anyio
import msgspec
import pamqp.commands as amqp

from asyncq.drivers.rabbitmq import names, remedies
from asyncq.drivers.rabbitmq.aftermath import Aftermath, note_loss
from asyncq.drivers.rabbitmq.connection import CALL_TIMEOUT, Connector
from asyncq.drivers.rabbitmq.content import Parcel, TooLarge
from asyncq.drivers.rabbitmq.parcels import Received, unwrap, wrap
from asyncq.drivers.rabbitmq.publisher import Publisher
from asyncq.drivers.rabbitmq.suspects import LOOK, Suspects
from asyncq.drivers.rabbitmq.wire import Channel, ChannelClosed, Content
from asyncq.errors import BrokerUnavailable, LeaseLost
from asyncq.loggers import get_logger
from asyncq.seams.broker import Ack, Delivery, Lease, Nack, QueueSpec, Reject, Settlement
from asyncq.seams.quarantine import NO_ADMISSION

log = get_logger(__name__)

LONGEST_WAIT = 5.0  # seconds; after each the server has to show that it is there
PROBE_TIMEOUT = 5.0  # seconds until a silent server counts as gone
LONGEST_SILENCE = 30.0  # seconds without a push after which another channel is taken
QUIET = 0.05  # seconds without a push after which none is on its way
PREFETCH = 100  # where nobody says
MOST_PREFETCH = 65535  # AMQP's
CUT = "its connection to RabbitMQ was lost"
LEAVE_TIMEOUT = 5.0  # seconds to give back what is in flight; then the server does, and counts it


class RabbitConsumer:
    """One worker's hands in one RabbitMQ queue: a channel.

    RabbitMQ pushes: what it hands out is ours before we ask for it, up to ``prefetch`` messages
    that are not settled. (To fetch them one by one is exact, and thirty times slower.)
    """

    def __init__(
        self, connector: Connector, publisher: Publisher, queue: QueueSpec, lease: Lease
    ) -> None:
        self._connector = connector
        self._publisher = publisher
        self._name = queue.name
        self._prefetch = min(queue.prefetch or PREFETCH, MOST_PREFETCH)
        self._lease = lease
        self._channel: Channel | None = None
        self._tag: str | None = None  # of the consumer that is pushed to, if there is one
        self._tags = 0
        self._extra: dict[str, int] = {}  # consumers beside it, and what each may be pushed
        declared = publisher.specs.get(queue.name)
        self._is_single = declared is not None and declared.single_active
        self._before: set[int] = set()  # tags of what an earlier consumer than it was pushed
        self._buffer: deque[Received] = deque()
        self._pushed = asyncio.Event()
        self._silences = 0  # times in a row that nothing was pushed for LONGEST_WAIT
        self._loop = asyncio.get_running_loop()
        self._pushed_at = self._loop.time()
        self._open: dict[int, Received] = {}  # unsettled, in the order of their tags
        self._suspects = Suspects(queue.name, lease, self)
        self._aftermath = Aftermath(
            queue.name,
            lease.quarantine.losses(queue.name),
            has_priorities=declared is not None and declared.max_priority is not None,
        )
        self._has_lost = False  # the connection
        self._cancelled_by_server = False
        lease.on_stretch(self._pushed.set)  # whoever waits is to look again

    async def enter(self) -> None:
        await self._publisher.declare(self._name, anew=True)
        try:
            async with deadline(CALL_TIMEOUT):
                await self._open_channel()
        except ChannelClosed as error:
            # Of this channel alone: the queues of others on this connection go on.
            raise remedies.not_consumed(self._name, self._connector.gone(error)) from error
        except OSError as error:
            self._connector.close_if_silent(error)
            raise self._connector.gone(error) from error

    async def _open_channel(self) -> None:
        wire = await self._connector.wire()
        channel = self._channel = await wire.open_channel()
        is_after_loss = not self._aftermath.is_over
        channel.on_delivery = self._on_delivery_after_loss if is_after_loss else self._on_delivery
        channel.on_cancel = self._on_cancel
        await self._start_pushing(channel)
        channel.on_close = self._on_close  # from now on it is the lease
        self._aftermath.begin(self._connector.lingering)
        self._suspects.begin(self._connector.lingering)

    async def leave(self) -> None:
        """Give back what is still in flight, uncounted."""
        channel = self._channel
        # Shielded: a worker that leaves on cancellation must not have its messages counted as
        # crashed. Bounded: then the server gives them back after all.
        with (
            anyio.move_on_after(LEAVE_TIMEOUT, shield=True),
            contextlib.suppress(BrokerUnavailable, LeaseLost),
        ):
            if channel is not None and channel.closed is None:
                await self._stop_pushing()
                in_flight = list(self._open.values())
                await self._give_back(in_flight)
        if channel is not None:
            if self._open or channel.closed is not None:
                self._note_loss()
            channel.close()
        self._open.clear()
        self._suspects.leave()

    async def take_no_more(self) -> None:
        await self._stop_pushing()
        unseen = [*self._suspects.unseen, *self._buffer]
        self._buffer.clear()
        await self._give_back(unseen)

    # Receiving

    async def wait(self) -> None:
        await self._see_that_it_pushes()
        has_room = self._lease.quarantine.admission != NO_ADMISSION
        if self._buffer or (has_room and self._suspects.are_due):
            return
        # While there is room in the quarantine, suspects are looked for as well.
        await self._next_push(LOOK if has_room else LONGEST_WAIT)
        now = self._loop.time()
        if not self._buffer and now - self._pushed_at >= LONGEST_WAIT:
            self._pushed_at = now
            await self._check_life()

    async def receive(self, limit: int) -> Sequence[Delivery]:
        await self._see_that_it_pushes()
        suspects = await self._suspects.take(limit)
        return suspects + await self._take(limit - len(suspects))

    async def wait_and_receive(self, limit: int) -> Sequence[Delivery]:
        await self.wait()
        return await self.receive(limit)

    async def _check_life(self) -> None:
        """After a long silence: is the server there, is the queue, and are we its consumer?

        RabbitMQ (3.10.8) tells nobody that a quorum queue was deleted.
        """
        try:
            [queue] = await self.ask(amqp.Queue.Declare(queue=self._name, passive=True))
        except LeaseLost:
            await self._publisher.declare(self._name, anew=True)
            raise
        self._silences += 1
        idle = len(self._open) < self._prefetch
        # (What waits in a queue with one active consumer may do so for another than this.)
        is_skipped = queue.message_count and idle and not self._buffer and not self._is_single
        if queue.consumer_count == 0 or is_skipped:
            self._cancelled_by_server = True
        elif idle and not self._is_single and not self._aftermath.is_over:
            self._aftermath.see_new()
        elif self._silences * LONGEST_WAIT >= LONGEST_SILENCE and not self._open:
            self._silences = 0
            await self._take_another_channel()

    async def _take_another_channel(self) -> None:
        """Consume anew while nothing is in hand.

        A queue that was deleted and declared again at once may hold messages for a consumer that
        never gets them (3.10.8), and nothing tells. Closing the old channel sets them free.
        """
        old = self._channel
        try:
            await self._open_channel()
        except (OSError, ChannelClosed) as error:
            if self._channel is not None:
                self._channel.wire.close()
            raise self._lost(error) from error
        if old is not None:
            old.close()

    async def _next_push(self, seconds: float) -> None:
        self._pushed.clear()
        with anyio.move_on_after(seconds):
            await self._pushed.wait()

    async def _start_pushing(self, channel: Channel) -> None:
        self._tag = self._new_tag()
        self._extra.clear()
        self._before.clear()
        self._cancelled_by_server = False
        # Shielded: a consumer that is cancelled before the server has said that it has one takes
        # RabbitMQ's channel down (3.10.8). It ends: what is asked has a deadline.
        with anyio.CancelScope(shield=True):
            async with deadline(PROBE_TIMEOUT):
                await channel.call(
                    amqp.Basic.Qos(0, self._prefetch, False),
                    amqp.Basic.Consume(queue=self._name, consumer_tag=self._tag),
                )

    def _new_tag(self) -> str:
        self._tags += 1
        return f"{self._lease.incarnation}.{self._tags}"

    @property
    def _window(self) -> int:
        """How many unsettled deliveries there may be."""
        before = sum(tag in self._open for tag in self._before)
        return min(self._prefetch + before + sum(self._extra.values()), MOST_PREFETCH)

    async def _stretch(self) -> None:
        """Be pushed as many more as wait for others, by a consumer beside the first.

        What RabbitMQ pushes to a consumer is fixed when that begins, so each time that more is
        needed another is added, for at least half of what there is; all end when none waits.
        """
        waiting, stretched = self._lease.waiting, sum(self._extra.values())
        if self._is_single:
            await self._consume_afresh()
        elif waiting == 0 and self._extra:
            tags = list(self._extra)
            self._extra.clear()
            await self.ask(*[amqp.Basic.Cancel(consumer_tag=tag) for tag in tags])
        elif waiting > stretched:
            tag, more = self._new_tag(), max(waiting - stretched, stretched // 2)
            self._extra[tag] = more = min(more, MOST_PREFETCH)
            # Shielded as where the first begins.
            with anyio.CancelScope(shield=True):
                await self.ask(
                    amqp.Basic.Qos(0, more, False),
                    amqp.Basic.Consume(queue=self._name, consumer_tag=tag),
                )

    async def _consume_afresh(self) -> None:
        """Where only one consumer is pushed to: another in its place, which may be pushed as much.

        Only when it has all that it may be pushed, so that nothing is on its way, and more of that
        than others were pushed before waits. Workers beside us may be next; then they go on.
        """
        before = sum(tag in self._open for tag in self._before)
        if self._buffer or len(self._open) < self._window or self._lease.waiting <= before:
            return
        old, self._tag = self._tag, self._new_tag()
        self._before = set(self._open)
        # Shielded as where the first begins.
        with anyio.CancelScope(shield=True):
            await self.ask(
                amqp.Basic.Cancel(consumer_tag=old),
                amqp.Basic.Qos(0, self._prefetch, False),
                amqp.Basic.Consume(queue=self._name, consumer_tag=self._tag),
            )

    async def _stop_pushing(self) -> None:
        """Be pushed to no more.

        What reaches a consumer that is not there any more goes back as if it had been delivered.
        So we wait until nothing is on its way: the window is full, or nothing comes.
        """
        if self._tag is None or self._cancelled_by_server:
            return
        while len(self._open) < self._window:
            before = len(self._open)
            await self._next_push(QUIET)
            if len(self._open) == before:
                break
        tags, self._tag = [self._tag, *self._extra], None
        self._extra.clear()
        await self.ask(*[amqp.Basic.Cancel(consumer_tag=tag) for tag in tags])

    async def _see_that_it_pushes(self) -> None:
        """If the server ended it (the queue was deleted, say), all begins anew on a new channel.

        Consuming again on this one is not enough: it goes on asking the queue that is gone.
        """
        self._living_channel()
        if self._cancelled_by_server:
            raise self._lost(f"it does not push from queue {self._name} any more")
        if self._lease.waiting > sum(self._extra.values()) or (
            self._extra and not self._lease.waiting
        ):
            await self._stretch()

    async def _take(self, limit: int) -> list[Delivery]:
        """Up to ``limit`` of what was pushed; what a lost worker had goes to the suspects."""
        taken: list[Delivery] = []
        aside: list[Received] = []
        buffer = self._buffer
        while buffer and len(taken) < limit:
            received = buffer.popleft()
            if received.redelivered:
                aside.append(received)
            else:
                taken.append(
                    Delivery(
                        envelope=received.envelope,
                        again=received.again,
                        token=(self, received.tag),
                    )
                )
        if aside:
            try:
                await self.set_aside(aside)
            except BaseException:
                tags = [delivery.token[1] for delivery in taken] + [item.tag for item in aside]
                buffer.extendleft(self._open[tag] for tag in tags if tag in self._open)
                raise
        return taken

    async def set_aside(self, deliveries: Sequence[Received]) -> None:
        """Put them behind the other suspects, each charged if a worker was lost with it."""
        parcels = [
            wrap(item.envelope, "", names.suspects(self._name), crashes=item.losses)
            for item in deliveries
        ]
        await self._publisher.move(parcels)
        await self._settle_tags([item.tag for item in deliveries])
        self._suspects.look_again()

    def hold(self, fetched: Sequence[Received]) -> None:
        """Have suspects in hand that were fetched."""
        # What was pushed behind them was noted before them: we hear of answers a turn later.
        self._open = dict(sorted([*self._open.items(), *((item.tag, item) for item in fetched)]))

    # Settling

    async def settle(self, batch: Sequence[Settlement]) -> Sequence[Delivery]:
        """As `Consumer.settle`. RabbitMQ fences by the connection: then it raises `LeaseLost`."""
        fenced: list[Delivery] = []
        tags: list[int] = []
        parcels: list[Parcel] = []
        sent: list[int] = []
        for settlement in batch:
            delivery = settlement.delivery
            owner, tag = delivery.token
            if owner is not self:
                fenced.append(delivery)
            elif tag not in self._open:
                continue  # settled before
            elif isinstance(settlement, Ack):
                tags.append(tag)
            else:
                parcels.append(self._parcel(settlement))
                sent.append(tag)
        if tags:
            await self._settle_tags(tags)
        if parcels:
            if not tags:
                # What is sent goes another way: who lost these deliveries must not send them on.
                await self.ask(self._nothing())
            try:
                await self._publisher.move(parcels)
            except TooLarge as error:
                # With what is told beside it: as it came, it will do.
                await self._publisher.move([
                    self._parcel(each, bare=each.delivery.envelope.id in error.sizes)
                    for each in batch
                    if not isinstance(each, Ack) and each.delivery.token[1] in sent
                ])  # fmt: skip
            await self._settle_tags(sent)
            if any(isinstance(settlement, Reject) for settlement in batch):
                await self._publisher.count_dead(self._name)
        return fenced

    def _parcel(self, settlement: Nack | Reject, *, bare: bool = False) -> Parcel:
        """What is sent for a delivery that ends so; ``bare``: no larger than what came."""
        delivery = settlement.delivery
        if isinstance(settlement, Reject):
            if bare:
                settlement = msgspec.structs.replace(settlement, last=None, replacement=None)
            return self._publisher.to_the_dead(self._name, settlement)
        envelope = settlement.replacement or delivery.envelope
        if bare:
            envelope = msgspec.structs.replace(envelope, headers=delivery.envelope.headers)
        queue = names.suspects(self._name) if delivery.suspect else self._name
        eta = envelope.eta if settlement.replacement is not None else None
        return self._publisher.parcel(
            envelope, queue, crashes=delivery.crashes, delay=settlement.delay, eta=eta
        )

    async def _give_back(self, in_flight: Sequence[Received]) -> None:
        """To the end of its queue: what RabbitMQ itself puts back counts as delivered before."""
        parcels: list[Parcel] = []
        for item in in_flight:
            suspect = item.redelivered or item.tag in self._suspects
            queue = names.suspects(self._name) if suspect else self._name
            parcels.append(wrap(item.envelope, "", queue, crashes=item.losses, again=item.again))
        if parcels:
            await self._publisher.move(parcels)
            await self._settle_tags([item.tag for item in in_flight])

    async def _settle_tags(self, tags: Sequence[int]) -> None:
        """Acknowledge deliveries, in as few frames as their order allows."""
        channel = self._living_channel()
        settled = sorted(tags)
        for tag in settled:
            self._open.pop(tag, None)
        if self._suspects.settle(settled):
            self._pushed.set()  # let a waiter look for the next ones
        lowest_left = next(iter(self._open), None)
        frames: list[bytes] = []
        whole = [tag for tag in settled if lowest_left is None or tag < lowest_left]
        if self._suspects.are_being_fetched:
            whole = []  # a suspect may have come whose tag we do not know yet
        if whole:
            frames.append(channel.marshal(amqp.Basic.Ack(whole[-1], multiple=True)))
        frames += [channel.marshal(amqp.Basic.Ack(tag)) for tag in settled[len(whole) :]]
        try:
            channel.send(b"".join(frames))
        except (OSError, ChannelClosed) as error:
            raise self._lost(error) from error
        # Acknowledgements are not answered; what is asked behind them is.
        await self.ask(self._nothing())

    # The channel

    def _nothing(self) -> Any:
        """A question that changes nothing: its answer says that what came before was heard."""
        return amqp.Basic.Qos(0, self._prefetch, False)

    async def ask(self, *methods: Any) -> list[Any]:
        """The answers to these methods. A server that says no, or nothing, has ended the lease."""
        channel = self._living_channel()
        try:
            async with deadline(PROBE_TIMEOUT):
                return await channel.call(*methods)
        except (OSError, ChannelClosed) as error:
            channel.wire.close()
            if isinstance(error, TimeoutError):
                self._publisher.doubt()  # it goes the same way
            raise self._lost(error) from error

    def _living_channel(self) -> Channel:
        channel = self._channel
        if channel is None or channel.closed is not None:
            why = "it was never opened" if channel is None else channel.closed
            raise self._lost(why)
        return channel

    def _lost(self, why: object) -> LeaseLost:
        error = LeaseLost(self._lease.incarnation, f"by RabbitMQ: {why}")
        self._lease.lose(CUT, at_this_moment=True)
        return error

    def _on_delivery(self, content: Content) -> None:
        received = unwrap(content, self._name)
        self._open[received.tag] = received
        self._buffer.append(received)
        self._silences = 0
        self._pushed_at = self._loop.time()
        self._pushed.set()

    def _on_delivery_after_loss(self, content: Content) -> None:
        """As `_on_delivery`, until all is here that was in hand when the connection was lost."""
        self._on_delivery(content)
        received = self._buffer[-1]
        self._open[received.tag] = self._buffer[-1] = self._aftermath.judge(received, content)
        if self._aftermath.is_over and self._channel is not None:
            self._channel.on_delivery = self._on_delivery

    def _note_loss(self) -> None:
        """Remember what was in hand when the connection was lost: this worker lives.

        Not where RabbitMQ closed the channel alone, over what was done there: of a task that takes
        longer than it allows this would never end.
        """
        channel = self._channel
        if self._has_lost or channel is None or isinstance(channel.closed, ChannelClosed):
            return
        self._has_lost = True
        suspects = {tag for tag in self._open if tag in self._suspects}
        note_loss(self._lease.quarantine, self._name, self._open, suspects, 2 * self._window)

    def _on_cancel(self, tag: str) -> None:
        if tag == self._tag:
            self._cancelled_by_server = True
            self._pushed.set()

    def _on_close(self, why: Exception) -> None:
        self._note_loss()
        self._pushed.set()
        self._lease.lose(CUT, at_this_moment=True)
        log.warning(
            "the channel of queue %s was closed: %s%s",
            self._name,
            why,
            remedies.of_closed_channel(why),
        )
