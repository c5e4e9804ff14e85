"""Dispatch: each envelope to the publisher of the broker that has its queue.

Where a message goes to an exchange, a broker that knows exchanges gets it as it is; for the others
one copy is made for each queue that is bound.
"""

import asyncio
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from asyncq.client.publisher import Publisher
from asyncq.client.routing import Router
from asyncq.errors import Unroutable
from asyncq.language.signature import Signature
from asyncq.language.topology import copy_id, resolve
from asyncq.seams.broker import MAX_BATCH, Broker, Envelope, Exchanges

DEFAULT_BROKER = "default"


class Dispatch:
    """A publisher for each broker, and which of them gets what."""

    def __init__(self, brokers: Mapping[str, Broker], router: Router, timeout: float) -> None:
        self._brokers = brokers
        self._router = router
        self._queues = list(router.queues.values())
        self.publishers = {name: Publisher(broker, timeout) for name, broker in brokers.items()}
        self.default = self.publishers[DEFAULT_BROKER]
        """Has every queue that is not `elsewhere`."""
        self.elsewhere = frozenset(
            {"", *(queue.name for queue in self._queues if queue.broker != DEFAULT_BROKER)}
        )
        """Queues of other brokers; and the empty name, of what was not decided yet."""

    def submit(
        self, signatures: Sequence[Signature[Any]], envelopes: Sequence[Envelope]
    ) -> Sequence["asyncio.Future[None]"]:
        """Have these calls' envelopes published, at most a batch; wait with `all_stored`.

        Raises:
            Unroutable: no queue is bound for one of them; none was sent.
            ConfigurationError: a rule of the app's routes answers what is no destination.
        """
        if self.elsewhere.isdisjoint([envelope.queue for envelope in envelopes]):
            return (self.default.submit(envelopes),)
        sorted_out: dict[Publisher, list[Envelope]] = defaultdict(list)
        for signature, envelope in zip(signatures, envelopes, strict=True):
            for publisher, copy in self._place(signature, envelope):
                sorted_out[publisher].append(copy)
        return [
            publisher.submit(copies[start : start + MAX_BATCH])
            for publisher, copies in sorted_out.items()
            for start in range(0, len(copies), MAX_BATCH)
        ]

    def broker_of(self, queue: str) -> str:
        """The name of the broker that has this queue."""
        declared = self._router.queues.get(queue)
        return DEFAULT_BROKER if declared is None else declared.broker

    def _place(
        self, signature: Signature[Any], envelope: Envelope
    ) -> list[tuple[Publisher, Envelope]]:
        if envelope.queue:
            return [(self._publisher_of(envelope.queue), envelope)]
        route = self._router.decide(signature)
        if route.priority is not None:
            envelope = msgspec.structs.replace(envelope, priority=route.priority)
        if route.exchange is None:
            queue = route.queue or ""
            return [(self._publisher_of(queue), msgspec.structs.replace(envelope, queue=queue))]
        return self._place_by_exchange(envelope, route.exchange, route.routing_key)

    def _place_by_exchange(
        self, envelope: Envelope, exchange: str, routing_key: str
    ) -> list[tuple[Publisher, Envelope]]:
        queues = resolve(self._queues, exchange, routing_key, envelope.headers)
        first = queues[0] if queues else ""
        by_themselves = self._routing_brokers(exchange)
        whole = msgspec.structs.replace(
            envelope, queue=first, exchange=exchange, routing_key=routing_key
        )
        placed = [(self.publishers[name], whole) for name in by_themselves]
        placed += [
            (
                self._publisher_of(queue),
                msgspec.structs.replace(
                    envelope, id=copy_id(envelope.id, queue, first), queue=queue
                ),
            )
            for queue in queues
            if self.broker_of(queue) not in by_themselves
        ]
        if not placed:
            raise Unroutable(envelope.id, exchange, routing_key)
        return placed

    def _routing_brokers(self, exchange: str) -> list[str]:
        """The brokers that route by themselves and have queues that are bound to this exchange.

        An exchange that no queue of ours is bound to may be there all the same: other hands have
        made it, in the default broker.
        """
        bound = {
            queue.broker: None
            for queue in self._queues
            if any(binding.exchange.name == exchange for binding in queue.bindings)
        }
        return [
            name
            for name in bound or {DEFAULT_BROKER: None}
            if isinstance(self._brokers[name], Exchanges)
        ]

    def _publisher_of(self, queue: str) -> Publisher:
        return self.publishers[self.broker_of(queue)]


async def all_stored(futures: Sequence["asyncio.Future[None]"]) -> None:
    """Wait for all of these; raise the first error among them."""
    if len(futures) == 1:
        await futures[0]
        return
    try:
        await asyncio.wait(futures)
    except BaseException:
        for future in futures:
            future.cancel()
        raise
    errors = [error for future in futures if (error := future.exception()) is not None]
    if errors:
        raise errors[0]
