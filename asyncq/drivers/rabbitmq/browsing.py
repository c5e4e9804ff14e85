"""Looking through the dead letters of a RabbitMQ queue, from the oldest, each fetched once.

AMQP shows a message only by handing it out. What was looked at is held by the channel until that
is done, and then goes back to where it was; while it is held, others do not see it.

RabbitMQ (3.10.8) answers an acknowledgement before the queue has it, sets more than a few dozen
of them aside meanwhile, and forgets those when the channel is closed: so the queue is asked.
"""

from collections.abc import Sequence

import anyio
import pamqp.commands as amqp

from asyncq.drivers.rabbitmq import names
from asyncq.drivers.rabbitmq.fetching import STRIDE, Fetching
from asyncq.drivers.rabbitmq.parcels import Received, unwrap, wrap
from asyncq.drivers.rabbitmq.publisher import Publisher
from asyncq.drivers.rabbitmq.wire import HEARD, Channel, Content

ROUND = 100  # that are sent at a time
MOST_LOOKS = 100  # for what was put back
LOOK = 0.01  # seconds between two


class Browse:
    """One pass over a queue's dead letters. Used by one task at a time."""

    def __init__(self, publisher: Publisher, queue: str, channel: Channel) -> None:
        self.queue = queue
        self.passed = 0
        """How many were looked at and are there still."""
        self._publisher = publisher
        self._fetching = Fetching(publisher.connector, names.dead(queue), channel)
        self._ask = self._fetching.ask
        self._tags: dict[str, list[int]] = {}  # of those, by id
        self._page: list[Received] = []  # the last of them
        self._ahead = self._fetching.ahead  # fetched and not looked at

    @property
    def is_open(self) -> bool:
        return self._fetching.is_open

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
            if wanted and not await self._fetching.fetch(wanted):
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
            [before] = await self._ask(self._fetching.count())
            nack = amqp.Basic.Nack(0, multiple=True, requeue=True)
            await self._ask(nack, HEARD)
            for _ in range(MOST_LOOKS):
                [now] = await self._ask(self._fetching.count())
                if now.message_count >= before.message_count + held:
                    break
                await anyio.sleep(LOOK)
        self.close()

    def close(self) -> None:
        """Let the server put back what is held, soon."""
        self._fetching.close()

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
