"""Taking deliveries from a RabbitMQ queue.

The connection is the lease: when it ends, RabbitMQ hands what was unsettled to others, and says of
it that it was delivered before. Such a message moves to the queue's suspects, charged with the
loss, from where it is fetched again (`asyncq.drivers.rabbitmq.unsettled`); unless it was the server
that died, and no worker (`asyncq.drivers.rabbitmq.aftermath`). (RabbitMQ's own count of returns
alone will not do: when the leader of a queue changes, it may count several.)
"""

import asyncio
import contextlib
from asyncio import timeout as deadline
from collections import deque
from collections.abc import Sequence
from functools import partial
from typing import Any

import anyio
import pamqp.commands as amqp

from asyncq.drivers.rabbitmq.aftermath import Aftermath
from asyncq.drivers.rabbitmq.connection import Connector
from asyncq.drivers.rabbitmq.looks import Looks
from asyncq.drivers.rabbitmq.parcels import Received, unwrap
from asyncq.drivers.rabbitmq.publisher import Publisher
from asyncq.drivers.rabbitmq.refusals import not_consumed, remedy_of_closed_channel
from asyncq.drivers.rabbitmq.unsettled import LOOK, Unsettled
from asyncq.drivers.rabbitmq.window import Window
from asyncq.drivers.rabbitmq.wire import Channel, ChannelClosed, Content
from asyncq.errors import BrokerUnavailable, LeaseLost
from asyncq.loggers import get_logger
from asyncq.seams.broker import ConsumerOffers, Delivery, Lease, QueueSpec, Settlement
from asyncq.seams.quarantine import NO_ADMISSION

log = get_logger(__name__)

LONGEST_WAIT = 5.0  # seconds; after each the server has to show that it is there
PROBE_TIMEOUT = 5.0  # seconds until a silent server counts as gone
LONGEST_SILENCE = 30.0  # seconds without a push after which another channel is taken
CUT = "its connection to RabbitMQ was lost"
LEAVE_TIMEOUT = 5.0  # seconds to give back what is in flight; then the server does, and counts it
# Settlements of which RabbitMQ's channel keeps none back (quorum_commands_soft_limit).
MOST_UNPROVEN = 32


class RabbitConsumer:
    """One worker's hands in one RabbitMQ queue: a channel.

    RabbitMQ pushes: what it hands out is ours before we ask for it, up to ``prefetch`` messages
    that are not settled. (To fetch them one by one is exact, and thirty times slower.)
    """

    def __init__(
        self,
        connector: Connector,
        publisher: Publisher,
        queue: QueueSpec,
        lease: Lease,
        looks: Looks,
    ) -> None:
        self._looks = looks
        self._connector = connector
        self._publisher = publisher
        self._name = queue.name
        self._lease = lease
        self._channel: Channel | None = None
        declared = publisher.topology.specs.get(queue.name)
        self._pushed = asyncio.Event()
        self._unsettled = Unsettled(
            queue.name, lease, publisher, ask=self.ask, pushed=self._pushed, looks=looks
        )
        self._open = self._unsettled.by_tag
        self._suspects = self._unsettled.suspects
        self._window = Window(
            queue,
            lease,
            self._open,
            self._pushed,
            is_single=declared is not None and declared.single_active,
        )
        self._aftermath = Aftermath(
            queue.name,
            lease.quarantine,
            has_priorities=declared is not None and declared.max_priority is not None,
        )
        self._buffer: deque[Received] = deque()
        self._outlived: list[Received] = []  # what was pushed as delivered before
        self._silences = 0  # times in a row that nothing was pushed for LONGEST_WAIT
        self._loop = asyncio.get_running_loop()
        self._pushed_at = self._loop.time()
        self._has_lost = False  # the connection

    async def enter(self) -> None:
        await self._publisher.topology.declare(self._name, anew=True)
        try:
            async with self._connector.asking():
                await self._open_channel()
        except ChannelClosed as error:
            # Of this channel alone: the queues of others on this connection go on.
            raise not_consumed(self._name, self._connector.gone(error)) from error

    async def _open_channel(self) -> None:
        wire = await self._connector.wire()
        channel = self._channel = await wire.open_channel()
        is_after_loss = not self._aftermath.is_over
        channel.on_delivery = self._on_delivery_after_loss if is_after_loss else self._on_delivery
        channel.on_cancel = self._window.end
        await self._window.open(partial(_call, channel))
        channel.on_close = self._on_close  # from now on it is the lease
        for aftermath in (self._aftermath, self._suspects.aftermath):
            aftermath.begin(self._connector.lingering)

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
                await self._unsettled.give_back(list(self._open.values()))
                if self._unsettled.unproven > MOST_UNPROVEN:
                    await self._window.flush(self.ask, self._hear_queue)
                    await self._unsettled.give_back(list(self._open.values()))
        if channel is not None:
            if self._open or channel.closed is not None:
                self._note_loss()
            channel.close()
        self._unsettled.leave()

    async def take_no_more(self) -> None:
        await self._stop_pushing()
        unseen = [*self._suspects.unseen, *self._outlived, *self._buffer]
        self._outlived.clear()
        self._buffer.clear()
        await self._unsettled.give_back(unseen)

    async def _stop_pushing(self) -> None:
        with self._unsettled.kept_back():
            if await self._window.close(self.ask, self._hear_queue):
                self._unsettled.unproven = 0

    async def _hear_queue(self) -> None:
        """Have the queue answer behind what it was told: by a message, if it has one."""
        [answer] = await self.ask(amqp.Basic.Get(queue=self._name))
        if isinstance(answer, Content):
            self._living_channel().on_delivery(answer)
            self._unsettled.keep_order()

    @property
    def offers(self) -> ConsumerOffers:
        return ConsumerOffers(
            wait_and_receive=self.wait_and_receive,
            take_no_more=self.take_no_more,
            catch_up=self.catch_up,
        )

    async def catch_up(self) -> None:
        # The queue answers this behind what it has pushed.
        await self.ask(amqp.Queue.Declare(queue=self._name, passive=True))

    async def wait(self) -> None:
        await self._see_that_it_pushes()
        has_room = self._lease.quarantine.admission != NO_ADMISSION
        are_due = self._suspects.are_due
        if self._has_pushes or (has_room and are_due):
            return
        # While there is room in the quarantine, suspects are looked for as well; or there soon may
        # be, since another consumer of the worker looks just now.
        await self._window.next_push(LOOK if has_room or are_due else LONGEST_WAIT)
        now = self._loop.time()
        if not self._has_pushes and now - self._pushed_at >= LONGEST_WAIT:
            self._pushed_at = now
            await self._check_life()

    async def receive(self, limit: int) -> Sequence[Delivery]:
        await self._see_that_it_pushes()
        # First what lost workers had: until it is aside, no worker can have any of it.
        await self._put_aside()
        taken = await self._suspects.take(limit)
        taken += self._take(limit - len(taken))
        # There may have been no room to look, for that moment; and then nobody has looked yet.
        while not taken and self._suspects.are_due and self._looks.are_under_way:
            await self._looks.next_end()
            taken = await self._suspects.take(limit)
            taken += self._take(limit - len(taken))
        return taken

    async def wait_and_receive(self, limit: int) -> Sequence[Delivery]:
        await self.wait()
        return await self.receive(limit)

    async def settle(self, batch: Sequence[Settlement]) -> Sequence[Delivery]:
        return await self._unsettled.settle(batch)

    async def _see_that_it_pushes(self) -> None:
        """If the server ended it (the queue was deleted, say), all begins anew on a new channel.

        Consuming again on this one is not enough: it goes on asking the queue that is gone.
        """
        self._living_channel()
        if self._window.was_ended:
            raise self._lost(f"it does not push from queue {self._name} any more")
        await self._window.stretch(self.ask, is_idle=not self._has_pushes)

    @property
    def _has_pushes(self) -> bool:
        """Whether something was pushed that is still to be received, or put aside."""
        return bool(self._buffer or self._outlived)

    async def _put_aside(self) -> None:
        """What was pushed and had been in the hands of a lost worker goes to the suspects."""
        if self._outlived:
            try:
                await self._unsettled.set_aside(self._outlived[:])
            finally:
                self._outlived = [item for item in self._outlived if item.tag in self._open]

    def _take(self, limit: int) -> list[Delivery]:
        """Up to ``limit`` of what was pushed."""
        taken: list[Delivery] = []
        buffer = self._buffer
        while buffer and len(taken) < limit:
            received = buffer.popleft()
            taken.append(
                Delivery(
                    envelope=received.envelope,
                    again=received.again,
                    token=(self._unsettled, received.tag),
                )
            )
        return taken

    # The channel

    async def ask(self, *methods: Any) -> list[Any]:
        """The answers to these methods. A server that says no, or nothing, has ended the lease."""
        channel = self._living_channel()
        try:
            return await _call(channel, *methods)
        except (OSError, ChannelClosed) as error:
            channel.wire.close()
            if isinstance(error, TimeoutError):
                self._publisher.connector.close()  # it goes the same way
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

    async def _check_life(self) -> None:
        """After a long silence: is the server there, is the queue, and are we its consumer?

        RabbitMQ (3.10.8) tells nobody that a quorum queue was deleted.
        """
        try:
            [queue] = await self.ask(amqp.Queue.Declare(queue=self._name, passive=True))
        except LeaseLost:
            await self._publisher.topology.declare(self._name, anew=True)
            raise
        self._silences += 1
        window = self._window
        # (What waits in a queue with one active consumer may do so for another than this.)
        is_idle = window.has_room and not window.is_single
        if queue.consumer_count == 0 or (queue.message_count and is_idle and not self._has_pushes):
            window.was_ended = True
        elif is_idle and not self._aftermath.is_over:
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

    def _on_delivery(self, content: Content) -> None:
        self._hold(unwrap(content, self._name))

    def _on_delivery_after_loss(self, content: Content) -> None:
        """As `_on_delivery`, until all is here that was in hand when the connection was lost."""
        self._hold(self._aftermath.judge(unwrap(content, self._name), content))
        if self._aftermath.is_over and self._channel is not None:
            self._channel.on_delivery = self._on_delivery

    def _hold(self, received: Received) -> None:
        self._open[received.tag] = received
        (self._outlived if received.redelivered else self._buffer).append(received)
        self._silences = 0
        self._pushed_at = self._loop.time()
        self._pushed.set()

    def _note_loss(self) -> None:
        """Remember what was in hand when the connection was lost: this worker lives.

        Not where RabbitMQ closed the channel alone, over what was done there: of a task that takes
        longer than it allows this would never end.
        """
        channel = self._channel
        if self._has_lost or channel is None or isinstance(channel.closed, ChannelClosed):
            return
        self._has_lost = True
        for aftermath, are_suspects in ((self._aftermath, False), (self._suspects.aftermath, True)):
            aftermath.lose(
                [
                    each
                    for tag, each in self._open.items()
                    if (tag in self._suspects) == are_suspects
                ],
                most=2 * self._window.size,
            )

    def _on_close(self, why: Exception) -> None:
        self._note_loss()
        self._pushed.set()
        self._lease.lose(CUT, at_this_moment=True)
        log.warning(
            "the channel of queue %s was closed: %s%s",
            self._name,
            why,
            remedy_of_closed_channel(why),
        )


async def _call(channel: Channel, *methods: Any) -> list[Any]:
    async with deadline(PROBE_TIMEOUT):
        return await channel.call(*methods)
