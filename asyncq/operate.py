"""What an operator asks of queues, whichever of the app's brokers has them."""

from collections.abc import Callable, Mapping, Sequence

from asyncq.brokers.admin import DeadLetter, Depth, QueueAdmin
from asyncq.brokers.base import Broker
from asyncq.errors import ConfigurationError
from asyncq.message import Status


class Operator:
    """`QueueAdmin` over several brokers: each queue is asked of the broker that has it."""

    def __init__(self, brokers: Mapping[str, Broker], broker_of: Callable[[str], str]) -> None:
        self._brokers = brokers
        self._broker_of = broker_of

    @property
    def sees_all(self) -> bool:
        """Whether every broker can say which messages it has."""
        return all(isinstance(broker, QueueAdmin) for broker in self._brokers.values())

    async def queues(self) -> Sequence[str]:
        return sorted({name for admin in self._admins() for name in await admin.queues()})

    async def depth(self, queue: str) -> Depth:
        return await self._admin(queue).depth(queue)

    async def find(self, ids: Sequence[str]) -> Sequence[Status | None]:
        found: list[Status | None] = [None] * len(ids)
        for admin in self._admins():
            here = await admin.find(ids)
            found = [old or new for old, new in zip(found, here, strict=True)]
        return found

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
        return [broker for broker in self._brokers.values() if isinstance(broker, QueueAdmin)]

    def _admin(self, queue: str) -> QueueAdmin:
        name = self._broker_of(queue)
        broker = self._brokers[name]
        if not isinstance(broker, QueueAdmin):
            raise ConfigurationError(
                f"broker {name!r}, which has queue {queue}, can list and change no queues"
            )
        return broker
