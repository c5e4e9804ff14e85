"""What an operator asks of queues, whichever of the app's brokers has them."""

from collections.abc import Callable, Mapping, Sequence

from asyncq.errors import ConfigurationError
from asyncq.language.message import Status
from asyncq.seams.admin import DeadLetter, Depth, QueueAdmin, Waiting
from asyncq.seams.broker import Broker, Offers

PAGE = 500  # dead letters looked through at a time


class Operator:
    """`QueueAdmin` over several brokers: each queue is asked of the broker that has it."""

    def __init__(self, brokers: Mapping[str, Broker], broker_of: Callable[[str], str]) -> None:
        self._brokers = brokers
        self._broker_of = broker_of

    @property
    def sees_all(self) -> bool:
        """Whether every broker can say which messages it has."""
        return all(broker.offers.finder is not None for broker in self._brokers.values())

    @property
    def lists_queues(self) -> bool:
        """Whether every broker can say which queues it has."""
        return all(broker.offers.is_there is None for broker in self._brokers.values())

    async def queues(self) -> Sequence[str]:
        return sorted({name for admin in self._admins() for name in await admin.queues()})

    async def is_there(self, queue: str) -> bool:
        """Whether there is such a queue, also where the broker cannot list it."""
        if (is_there := self._offers(queue).is_there) is not None:
            return await is_there(queue)
        return queue in await self._admin(queue).queues()

    async def depth(self, queue: str) -> Depth:
        return await self._admin(queue).depth(queue)

    async def find(self, ids: Sequence[str]) -> Sequence[Status | None]:
        found: list[Status | None] = [None] * len(ids)
        for broker in self._brokers.values():
            if (finder := broker.offers.finder) is not None:
                here = await finder.find(ids)
                found = [old or new for old, new in zip(found, here, strict=True)]
        return found

    async def dead_among(self, queue: str, ids: Sequence[str]) -> Sequence[str]:
        """Those of these ids that are dead letters of this queue."""
        admin, finder = self._admin(queue), self._offers(queue).finder
        if finder is not None:
            there = await finder.find(ids)
            wanted = {id for id, at in zip(ids, there, strict=True) if at is Status.FAILED}
        else:
            wanted = set(ids)
        # What is dead may be so in another queue: only the letters themselves say in which.
        dead: set[str] = set()
        offset = 0
        while wanted - dead and (
            letters := await admin.dead_letters(queue, limit=PAGE, offset=offset)
        ):
            dead.update(letter.envelope.id for letter in letters)
            offset += len(letters)
        return [id for id in ids if id in wanted and id in dead]

    async def peek(self, queue: str, *, limit: int = 100, offset: int = 0) -> Sequence[Waiting]:
        """What waits in this queue, without taking it.

        Raises:
            ConfigurationError: its broker can show nothing without taking it (RabbitMQ).
        """
        finder = self._offers(queue).finder
        if finder is None:
            raise ConfigurationError(
                f"the broker of queue {queue} cannot show messages without taking them (on "
                "RabbitMQ each look would count as a delivery); asyncq queues says how many wait"
            )
        return await finder.peek(queue, limit=limit, offset=offset)

    async def purge(self, queue: str) -> int:
        return await self._admin(queue).purge(queue)

    async def dead_letters(
        self, queue: str, *, limit: int = 100, offset: int = 0
    ) -> Sequence[DeadLetter]:
        return await self._admin(queue).dead_letters(queue, limit=limit, offset=offset)

    async def replay(self, queue: str, ids: Sequence[str]) -> Sequence[str]:
        return await self._admin(queue).replay(queue, ids)

    async def delete_dead(self, queue: str, ids: Sequence[str]) -> int:
        return await self._admin(queue).delete_dead(queue, ids)

    def _admins(self) -> list[QueueAdmin]:
        offered = (broker.offers.admin for broker in self._brokers.values())
        return [admin for admin in offered if admin is not None]

    def _offers(self, queue: str) -> Offers:
        return self._brokers[self._broker_of(queue)].offers

    def _admin(self, queue: str) -> QueueAdmin:
        admin = self._offers(queue).admin
        if admin is None:
            raise ConfigurationError(
                f"broker {self._broker_of(queue)!r}, which has queue {queue}, can list and change "
                "no queues"
            )
        return admin
