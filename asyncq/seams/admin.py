"""The small seam beside the broker's: what an operator asks of queues."""

from collections.abc import Sequence
from typing import Protocol

import msgspec

from asyncq.language.envelope import Envelope, LastAttempt
from asyncq.language.message import Status
from asyncq.shown import Shown


class Depth(Shown, frozen=True, kw_only=True):
    """How many messages a queue has, by where they are; None where the broker cannot say."""

    ready: int = 0
    """Waiting for a worker, suspects included."""
    delayed: int | None = 0
    in_flight: int | None = 0
    dead: int = 0
    oldest_age: float | None = None
    """Seconds since the first of the ready ones was sent; None when none is ready."""
    differs: str | None = None
    """How the queue differs from what the app would make it, where a broker can tell; the app can
    then neither send to it nor consume it."""


class DeadLetter(Shown, frozen=True, kw_only=True):
    """A message that was taken out of circulation, with its bytes and the reason."""

    envelope: Envelope
    reason: str
    died_at: float
    """Unix seconds."""
    crashes: int = 0
    last: LastAttempt | None = None
    """None where it died without one: it waited too long, or its queue overflowed."""


class Waiting(Shown, frozen=True, kw_only=True):
    """A message that waits in a queue, as it was when somebody looked."""

    envelope: Envelope
    due: float | None = None
    """Unix seconds; None for what is ready."""
    crashes: int = 0


class QueueAdmin(Protocol):
    """What an operator asks of a broker. None of it is on the path of a delivery."""

    async def queues(self) -> Sequence[str]:
        """The names of the queues that were ever published to, sorted; those of this process
        where the broker cannot list them."""
        ...

    async def depth(self, queue: str) -> Depth: ...

    async def purge(self, queue: str) -> int:
        """Remove every message that waits, due or delayed; not what is in flight, nor the dead.

        A broker that does not say how many are delayed leaves them.
        """
        ...

    async def dead_letters(
        self, queue: str, *, limit: int = 100, offset: int = 0
    ) -> Sequence[DeadLetter]:
        """The dead letters, the oldest first."""
        ...

    async def replay(self, queue: str, ids: Sequence[str]) -> Sequence[str]:
        """Put these dead letters back at the end of their queue, with no crashes to their name.

        Each is in one place at any time; where the broker cannot move a message in one step, it may
        be in both should the connection be lost just then, and never in neither. Returns the ids
        that were there. Recorded outcomes are not its business: forget them first.
        """
        ...

    async def delete_dead(self, queue: str, ids: Sequence[str]) -> int:
        """Forget these dead letters for good; returns how many there were."""
        ...


class MessageFinder(Protocol):
    """A broker that can look at its messages without taking them, and knows them by their ids."""

    async def find(self, ids: Sequence[str]) -> Sequence[Status | None]:
        """For each id: QUEUED, SCHEDULED or RUNNING, FAILED for a dead letter, None if not here."""
        ...

    async def envelopes(self, ids: Sequence[str]) -> Sequence[Envelope | None]:
        """What each of these is, that waits or is in flight; None if it does neither here.

        The ``eta`` of what was given back for later is when it is due.
        """
        ...

    async def peek(self, queue: str, *, limit: int = 100, offset: int = 0) -> Sequence[Waiting]:
        """What waits, in the order in which workers are handed it: suspects, what is ready, and
        what is delayed by when it is due. Nothing is changed by it; while others change the queue,
        some may be seen twice, or not."""
        ...


def due_at(envelope: Envelope, due: float | None) -> Envelope:
    """As `MessageFinder.envelopes` has what waits until then."""
    if due is None or envelope.eta is not None:
        return envelope
    return msgspec.structs.replace(envelope, eta=due)
