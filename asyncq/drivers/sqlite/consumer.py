"""The consumer: one worker's hands in one queue of the file."""

import math
import sqlite3
from asyncio import CancelledError
from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import count

from anyio import move_on_after
from anyio.lowlevel import checkpoint

from asyncq.clock import Clock
from asyncq.drivers.sqlite import claims, leases, settlements
from asyncq.drivers.sqlite.connection import translated
from asyncq.drivers.sqlite.declared import active_until, stands_by
from asyncq.drivers.sqlite.envelopes import unpack
from asyncq.drivers.sqlite.settlements import Ended, Held, PackedCompletion
from asyncq.drivers.sqlite.store import SqliteStore
from asyncq.drivers.wakeup import Wakeup
from asyncq.errors import BrokerUnavailable, LeaseLost
from asyncq.seams.broker import (
    Completed,
    Completion,
    ConsumerOffers,
    Delivery,
    Lease,
    Settlement,
)
from asyncq.seams.dead import DeadLimits
from asyncq.seams.quarantine import Admission

LONGEST_WAIT = 3.0  # seconds; after that a consumer looks for itself
LEAVE_TIMEOUT = 5.0  # seconds to give back in; after that the lease decides


class SqliteConsumer:
    """Takes from one queue under a lease of its own. Its records are in the same file."""

    def __init__(
        self,
        store: SqliteStore,
        clock: Clock,
        queue: str,
        lease: Lease,
        limits: DeadLimits,
        *,
        durable: bool,
    ) -> None:
        self._store = store
        self._limits = limits
        self._clock = clock
        self._queue = queue
        self._lease = lease
        self._durable = durable
        self._number = 0  # of the lease's row
        self._claims = count(1)
        # What was reserved for claims that are not heard of.
        self._admissions: dict[int, Admission] = {}
        self._suspects: set[Held] = set()  # that are not settled
        self._astray: set[int] = set()  # claims that reached nobody; to be given back
        self._may_be_more = False
        self._stands_by = False  # another worker has this queue for itself, as of the last claim

    # Coming and leaving

    async def enter(self) -> None:
        with translated(self._store.path, BrokerUnavailable):
            await self._store.write(self._open)

    def _open(self, connection: sqlite3.Connection) -> None:
        ends = self._clock.now() + self._lease.seconds
        # Noted here and not by who waits: he may be cancelled, and leaves right behind.
        self._number = leases.open_lease(connection, self._lease.incarnation, self._queue, ends)

    async def leave(self) -> None:
        # Shielded: what is in flight would wait for the lease to end, and count as a crash.
        with move_on_after(LEAVE_TIMEOUT, shield=True):
            with suppress(sqlite3.Error):  # then, too
                await self._store.write(
                    lambda connection: leases.close_lease(connection, self._number),
                    committed=self._left,
                )
        for number in tuple(self._admissions):
            self._occupy(number)
        self._lease.quarantine.leave(len(self._suspects))
        self._suspects.clear()

    def _left(self, given_back: int) -> None:
        """In the writer's thread."""
        self._store.wake(self._queue, given_back)
        self._store.wake(_standby(self._queue))

    # Waiting and receiving

    @property
    def offers(self) -> ConsumerOffers:
        return ConsumerOffers(complete=self.complete)

    async def wait(self) -> None:
        await checkpoint()
        if self._may_be_more:
            self._may_be_more = False
            return
        wakeup, queue, admission = Wakeup(), self._queue, self._lease.quarantine.admission
        if self._stands_by:
            line = _standby(queue)
            poll = ClaimPoll(lambda file: active_until(file, queue), self._clock, wakeup)
        else:
            line = queue
            poll = ClaimPoll(
                lambda file: claims.ready_from(file, queue, admission), self._clock, wakeup
            )
        with self._store.waiting(line, wakeup, poll):
            try:
                with move_on_after(LONGEST_WAIT):
                    await wakeup.wait()
            except CancelledError:
                if wakeup.is_set:  # and we leave without looking: let another look
                    self._store.wake(line)
                raise

    async def receive(self, limit: int) -> Sequence[Delivery]:
        number = next(self._claims)
        admission = self._admissions[number] = self._lease.quarantine.reserve()
        try:
            with translated(self._store.path, BrokerUnavailable):
                rows, self._stands_by = await self._store.write(
                    lambda connection: self._claim(connection, number, limit, admission)
                )
        except CancelledError:
            # The claim is made even so: give it back, right behind it.
            self._astray.add(number)
            self._store.write_later(
                lambda connection: leases.give_back_claim(connection, self._number, number),
                committed=lambda given_back: self._given_back(number, given_back),
            )
            raise
        except BrokerUnavailable:
            self._occupy(number)
            raise
        if rows is None:
            self._occupy(number)
            raise LeaseLost(self._lease.incarnation)
        self._may_be_more = 0 < len(rows) == limit
        deliveries = [
            Delivery(
                envelope=unpack(packed, message_id, self._queue),
                crashes=crashes,
                suspect=bool(suspect),
                verdict=verdict or "",
                token=Held(seq, number, bool(suspect)),
            )
            for seq, suspect, crashes, message_id, packed, verdict, _ in rows
        ]
        suspects = [delivery for delivery in deliveries if delivery.suspect]
        self._suspects.update(delivery.token for delivery in suspects)
        self._occupy(number, [delivery.crashes for delivery in suspects])
        return deliveries

    def _claim(
        self, connection: sqlite3.Connection, number: int, limit: int, admission: Admission
    ) -> tuple[list[claims.Row] | None, bool]:
        """What was claimed, None without a lease; and whether another has the queue for itself."""
        for astray in tuple(self._astray):  # if giving them back failed, here is the next chance
            leases.give_back_claim(connection, self._number, astray)
        if not leases.is_there(connection, self._number):
            return None, False
        now = self._clock.now()
        if stands_by(connection, self._queue, self._number, now):
            return [], True
        rows = claims.take(connection, self._queue, limit, admission, now=now, limits=self._limits)
        claims.hold(connection, rows, self._number, number)
        return rows, False

    def _given_back(self, number: int, given_back: int) -> None:
        """In the writer's thread."""
        self._astray.discard(number)
        self._occupy(number)
        self._store.wake(self._queue, given_back)

    # Settling

    async def settle(self, batch: Sequence[Settlement]) -> Sequence[Delivery]:
        return (await self.complete([Completion(settlement) for settlement in batch])).fenced

    async def complete(self, batch: Sequence[Completion]) -> Completed:
        work = [PackedCompletion(completion) for completion in batch]
        with translated(self._store.path, BrokerUnavailable):
            ended = await self._store.write(
                lambda connection: settlements.complete(
                    connection,
                    self._queue,
                    self._number,
                    work,
                    now=self._clock.now(),
                    limits=self._limits,
                    is_here=self._store.subscriptions.is_here,
                ),
                durable=self._durable,
                committed=self._completed,
            )
        # An earlier call may have settled some, and been cancelled before it could say so.
        fenced = [delivery for delivery in ended.missing if not delivery.token.untold]
        for each in work:
            each.token.untold = False
        return Completed(fenced, ended.stood)

    def _completed(self, ended: Ended) -> None:
        """In the writer's thread."""
        suspects = False
        for token in ended.settled:
            token.untold = True
            if token.suspect:
                suspects = True
                self._leave_quarantine(token)
        for delivery in ended.missing:
            if delivery.suspect:
                self._leave_quarantine(delivery.token)
        self._store.subscriptions.deliver(ended.new)
        self._store.wake(self._queue, ended.given_back)
        if suspects:
            self._store.wake(self._queue)  # the next suspect may be waiting for the quarantine
        if ended.delayed:
            self._store.look_again()

    # The quarantine

    def _occupy(self, number: int, crashes: Sequence[int] = ()) -> None:
        """Say what came of the room that was reserved for a claim."""
        admission = self._admissions.pop(number, None)
        if admission is not None:
            self._lease.quarantine.occupy(admission, crashes)

    def _leave_quarantine(self, token: Held) -> None:
        """A suspect is settled, or was before."""
        if token in self._suspects:
            self._suspects.remove(token)
            self._lease.quarantine.leave()


class ClaimPoll:
    """Looks from when on there may be something to claim, and wakes then."""

    def __init__(
        self, look: Callable[[sqlite3.Connection], float], clock: Clock, wakeup: Wakeup
    ) -> None:
        self._look = look
        self._clock = clock
        self._wakeup = wakeup
        self._ready_from = math.inf

    def pause(self) -> float:
        return math.inf if self._wakeup.is_set else self._ready_from - self._clock.now()

    def look(self, connection: sqlite3.Connection) -> None:
        self._ready_from = self._look(connection)
        if self._ready_from <= self._clock.now():
            self._wakeup.wake()

    def give_up(self) -> None:
        self._wakeup.wake()  # whoever receives now hears why


def _standby(queue: str) -> str:
    """The line of those who wait for the active worker's end; no queue has such a name."""
    return f"{queue} standby"
