"""The broker seam: how envelopes get from clients to workers, and how deliveries end.

Everything that crosses it is a batch; one is a batch of one. `asyncq.testing.contracts` holds the
tests of what is promised here; a driver is right when they pass.
"""

import math
import time
from collections.abc import Awaitable, Callable, Hashable, Sequence
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import Any, Protocol, Self

import msgspec

from asyncq.language.envelope import Envelope, LastAttempt
from asyncq.language.record import Record
from asyncq.language.topology import Queue
from asyncq.seams.admin import MessageFinder, QueueAdmin
from asyncq.seams.quarantine import Quarantine

MAX_BATCH = 500
"""The most entries one call on a driver needs to take; callers split, drivers may rely on it."""
WAITED_TOO_LONG = "WaitedTooLong"
"""How the reason of a dead letter begins that no worker took within the queue's ``ttl``."""
OVERFLOWED = "Overflowed"
"""How the reason of a dead letter begins that gave way in a queue with a ``max_length``."""
PURGED = "Purged"
"""How the verdict on a message begins that was purged while others wait for its end."""


def waited_too_long(ttl: float) -> str:
    return f"{WAITED_TOO_LONG}: no worker took it within {ttl:g} s"


def overflowed(limit: int) -> str:
    return f"{OVERFLOWED}: the queue had {limit} newer or more urgent ones"


def purged() -> str:
    return f"{PURGED}: what waited in its queue was removed on request"


class Delivery(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One envelope in one worker's hands, under the worker's lease."""

    envelope: Envelope
    crashes: int = 0
    """How many workers died while they ran it."""
    suspect: bool = False
    """It was in a worker's hands before, and that worker was lost. It runs in the quarantine."""
    again: bool = False
    """It may have run to its end before: whether it has an outcome is looked up first."""
    verdict: str = ""
    """Why the broker would have buried or removed it by itself: its ``ttl``, an overflow, a purge.
    The worker ends it without running it, since its end arrives somewhere (`Header.ends`)."""
    token: Any = None
    """The driver's own handle."""


class Ack(msgspec.Struct, frozen=True, gc=False):
    """Done: forget it."""

    delivery: Delivery


class Nack(msgspec.Struct, frozen=True):
    """Give it back, to be delivered after ``delay`` seconds; without delay, at the head.

    Nothing is counted against it. A ``replacement`` takes its place under the same id (a retry).
    A broker that cannot put it at the head puts it at the end.
    """

    delivery: Delivery
    delay: float = 0.0
    replacement: Envelope | None = None


class Reject(msgspec.Struct, frozen=True):
    """Move it to the queue's dead letters, with the reason.

    A ``replacement`` is what lies there instead, and is sent again from there, under the same id.
    """

    delivery: Delivery
    reason: str
    last: LastAttempt | None = None
    replacement: Envelope | None = None


Settlement = Ack | Nack | Reject  # how a delivery ends


class Completion(msgspec.Struct, frozen=True, gc=False):
    """The end of one attempt: the record to keep, if any, and the settlement of its delivery."""

    settlement: Settlement
    record: Record | None = None
    stays: bool = False
    """Something follows from the record: it is kept, and the delivery stays in hand, to be settled
    once that is done."""


class Completed(msgspec.Struct, frozen=True):
    """What became of completions."""

    fenced: Sequence[Delivery] = ()
    """The deliveries that were not ours any more: nothing was done for them."""
    standing: Sequence[Record] = ()
    """Of those that stay in hand, the records that stood before: what follows is theirs to say."""


class QueueSpec(msgspec.Struct, frozen=True):
    """A queue as a consumer asks for it."""

    name: str
    prefetch: int | None = None
    """How much a broker that pushes may hand out unasked, what is not yet settled included; None:
    only what is asked for. A worker with one queue says how many slots it has."""


class Lease:
    """The right of one worker incarnation to what it holds.

    It belongs to the worker, not to a message: renewing costs the same whatever is in flight. What
    outlived a worker, the suspects, is claimed as far as the ``quarantine`` admits it.
    """

    __slots__ = (
        "_stretchers",
        "_watcher",
        "good_until",
        "held_to_the_end",
        "incarnation",
        "lost",
        "quarantine",
        "seconds",
        "waiting",
        "why_lost",
    )

    def __init__(
        self, incarnation: str, seconds: float, quarantine: Quarantine | None = None
    ) -> None:
        self.incarnation = incarnation
        """The worker's name and a number, as in ``0a1b2c3d4e5f-2``: its second lease."""
        self.seconds = seconds
        self.quarantine = quarantine or Quarantine()
        self.good_until = math.inf
        """By `time.monotonic`: later than this, others may own what is in flight. Written by who
        renews, read where a broker cannot check (a backend in another store)."""
        self.lost = False
        """Known to have ended; set once, by `lose`."""
        self.why_lost = ""
        self.held_to_the_end = False
        """It is known when it ended, and what was done before then was done under it."""
        self.waiting = 0
        """How many of the deliveries in the worker's hands wait for others and take no slot. A
        broker that bounds what is not settled (`QueueSpec.prefetch`) hands out as many more."""
        self._watcher: Callable[[], None] | None = None
        self._stretchers: list[Callable[[], None]] = []

    def stretch(self, waiting: int) -> None:
        """So many wait now."""
        self.waiting = waiting
        for tell in self._stretchers:
            tell()

    def on_stretch(self, tell: Callable[[], None]) -> None:
        """Call ``tell`` whenever `waiting` has changed."""
        self._stretchers.append(tell)

    def watch(self, tell: Callable[[], None]) -> None:
        """Call ``tell`` when the lease has ended, in whichever thread that is found out."""
        self._watcher = tell
        if self.lost:
            tell()

    def lose(self, why: str, *, at_this_moment: bool = False) -> None:
        """It has ended: whoever finds that out says so here, and its worker hears of it.

        ``at_this_moment``: and not before, so that what was done until now was done under it.
        """
        if not self.lost:
            self.why_lost, self.held_to_the_end = why, at_this_moment
            self.lost = True
            if self._watcher is not None:
                self._watcher()

    def is_good(self) -> bool:
        """Whether nobody else can own what is in flight."""
        return not self.lost and time.monotonic() < self.good_until


class ConsumerOffers(msgspec.Struct, frozen=True, kw_only=True):
    """What only some consumers can do: the method that does it, or None."""

    wait_and_receive: Callable[[int], Awaitable[Sequence[Delivery]]] | None = None
    """To wait and to claim is one round trip: `Consumer.receive` as soon as there is something to
    receive; none after a few seconds. What it may claim is as good as claimed while it waits: call
    it with slots in hand. Cancelled, it holds nothing. Raises as `Consumer.receive`."""
    take_no_more: Callable[[], Awaitable[None]] | None = None
    """It has messages in hand before it is asked for them: give back, uncounted, what was not
    received, and hold nothing but what was. That can be settled as before; `Consumer.receive` is
    not called again. Raises as `Consumer.settle`."""
    catch_up: Callable[[], Awaitable[None]] | None = None
    """It is pushed what it receives: return when it was pushed what was published before, as far as
    there is room for it. Raises as `Consumer.receive`."""
    complete: Callable[[Sequence[Completion]], Awaitable[Completed]] | None = None
    """Broker and backend are one store: keep each record (the first for an id stands), settle each
    delivery but those that stay, tell who waits; all or nothing for each completion. To do it again
    is safe. Raises as `Consumer.settle`."""


class Consumer(Protocol):
    """One worker's hands in one queue.

    `settle` may run while `wait` or `receive` does; none of the three runs twice at once.
    """

    @property
    def offers(self) -> ConsumerOffers:
        """What it can do besides; asked once, when the worker begins to consume."""
        ...

    async def wait(self) -> None:
        """Return when there may be something to receive. Holds nothing meanwhile.

        It may return early, and does so at least every few seconds: a wake-up that got lost costs
        time, never a message.

        Raises:
            BrokerUnavailable: the connection is gone; call again, it reconnects by itself.
        """
        ...

    async def receive(self, limit: int) -> Sequence[Delivery]:
        """Claim up to ``limit`` deliveries that are due, at once; possibly none.

        Suspects come as far as the lease's quarantine admits them, where they stay until they are
        settled, and in their order: none passes one that has to wait. They are the first of what
        is returned.

        Raises:
            BrokerUnavailable: what was claimed and never arrived has been given back or will be,
                uncounted, before the next call returns.
            LeaseLost: the broker gave this incarnation up.
        """
        ...

    async def settle(self, batch: Sequence[Settlement]) -> Sequence[Delivery]:
        """End these deliveries. Returns those that were not ours any more: nothing was done.

        Raises:
            BrokerUnavailable: some may have been settled; settling them again is safe.
        """
        ...


class LeaseRenewer(Protocol):
    """Renews leases from outside the event loop, on a connection of its own. Methods block."""

    def renew(self, incarnation: str, queues: Sequence[str], seconds: float) -> bool:
        """Make the lease last ``seconds`` from now. False: it had ended, and stays so.

        0 seconds end it now: the next sweep recovers what it held, as after a crash.

        Raises:
            BrokerUnavailable: not renewed; call again.
        """
        ...

    def release(self, incarnation: str, queues: Sequence[str]) -> int:
        """End the lease of a worker that is dead; returns how many messages it held.

        They are recovered at once, as `Leased.sweep` would when the lease has run out, and with
        the same blame. Where it held nothing, or was swept before, nothing happens.

        Raises:
            BrokerUnavailable: some may have been recovered; call again.
        """
        ...

    def close(self) -> None: ...


class Leased(Protocol):
    """A broker whose leases are records that somebody renews and sweeps."""

    @property
    def leases_are_shared(self) -> bool:
        """Whether another process can renew them: not where the store is in this one."""
        ...

    def renewer(self) -> LeaseRenewer:
        """A new renewer, for one thread or process."""
        ...

    async def sweep(self, queue: str) -> int:
        """Recover what workers held whose lease has ended; returns how many messages.

        They become suspects. If the dead worker held some already, these alone are charged with
        the crash; otherwise each is. Bounded work: call again while it returns more than nothing.
        """
        ...


class Offers(msgspec.Struct, frozen=True, kw_only=True):
    """What only some brokers can do, and who does it: the broker itself as a rule; None: nobody.

    A driver that can do nothing of it has ``Offers()``; whoever needs it does without, or says so.
    """

    leases: Leased | None = None
    admin: QueueAdmin | None = None
    finder: MessageFinder | None = None
    is_there: Callable[[str], Awaitable[bool]] | None = None
    """It cannot list all its queues, and knows of one whether it is there, whoever made it."""
    bind: Callable[[Sequence[Queue]], Awaitable[None]] | None = None
    """It routes by itself: `Broker.publish` takes envelopes that name an exchange.

    This makes the exchanges of these queues, which were declared before, and their bindings; raises
    as `Broker.declare`. Each queue that is bound gets a copy. The one in ``Envelope.queue`` arrives
    with the id that was sent, every other with that of `asyncq.language.topology.copy_id`; where
    ``queue`` is empty, all arrive with the id that was sent. With no queue bound, `Broker.publish`
    raises `Unroutable`."""


class Broker(Protocol):
    """Carries envelopes from clients to workers, each at least once.

    Within a queue and a priority, envelopes arrive in the order they were published unless one is
    delayed, given back, or was held by a worker that died. A higher priority comes first. Between
    queues nothing is promised. Entering connects; leaving closes what was opened.

    No message that ends at a latch (`Header.ends`) dies unseen. Where a broker would bury it by
    itself, or remove it, it is handed out instead, before all others and with the verdict
    (`Delivery.verdict`), which it keeps until it is settled. It counts neither for the length of
    its queue nor as a suspect unless a worker is lost with it.
    """

    @property
    def offers(self) -> Offers:
        """What it can do besides; the same from the start, connected or not."""
        ...

    @property
    def store(self) -> Hashable:
        """What it keeps its messages in; equal to a backend's ``store`` where that is the same."""
        ...

    async def __aenter__(self) -> Self: ...

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
        /,
    ) -> None: ...

    async def publish(self, envelopes: Sequence[Envelope]) -> None:
        """Store every envelope durably, each in its queue, in order.

        An id that the queue has already is kept as it is; so is one whose outcome is recorded,
        where the broker can see that.

        Raises:
            BrokerUnavailable: some may have been stored; publishing them again is safe.
            Refused: not these; names them. Of the others some may have been stored.
            QueueFull: not these, for want of room; the others for this queue are stored.
        """
        ...

    async def declare(self, queues: Sequence[Queue]) -> None:
        """Make these queues what they say they are, for all clients; others stay as they are.

        Their bounds hold for what is published from now on. Bindings are not its business.

        Raises:
            BrokerUnavailable: call again.
            ConfigurationError: there is such a queue, and it cannot be changed to this.
        """
        ...

    def consume(self, queue: QueueSpec, lease: Lease) -> AbstractAsyncContextManager[Consumer]:
        """Take deliveries from ``queue`` for the worker that holds ``lease``.

        Entering starts the lease for this queue. On exit it ends, and what was received and not
        settled goes back, uncounted. It may be left in another task than it was entered in.

        Raises, when it is entered:
            QueueUnavailable: not this queue just now; consumers of others are not touched by that.
            ConfigurationError: not this queue until something is changed; likewise.
            BrokerUnavailable: the broker is away.
        """
        ...
