"""How much RabbitMQ pushes to a consumer of ours, by consumers as AMQP calls them.

What is pushed to one of those is fixed when it begins, so a window grows by others beside it.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import anyio
import pamqp.commands as amqp

from asyncq.drivers.rabbitmq.parcels import Received
from asyncq.drivers.rabbitmq.wire import HEARD, Ask
from asyncq.seams.broker import Lease, QueueSpec

QUIET = 0.05  # seconds without a push after which the queue is asked whether one is on its way
# Times that it is: of what RabbitMQ's channel kept back, the queue hears when it has answered once.
ANSWERS = 2
PREFETCH = 100  # where nobody says
MOST_PREFETCH = 65535  # AMQP's


class Window:
    """What may be pushed from one queue while it is not settled."""

    def __init__(
        self,
        queue: QueueSpec,
        lease: Lease,
        unsettled: Mapping[int, Received],
        pushed: asyncio.Event,
        *,
        is_single: bool,
    ) -> None:
        self._queue = queue.name
        self._prefetch = min(queue.prefetch or PREFETCH, MOST_PREFETCH)
        self._lease = lease
        self._unsettled = unsettled
        self._tag: str | None = None  # of the consumer that is pushed to, if there is one
        self._tags = 0
        self._extra: dict[str, int] = {}  # consumers beside it, and what each may be pushed
        self._before: set[int] = set()  # tags of what an earlier consumer than it was pushed
        self.is_single = is_single
        """Only one worker of the queue is pushed to at a time."""
        self.was_ended = False
        """By the server: the queue was deleted, say."""
        self._pushed = pushed  # or whoever waits for that is to look again
        lease.on_stretch(pushed.set)

    @property
    def has_room(self) -> bool:
        return len(self._unsettled) < self._prefetch

    @property
    def size(self) -> int:
        """How many unsettled deliveries there may be."""
        before = sum(tag in self._unsettled for tag in self._before)
        return min(self._prefetch + before + sum(self._extra.values()), MOST_PREFETCH)

    async def next_push(self, seconds: float) -> None:
        self._pushed.clear()
        with anyio.move_on_after(seconds):
            await self._pushed.wait()

    def end(self, tag: str) -> None:
        """The server has ended one of these consumers."""
        if tag == self._tag:
            self.was_ended = True
            self._pushed.set()

    async def open(self, ask: Ask) -> None:
        """Be pushed to, on a channel where nothing is yet."""
        self._tag = self._new_tag()
        self._extra.clear()
        self._before.clear()
        self.was_ended = False
        await self._consume(ask, self._tag, self._prefetch)

    async def close(self, ask: Ask, hear_queue: Callable[[], Awaitable[None]]) -> bool:
        """Be pushed to no more. Returns whether the queue itself has answered that.

        What reaches a consumer that is not there any more goes back as if it had been delivered.
        So we wait until nothing is on its way: the window is full, or the queue has answered behind
        all that was settled (``hear_queue``; no more is settled meanwhile), then the channel behind
        what the queue had pushed, and nothing came. Only what is published in the moment after
        that answer may still go back so.
        """
        if self._tag is None or self.was_ended:
            return False
        answers = 0
        while len(self._unsettled) < self.size and answers < ANSWERS:
            before = len(self._unsettled)
            await self.next_push(QUIET)
            await (self._join_and_leave(ask) if self.is_single else hear_queue())
            await ask(HEARD)
            answers = answers + 1 if len(self._unsettled) == before else 0
        tags, self._tag = [self._tag, *self._extra], None
        self._extra.clear()
        await ask(*[amqp.Basic.Cancel(consumer_tag=tag) for tag in tags])
        return True

    async def _join_and_leave(self, ask: Ask) -> None:
        """Where only one consumer is pushed to, and none may fetch: another is answered."""
        tag = self._new_tag()
        await self._consume(ask, tag, 1)
        await ask(amqp.Basic.Cancel(consumer_tag=tag))

    async def flush(self, ask: Ask, hear_queue: Callable[[], Awaitable[None]]) -> None:
        """Once closed: have the queue itself hear all that was settled. Messages may come of it.

        While a queue is slow, RabbitMQ's channel keeps settlements back, and forgets them as it is
        closed. That a consumer begins, and that it ends, the queue answers behind what it was told.
        """
        if not self.was_ended:
            self._prefetch = 1
            await self.open(ask)
            await self.close(ask, hear_queue)

    async def stretch(self, ask: Ask, *, is_idle: bool) -> None:
        """Be pushed as many more as wait for others, by a consumer beside the first.

        Each time that more is needed another is added, for at least half of what there is; all end
        when none waits. ``is_idle``: nothing that was pushed is left to be received.
        """
        waiting, stretched = self._lease.waiting, sum(self._extra.values())
        if waiting <= stretched and (waiting or not self._extra):
            return
        if self.is_single:
            await self._consume_afresh(ask, is_idle=is_idle)
        elif waiting == 0:
            tags = list(self._extra)
            self._extra.clear()
            await ask(*[amqp.Basic.Cancel(consumer_tag=tag) for tag in tags])
        else:
            tag, more = self._new_tag(), max(waiting - stretched, stretched // 2)
            self._extra[tag] = more = min(more, MOST_PREFETCH)
            await self._consume(ask, tag, more)

    async def _consume_afresh(self, ask: Ask, *, is_idle: bool) -> None:
        """Where only one consumer is pushed to: another in its place, which may be pushed as much.

        Only when it has all that it may be pushed, so that nothing is on its way, and more of that
        than others were pushed before waits. Workers beside us may be next; then they go on.
        """
        before = sum(tag in self._unsettled for tag in self._before)
        if not is_idle or len(self._unsettled) < self.size or self._lease.waiting <= before:
            return
        old, self._tag = self._tag, self._new_tag()
        self._before = set(self._unsettled)
        await self._consume(ask, self._tag, self._prefetch, amqp.Basic.Cancel(consumer_tag=old))

    async def _consume(self, ask: Ask, tag: str, prefetch: int, *first: Any) -> None:
        # Shielded: a consumer that is cancelled before the server has said that it has one takes
        # RabbitMQ's channel down (3.10.8). It ends: what is asked has a deadline.
        with anyio.CancelScope(shield=True):
            await ask(
                *first,
                amqp.Basic.Qos(0, prefetch, False),
                amqp.Basic.Consume(queue=self._queue, consumer_tag=tag),
            )

    def _new_tag(self) -> str:
        self._tags += 1
        return f"{self._lease.incarnation}.{self._tags}"
