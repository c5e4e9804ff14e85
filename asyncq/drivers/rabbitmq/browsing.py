"""Looking through the dead letters of a RabbitMQ queue, from the oldest, each fetched once.

AMQP shows a message only by handing it out. What was looked at is held by the channel until that
is done, and then goes back to where it was; while it is held, others do not see it. On our own
wire, like all that messages pass: aiormq ends the connection over properties that it cannot read.

RabbitMQ (3.10.8) answers an acknowledgement before the queue has it, sets more than a few dozen
of them aside meanwhile, and forgets those when the channel is closed: so the queue is asked.
"""

import asyncio
from collections import deque
from collections.abc import Sequence
from typing import Any

import anyio
import pamqp.commands as amqp

from asyncq.drivers.rabbitmq import names
from asyncq.drivers.rabbitmq.parcels import Received, unwrap, wrap
from asyncq.drivers.rabbitmq.publisher import Publisher
from asyncq.drivers.rabbitmq.wire import HEARD, Channel, ChannelClosed, Content

STRIDE = 500  # messages that are fetched at a time
ROUND = 100  # that are sent at a time
SILENCE = 1.0  # seconds; what should have come by then has died meanwhile
MOST_LOOKS = 100  # for what was put back
LOOK = 0.01  # seconds between two


class Browse:
    """One pass over a queue's dead letters. Used by one task at a time."""

    def __init__(self, publisher: Publisher, queue: str, channel: Channel) -> None:
        self.queue = queue
        self.passed = 0
        """How many were looked at and are there still."""
        self._publisher = publisher
        self._channel = channel
        self._tags: dict[str, list[int]] = {}  # of those, by id
        self._page: list[Received] = []  # the last of them
        self._ahead: deque[Content] = deque()  # fetched and not looked at
        self._came = asyncio.Event()
        self._consumers = 0
        channel.on_delivery = self._on_delivery

    @property
    def is_open(self) -> bool:
        return self._channel.closed is None

    @property
    def held(self) -> int:
        """How many are fetched and not settled: so many RabbitMQ does not count."""
        return self.passed + len(self._ahead)

    async def skip(self, count: int) -> None:
        """Pass over so many."""
        while count > 0 and (passed := len(await self.next(min(STRIDE, count)))):
            count -= passed

    async def next(self, count: int) -> list[Content]:
        """The next ones, in their order; fewer when there are no more."""
        page: list[Content] = []
        while len(page) < count:
            while self._ahead and len(page) < count:
                page.append(self._ahead.popleft())
            wanted = min(STRIDE, count - len(page))
            if wanted and not await self._fetch(wanted):
                break
        self._page = [unwrap(content, self.queue) for content in page]
        for letter in self._page:
            self._tags.setdefault(letter.envelope.id, []).append(letter.tag)
        self.passed += len(page)
        return page

    async def delete(self, ids: Sequence[str]) -> list[str]:
        """Forget those of these that were looked at; returns them, as often as each was there."""
        found = [(id, tag) for id in dict.fromkeys(ids) for tag in self._tags.get(id, ())]
        await self._settle(found)
        return [id for id, _ in found]

    async def send_back(self, ids: Sequence[str]) -> list[str]:
        """Put back into their queue those of these that `next` returned last; returns them."""
        wanted = set(ids)
        letters = [letter for letter in self._page if letter.envelope.id in wanted]
        for start in range(0, len(letters), ROUND):
            some = letters[start : start + ROUND]
            # Once where a worker died between sending it there and forgetting it here.
            once = {(each.envelope.id, each.envelope.body): each for each in some}
            await self._publisher.move(
                [wrap(each.envelope, "", self.queue) for each in once.values()]
            )
            await self._settle([(letter.envelope.id, letter.tag) for letter in some])
        return [letter.envelope.id for letter in letters]

    async def end(self) -> None:
        """Put back what is held, and return when the queue has it: others count what is there."""
        if held := self.held:
            [before] = await self._ask(self._count())
            nack = amqp.Basic.Nack(0, multiple=True, requeue=True)
            await self._ask(nack, HEARD)
            for _ in range(MOST_LOOKS):
                [now] = await self._ask(self._count())
                if now.message_count >= before.message_count + held:
                    break
                await anyio.sleep(LOOK)
        self.close()

    def close(self) -> None:
        """Let the server put back what is held, soon."""
        self._channel.close()

    async def _fetch(self, count: int) -> int:
        """Be pushed the next so many, or all there are; returns how many came."""
        [queue] = await self._ask(self._count())
        count = min(count, queue.message_count)
        if not count:
            return 0
        self._consumers += 1
        tag, before = f"browse.{self._consumers}", len(self._ahead)
        # Shielded: a consumer that is cancelled before the server has said that it has one takes
        # RabbitMQ's channel down (3.10.8). It ends: what is asked has a deadline.
        with anyio.CancelScope(shield=True):
            await self._ask(
                amqp.Basic.Qos(0, count, False),
                amqp.Basic.Consume(queue=names.dead(self.queue), consumer_tag=tag),
            )
        while len(self._ahead) < before + count and self.is_open:
            self._came.clear()
            with anyio.move_on_after(SILENCE) as patience:
                await self._came.wait()
            if patience.cancelled_caught:
                break
        # Its window is full: nothing more is on its way to it.
        await self._ask(amqp.Basic.Cancel(consumer_tag=tag))
        return len(self._ahead) - before

    async def _settle(self, letters: Sequence[tuple[str, int]]) -> None:
        if not letters:
            return
        acks = [amqp.Basic.Ack(tag) for _, tag in letters]
        # The queue itself answers this, behind what it was told; the second behind what was set
        # aside. What it hands out is what would be looked at next.
        for told in (acks, []):
            [answer] = await self._ask(*told, amqp.Basic.Get(queue=names.dead(self.queue)))
            if isinstance(answer, Content):
                self._ahead.append(answer)
        self.passed -= len(letters)
        for id, tag in letters:
            self._tags[id].remove(tag)
        settled = {tag for _, tag in letters}
        self._page = [letter for letter in self._page if letter.tag not in settled]

    def _count(self) -> amqp.Queue.Declare:
        return amqp.Queue.Declare(queue=names.dead(self.queue), passive=True)

    async def _ask(self, *methods: Any) -> list[Any]:
        connector = self._publisher.connector
        try:
            async with connector.asking():
                return await self._channel.call(*methods)
        except ChannelClosed as error:
            raise connector.gone(error) from error

    def _on_delivery(self, content: Content) -> None:
        self._ahead.append(content)
        self._came.set()
