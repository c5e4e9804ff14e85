"""What is asked of an app's brokers besides to publish: of the one that has a queue, or of all."""

from collections.abc import Callable, Mapping, Sequence

from asyncq.errors import ConfigurationError
from asyncq.language.envelope import Envelope
from asyncq.language.message import Status
from asyncq.seams.admin import QueueAdmin
from asyncq.seams.broker import Broker, Offers


class Operator:
    """Knows which broker to ask of a queue, and asks all of them where a message may be."""

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

    def offers(self, queue: str) -> Offers:
        """What the broker of this queue can do."""
        return self._brokers[self._broker_of(queue)].offers

    def admin(self, queue: str) -> QueueAdmin:
        """Who lists and changes this queue.

        Raises:
            ConfigurationError: its broker can do no such thing.
        """
        admin = self.offers(queue).admin
        if admin is None:
            raise ConfigurationError(
                f"broker {self._broker_of(queue)!r}, which has queue {queue}, can list and change "
                "no queues"
            )
        return admin

    async def queues(self) -> Sequence[str]:
        """As `QueueAdmin.queues`, those of all brokers."""
        admins = [broker.offers.admin for broker in self._brokers.values()]
        return sorted({name for admin in admins if admin for name in await admin.queues()})

    async def find(self, ids: Sequence[str]) -> Sequence[Status | None]:
        """As `MessageFinder.find`; None also for what may be with a broker that cannot say."""
        found: list[Status | None] = [None] * len(ids)
        for broker in self._brokers.values():
            if (finder := broker.offers.finder) is not None:
                here = await finder.find(ids)
                found = [old or new for old, new in zip(found, here, strict=True)]
        return found

    async def envelopes(self, ids: Sequence[str]) -> Sequence[Envelope | None]:
        """As `MessageFinder.envelopes`; None also for what is with a broker that cannot say."""
        found: list[Envelope | None] = [None] * len(ids)
        for broker in self._brokers.values():
            if (finder := broker.offers.finder) is not None:
                here = await finder.envelopes(ids)
                found = [old or new for old, new in zip(found, here, strict=True)]
        return found
