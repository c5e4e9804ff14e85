"""What broker and consumers of one process share: sending to queues that are there."""

from collections.abc import Sequence

import anyio
import msgspec

from asyncq.clock import Clock
from asyncq.drivers.rabbitmq import names
from asyncq.drivers.rabbitmq.connection import Connector
from asyncq.drivers.rabbitmq.content import Parcel
from asyncq.drivers.rabbitmq.parcels import DIED_AT, REASON, wrap
from asyncq.drivers.rabbitmq.sender import Sender, Sent
from asyncq.drivers.rabbitmq.topology import Topology
from asyncq.language.envelope import Envelope
from asyncq.seams.broker import Reject
from asyncq.seams.dead import pack_last
from asyncq.texts import counted

WITHOUT_LEADER = (0.05, 0.1, 0.2, 0.4)
"""Seconds between two tries of what a queue without a bound refuses: one that was made a moment ago
has no leader yet, and one whose leader goes has none for as long."""
LONGEST_REASON = 2000  # characters that a header takes of it


class Publisher:
    """One connection that sends."""

    def __init__(self, connector: Connector, topology: Topology, clock: Clock) -> None:
        self.connector = connector
        self._now = clock.now
        self._sender = Sender(connector)
        self.topology = topology

    def parcel(
        self,
        envelope: Envelope,
        queue: str,
        *,
        crashes: int = 0,
        delay: float = 0.0,
        eta: float | None = None,
        again: bool = False,
        verdict: str = "",
    ) -> Parcel:
        """A parcel that arrives in ``queue`` after ``delay`` seconds, and not before ``eta``."""
        if eta is not None:
            delay = max(delay, eta - self._now())
        if not delay > 0:  # nor is what is no number
            return wrap(envelope, "", queue, crashes=crashes, again=again, verdict=verdict)
        units = names.delay_units(delay)
        exchange = names.level(units.bit_length() - 1)
        key = names.delay_key(units, queue)
        return wrap(envelope, exchange, key, crashes=crashes, again=again, verdict=verdict)

    def to_the_dead(self, queue: str, rejected: Reject) -> Parcel:
        """A parcel for the queue's dead letters."""
        delivery = rejected.delivery
        parcel = wrap(
            rejected.replacement or delivery.envelope,
            names.DEAD,
            queue,
            crashes=delivery.crashes,
            last=b"" if rejected.last is None else pack_last(rejected.last),
        )
        # What headers can carry.
        text = rejected.reason[:LONGEST_REASON].encode(errors="replace").decode()
        headers = {REASON: text, DIED_AT: int(self._now() * 1000)}
        return msgspec.structs.replace(parcel, headers=headers)

    async def send(self, parcels: Sequence[Parcel], kept: set[str] | None = None) -> Sent:
        """Send parcels to queues that are declared; returns which are not kept.

        ``kept`` takes the ids of those that are known to be, also when this raises.

        Raises:
            BrokerUnavailable: some may be kept; sending them again may store them twice.
        """
        sent = await self._send(parcels, kept)
        for pause in WITHOUT_LEADER if sent.refused else ():
            again = [each for each in parcels if each.id in sent.refused and self._has_room(each)]
            if not again:
                break
            await anyio.sleep(pause)
            resent = await self._send(again, kept)
            others = [id for id in sent.refused if id not in {each.id for each in again}]
            sent = Sent([*sent.returned, *resent.returned], [*others, *resent.refused])
        return sent

    async def _send(self, parcels: Sequence[Parcel], kept: set[str] | None) -> Sent:
        await self._have_levels(parcels)
        sent = await self._sender.send(parcels, kept)
        if not sent.returned:
            return sent
        # Somebody deleted what we had declared: declare it again, once.
        again = [parcel for parcel in parcels if parcel.id in sent.returned]
        self.topology.levels = 0
        for parcel in again:
            if (queue := names.queue_of(parcel.exchange, parcel.key)) is not None:
                await self.topology.declare(queue, anew=True)
        await self._have_levels(again)
        resent = await self._sender.send(again, kept)
        return Sent(resent.returned, [*sent.refused, *resent.refused])

    def _has_room(self, parcel: Parcel) -> bool:
        """Whether it is for one queue, which has no bound."""
        queue = names.queue_of(parcel.exchange, parcel.key)
        if queue is None:
            return False
        spec = self.topology.specs.get(queue)
        return spec is None or spec.max_length is None

    async def move(self, parcels: Sequence[Parcel]) -> None:
        """Send parcels between queues of ours: all or an error.

        Raises:
            BrokerUnavailable: some may be kept; sending them again may store them twice.
        """
        sent = await self.send(parcels)
        if sent:
            missing = len(sent.returned) + len(sent.refused)
            raise self.connector.gone(
                OSError(f"{missing} of {counted(len(parcels), 'message')} not taken")
            )

    async def _have_levels(self, parcels: Sequence[Parcel]) -> None:
        levels = [names.level_number(parcel.exchange) for parcel in parcels if parcel.exchange]
        if levels and (highest := max(levels)) >= self.topology.levels:
            await self.topology.declare_levels(highest)

    def close(self) -> None:
        self._sender.close()
