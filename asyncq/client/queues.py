"""``app.queues`` and ``app.dead``: what an operator asks and does, whoever has the queue."""

from collections.abc import Callable, Sequence
from typing import Protocol

from asyncq.client.operate import Operator
from asyncq.seams.admin import DeadLetter, Depth, Waiting


class Asked(Protocol):
    """The client of the loop that asks."""

    @property
    def operator(self) -> Operator: ...

    async def replay(self, queue: str, ids: Sequence[str]) -> Sequence[str]: ...


class Queues:
    """The queues of an app. Each is asked of the broker that has it.

    But for `declared`, the app must be connected; all raise `BrokerUnavailable` when the broker is
    away, and `ConfigurationError` where it can do no such thing.
    """

    def __init__(self, client: Callable[[], Asked], declared: Callable[[], list[str]]) -> None:
        self._client = client
        self._declared = declared

    @property
    def declared(self) -> list[str]:
        """The declared queues, and those that the app's tasks go to by themselves.

        Not those that only a rule of the routes knows which looks at calls: declare them.
        """
        return self._declared()

    async def list(self) -> Sequence[str]:
        """The names of the queues that messages were ever sent to, sorted.

        Those of this process where a broker cannot list them (RabbitMQ).
        """
        return await self._client().operator.queues()

    async def is_there(self, queue: str) -> bool:
        """Whether there is such a queue, also where the broker cannot list it."""
        return await self._client().operator.is_there(queue)

    async def depth(self, queue: str) -> Depth:
        """How many messages it has, by where they are."""
        return await self._client().operator.depth(queue)

    async def peek(self, queue: str, *, limit: int = 100, offset: int = 0) -> Sequence[Waiting]:
        """What waits in it, without taking it, in the order in which workers are handed it."""
        return await self._client().operator.peek(queue, limit=limit, offset=offset)

    async def purge(self, queue: str) -> int:
        """Remove what waits, due or delayed; not what is in flight, nor the dead. How many it was.

        RabbitMQ does not say how many are delayed, and leaves them.
        """
        return await self._client().operator.purge(queue)


class DeadLetters:
    """The dead letters of an app's queues. Raises as `Queues`."""

    def __init__(self, client: Callable[[], Asked]) -> None:
        self._client = client

    async def list(self, queue: str, *, limit: int = 100, offset: int = 0) -> Sequence[DeadLetter]:
        """Those of a queue, the oldest first."""
        return await self._client().operator.dead_letters(queue, limit=limit, offset=offset)

    async def among(self, queue: str, ids: Sequence[str]) -> Sequence[str]:
        """Those of these ids that are dead letters of this queue."""
        return await self._client().operator.dead_among(queue, ids)

    async def replay(self, queue: str, ids: Sequence[str]) -> Sequence[str]:
        """Run these again, with no crashes to their name; their recorded outcomes are forgotten.

        Returns the ids that were dead letters; a wrong one costs no other message its outcome.
        """
        return await self._client().replay(queue, ids)

    async def delete(self, queue: str, ids: Sequence[str]) -> int:
        """Forget these for good; returns how many there were."""
        return await self._client().operator.delete_dead(queue, ids)
