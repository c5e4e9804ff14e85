"""Dispatch: each envelope to the publisher of the broker that has its queue.

Where it goes was decided before it was made (`asyncq.client.routing`). What goes to an exchange, a
broker that knows exchanges gets as it is; for the others one copy is made for each queue that is
bound.
"""

import asyncio
from collections import defaultdict
from collections.abc import Mapping, Sequence

import msgspec

from asyncq.client.publisher import Publisher
from asyncq.client.routing import DEFAULT_BROKER, Plan, Router
from asyncq.errors import ConfigurationError, Unroutable
from asyncq.language.effects import Send
from asyncq.language.envelope import Envelope
from asyncq.language.topology import copy_id
from asyncq.seams.broker import MAX_BATCH, Broker


class Dispatch:
    """A publisher for each broker, and which of them gets what."""

    def __init__(self, brokers: Mapping[str, Broker], router: Router, timeout: float) -> None:
        self._brokers = brokers
        self._router = router
        self.publishers = {name: Publisher(broker, timeout) for name, broker in brokers.items()}
        self.default = self.publishers[DEFAULT_BROKER]
        """Of every `Plan` that says so."""

    def submit(
        self, plans: Sequence[Plan], envelopes: Sequence[Envelope]
    ) -> Sequence["asyncio.Future[None]"]:
        """Have these published as was planned, at most a batch; wait with `all_stored`.

        Raises:
            Unroutable: no queue is bound for one of them; none was sent.
        """
        if all([plan.is_default for plan in plans]):  # noqa: C419 - a list is quicker
            return (self.default.submit(envelopes),)
        sorted_out: dict[str, list[Envelope]] = defaultdict(list)
        for plan, envelope in zip(plans, envelopes, strict=True):
            for name, copy in self.place(plan, envelope):
                sorted_out[name].append(copy)
        return self._submit_to(sorted_out)

    def send(self, sends: Sequence[Send]) -> Sequence["asyncio.Future[None]"]:
        """Have these published, at most a batch; wait with `all_stored`.

        Raises:
            ConfigurationError: this app has no broker of that name; none was sent.
        """
        sorted_out: dict[str, list[Envelope]] = defaultdict(list)
        for each in sends:
            if each.broker not in self.publishers:
                raise ConfigurationError(
                    f"a follow-up goes to broker {each.broker!r}, which this app does not have: "
                    "its workers need the brokers of the app that sent the task"
                )
            sorted_out[each.broker].append(each.envelope)
        return self._submit_to(sorted_out)

    def _submit_to(
        self, sorted_out: Mapping[str, Sequence[Envelope]]
    ) -> list["asyncio.Future[None]"]:
        return [
            self.publishers[name].submit(copies[start : start + MAX_BATCH])
            for name, copies in sorted_out.items()
            for start in range(0, len(copies), MAX_BATCH)
        ]

    def place(self, plan: Plan, envelope: Envelope) -> list[tuple[str, Envelope]]:
        """The copies that are to be published, each with the name of its broker.

        Raises:
            Unroutable: no queue is bound.
        """
        if plan.exchange is None:
            return [(self._router.broker_of(plan.queue), envelope)]
        by_themselves = self._routing_brokers(plan.exchange)
        whole = msgspec.structs.replace(
            envelope, exchange=plan.exchange, routing_key=plan.routing_key
        )
        placed = [(name, whole) for name in by_themselves]
        placed += [
            (
                self._router.broker_of(queue),
                msgspec.structs.replace(
                    envelope, id=copy_id(envelope.id, queue, plan.queue), queue=queue
                ),
            )
            for queue in plan.bound
            if self._router.broker_of(queue) not in by_themselves
        ]
        if not placed:
            raise Unroutable(envelope.id, plan.exchange, plan.routing_key)
        return placed

    def _routing_brokers(self, exchange: str) -> list[str]:
        """The brokers that route by themselves and have queues that are bound to this exchange.

        An exchange that no queue of ours is bound to may be there all the same: other hands have
        made it, in the default broker.
        """
        bound = {
            queue.broker: None
            for queue in self._router.queues.values()
            if any(binding.exchange.name == exchange for binding in queue.bindings)
        }
        return [
            name
            for name in bound or {DEFAULT_BROKER: None}
            if self._brokers[name].offers.bind is not None
        ]


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
