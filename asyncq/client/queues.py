"""``app.queues`` and ``app.dead``: what an operator asks and does, whoever has the queue."""

from collections.abc import Callable, Sequence

from asyncq.client.connections import Here
from asyncq.errors import ConfigurationError
from asyncq.language.message import Status
from asyncq.seams.admin import DeadLetter, Depth, Waiting

PAGE = 500  # dead letters looked through at a time


class Queues:
    """The queues of an app. Each is asked of the broker that has it.

    But for `declared`, the app must be connected; all raise `BrokerUnavailable` when the broker is
    away, and `ConfigurationError` where it can do no such thing.
    """

    def __init__(self, client: Here, declared: Callable[[], list[str]]) -> None:
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
        operator = self._client().operator
        if (is_there := operator.offers(queue).is_there) is not None:
            return await is_there(queue)
        return queue in await operator.admin(queue).queues()

    async def depth(self, queue: str) -> Depth:
        """How many messages it has, by where they are."""
        return await self._client().operator.admin(queue).depth(queue)

    async def peek(self, queue: str, *, limit: int = 100, offset: int = 0) -> Sequence[Waiting]:
        """What waits in it, without taking it, in the order in which workers are handed it.

        Raises:
            ConfigurationError: its broker can show nothing without taking it (RabbitMQ).
        """
        finder = self._client().operator.offers(queue).finder
        if finder is None:
            raise ConfigurationError(
                f"the broker of queue {queue} cannot show messages without taking them (on "
                "RabbitMQ each look would count as a delivery); asyncq queues says how many wait"
            )
        return await finder.peek(queue, limit=limit, offset=offset)

    async def purge(self, queue: str) -> int:
        """Remove what waits, due or delayed; not what is in flight, nor the dead. How many it was.

        RabbitMQ does not say how many are delayed, and leaves them.
        """
        return await self._client().operator.admin(queue).purge(queue)


class DeadLetters:
    """The dead letters of an app's queues. Raises as `Queues`."""

    def __init__(self, client: Here) -> None:
        self._client = client

    async def list(self, queue: str, *, limit: int = 100, offset: int = 0) -> Sequence[DeadLetter]:
        """Those of a queue, the oldest first."""
        admin = self._client().operator.admin(queue)
        return await admin.dead_letters(queue, limit=limit, offset=offset)

    async def among(self, queue: str, ids: Sequence[str]) -> Sequence[str]:
        """Those of these ids that are dead letters of this queue."""
        operator = self._client().operator
        admin, finder = operator.admin(queue), operator.offers(queue).finder
        wanted = set(ids)
        if finder is not None:
            there = await finder.find(ids)
            wanted = {id for id, at in zip(ids, there, strict=True) if at is Status.FAILED}
        # What is dead may be so in another queue: only the letters themselves say in which.
        dead: set[str] = set()
        offset = 0
        while wanted - dead and (
            letters := await admin.dead_letters(queue, limit=PAGE, offset=offset)
        ):
            dead.update(letter.envelope.id for letter in letters)
            offset += len(letters)
        return [id for id in ids if id in wanted and id in dead]

    async def replay(self, queue: str, ids: Sequence[str]) -> Sequence[str]:
        """Run these again, with no crashes to their name; their recorded outcomes are forgotten.

        Returns the ids that were dead letters; a wrong one costs no other message its outcome.
        """
        dead = await self.among(queue, ids)
        client = self._client()
        await client.forget(dead)
        await client.spare(dead)
        return await client.operator.admin(queue).replay(queue, dead)

    async def delete(self, queue: str, ids: Sequence[str]) -> int:
        """Forget these for good; returns how many there were."""
        return await self._client().operator.admin(queue).delete_dead(queue, ids)
