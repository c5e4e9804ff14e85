"""Taking deliveries from a Redis queue, and ending them."""

import contextlib
from collections.abc import Sequence
from typing import Any, Literal

import anyio

from asyncq.drivers.redis.causes import queue_unavailable, too_large
from asyncq.drivers.redis.connection import UNKNOWN_SCRIPT, Link, RedisStore, Script, dead_bounds
from asyncq.drivers.redis.in_flight import InFlight, name_of
from asyncq.drivers.redis.settlements import OddIds, odd_id, pack_batch
from asyncq.drivers.redis.wire import ReplyError
from asyncq.errors import BrokerUnavailable, ConfigurationError, LeaseLost
from asyncq.loggers import get_logger
from asyncq.seams.broker import (
    MAX_BATCH,
    Completed,
    Completion,
    ConsumerOffers,
    Delivery,
    Lease,
    Settlement,
)
from asyncq.seams.dead import DeadLimits
from asyncq.seams.packing import unpack
from asyncq.seams.quarantine import NO_ADMISSION, Admission
from asyncq.seams.records import encode_record, read_record
from asyncq.texts import counted

log = get_logger(__name__)

LONGEST_WAIT = 2.0  # seconds blocked at a time; then we know that the server still answers
QUARANTINE_WAIT = 0.05  # seconds until another look when suspects wait for room in the quarantine
LEAVE_TIMEOUT = 5.0  # seconds to give back what is in flight; then the lease decides

# What the claim script says of crashes:
QUARANTINE_FULL = -2  # suspects wait for room in the quarantine
STANDS_BY = -3  # another worker has this queue for itself

SHORTEST_WAIT = 0.002  # seconds; Redis 6.2 takes one millisecond for none, and waits for ever

NOTHING_ODD = Completed()

_CLAIM = Script("claim")
_ENTER = Script("enter")
_SETTLE = Script("settle")
_GIVE_BACK = Script("give_back")


class RedisConsumer:
    """One worker's hands in one Redis queue.

    Two connections: one waits and claims, one settles, so that neither waits for the other.
    """

    def __init__(self, store: RedisStore, queue: str, lease: Lease, limits: DeadLimits) -> None:
        self._queue = queue
        self._limits = limits
        self._bounds = dead_bounds(limits)
        self._base = store.queue_key(queue)
        self._records = store.key("r", "")
        self._replies = store.key("reply", "")
        self._lease = lease
        self._claims = Link(store, BrokerUnavailable)
        self._settles = Link(store, BrokerUnavailable)
        self._in_flight = InFlight(lease.quarantine)
        self._unsure: set[str] = set()  # settled, but the reply was lost
        self._odd: OddIds = {}
        self._is_noted = False  # that nobody can be told of outcomes
        self._epoch = 0  # of the claiming connection; a claim sent on an older one finds nobody
        # As of the last claim:
        self._awaited: Admission | None = None  # what suspects found too little
        self._stands_by = False
        self._next_due: float | None = None  # seconds

    async def enter(self) -> None:
        try:
            await self._announce(must_exist=False)
        except BaseException:
            self._claims.close()
            self._settles.close()
            raise

    async def leave(self) -> None:
        """Give back what is still in flight, and end the lease in this queue."""
        # Shielded: a worker that leaves on cancellation must not keep others waiting for the
        # lease to run out. Bounded: then the lease decides after all.
        with (
            anyio.move_on_after(LEAVE_TIMEOUT, shield=True),
            contextlib.suppress(BrokerUnavailable, ConfigurationError, ReplyError),
        ):
            self._claims.close()
            while await self._settles.script(
                _GIVE_BACK, self._base, self._lease.incarnation, "all"
            ):
                pass
        self._in_flight.clear()
        self._settles.close()

    @property
    def offers(self) -> ConsumerOffers:
        return ConsumerOffers(wait_and_receive=self.wait_and_receive, complete=self.complete)

    async def wait(self) -> None:
        await self._reconnected()
        if self._awaited is not None:
            await self._wait_for_quarantine(self._awaited)
            return
        wake_up = self._wake_up()
        await self._claims(*wake_up, blocks=wake_up[2])

    async def receive(self, limit: int) -> Sequence[Delivery]:
        await self._reconnected()
        admission = self._lease.quarantine.reserve()
        crashes: Sequence[int] = ()
        try:
            reply = await self._claims.script(_CLAIM, *self._claim(limit, admission))
            crashes = reply[4]
        except ReplyError as error:
            raise await self._explained(error) from error
        finally:
            self._lease.quarantine.occupy(admission, crashes)
        return self._take_in(admission, reply)

    async def wait_and_receive(self, limit: int) -> Sequence[Delivery]:
        await self._reconnected()
        if self._awaited is not None:
            await self._wait_for_quarantine(self._awaited)
            return await self.receive(limit)
        wake_up = self._wake_up()
        # The claim is sent behind the wait and carried out when that ends: a trip saved.
        claim = ("EVALSHA", _CLAIM.sha, 1, *self._claim(limit, NO_ADMISSION))
        try:
            _, reply = await self._claims.pipeline([wake_up, claim], blocks=wake_up[2])
        except ReplyError as error:
            if error.code == UNKNOWN_SCRIPT:
                return await self.receive(limit)
            raise await self._explained(error) from error
        except anyio.get_cancelled_exc_class():
            # Shielded: what it may have claimed must not wait for the worker's end. Bounded: then
            # it does.
            with (
                anyio.move_on_after(LEAVE_TIMEOUT, shield=True),
                contextlib.suppress(BrokerUnavailable, LeaseLost),
            ):
                await self._reconnected()
            raise
        return self._take_in(NO_ADMISSION, reply)

    async def settle(self, batch: Sequence[Settlement]) -> Sequence[Delivery]:
        return (await self.complete([Completion(settlement) for settlement in batch])).fenced

    async def complete(self, batch: Sequence[Completion]) -> Completed:
        if len(batch) <= MAX_BATCH:
            return await self._complete(batch) if batch else NOTHING_ODD
        parts = [
            await self._complete(batch[start : start + MAX_BATCH])
            for start in range(0, len(batch), MAX_BATCH)
        ]
        return Completed(
            [delivery for part in parts for delivery in part.fenced],
            [record for part in parts for record in part.standing],
        )

    async def _unstored(
        self, batch: Sequence[Completion], error: ReplyError | BrokerUnavailable
    ) -> Exception:
        """Why these were not ended."""
        # A record that can never be stored: to try again would be for ever.
        records = [each.record for each in batch if each.record is not None]
        sizes = [(record.id, len(encode_record(record))) for record in records]
        if (no := await too_large(self._settles, sizes)) is not None:
            return no
        return await self._explained(error) if isinstance(error, ReplyError) else error

    def _note_unheard(self, why: bytes) -> None:
        """Say once that nobody can be told of outcomes, if it is so."""
        if why and not self._is_noted:
            self._is_noted = True
            log.warning(
                "results of queue %s reach their clients late, by polling: %r does not let us "
                "publish on channels; ACL SETUSER gives that right: +publish &%s* (%s)",
                self._queue, self._settles.store.url, self._replies,
                why.decode(errors="replace"),
            )  # fmt: skip

    async def _complete(self, batch: Sequence[Completion]) -> Completed:
        groups, told = pack_batch(batch, self._odd)
        unsure = self._unsure
        is_resent = bool(unsure) and any(not unsure.isdisjoint(group.ids()) for group in groups)
        try:
            reply: tuple[list[int], int, bytes, list[bytes]] = await self._settles.script(
                _SETTLE,
                self._base,
                self._lease.incarnation,
                1 if is_resent else 0,
                self._records,
                self._replies,
                *self._bounds,
                *told,
            )
        except BaseException as error:
            for group in groups:
                unsure.update(group.ids())
            if isinstance(error, ReplyError | BrokerUnavailable):
                raise await self._unstored(batch, error) from error
            raise
        fenced, gave_way, unheard, stood = reply
        for group in groups:
            ids = group.ids()
            if not group.stays:
                self._in_flight.settled(group.claim, ids)
            if is_resent:
                unsure.difference_update(ids)
        if gave_way:
            self._limits.note(self._queue, gave_way)
        self._note_unheard(unheard)
        if not fenced and not stood:
            return NOTHING_ODD
        pairs = zip(stood[::2], stood[1::2], strict=True)
        standing = [read_record(name_of(id), raw) for id, raw in pairs]
        sent = [(group.claim, id) for group in groups for id in group.ids()]
        lost = {sent[position] for position in fenced}
        deliveries = [completion.settlement.delivery for completion in batch]
        return Completed(
            [each for each in deliveries if (each.token, each.envelope.id) in lost], standing
        )

    def _claim(self, limit: int, admission: Admission) -> tuple[Any, ...]:
        """Key and arguments of the claim script, for a new claim."""
        return (
            self._base,
            self._lease.incarnation,
            self._epoch,
            self._in_flight.begin_claim(),
            min(limit, MAX_BATCH),
            admission.together,
            1 if admission.alone else 0,
            *self._bounds,
        )

    def _wake_up(self) -> tuple[str, str, float]:
        """The command that waits for something to claim, for so many seconds."""
        due, self._next_due = self._next_due, None
        longest = LONGEST_WAIT if due is None else min(LONGEST_WAIT, max(due, SHORTEST_WAIT))
        # Who stands by must not take the wake-ups of the one who has the queue.
        key = "standby" if self._stands_by else "wake"
        return "BLPOP", f"{self._base}:{key}", longest

    def _take_in(self, admission: Admission, reply: Sequence[Any]) -> Sequence[Delivery]:
        """The deliveries of a claim script's reply."""
        due, state, ids, blobs, crashes, gave_way, verdicts = reply
        if gave_way:
            self._limits.note(self._queue, gave_way)
        self._next_due = due / 1000 if due >= 0 else None
        self._awaited = admission if state == QUARANTINE_FULL else None
        self._stands_by = state == STANDS_BY
        try:
            names = [raw.decode() for raw in ids]
        except UnicodeDecodeError:
            names = [name_of(raw) for raw in ids]
            self._odd |= {
                name: odd_id(raw)
                for name, raw in zip(names, ids, strict=True)
                if name.encode() != raw
            }
        self._in_flight.take_in(names, len(crashes))
        queue, token = self._queue, self._in_flight.claim
        deliveries = [
            Delivery(envelope=unpack(blob, name, queue), token=token)
            for name, blob in zip(names, blobs, strict=True)
        ]
        for place, verdict in enumerate(verdicts):  # on suspects, and behind them on the doomed
            suspect = place < len(crashes)
            deliveries[place] = Delivery(
                envelope=deliveries[place].envelope,
                crashes=crashes[place] if suspect else 0,
                suspect=suspect,
                verdict=verdict.decode(errors="replace"),
                token=token,
            )
        return deliveries

    async def _reconnected(self) -> None:
        """After the claiming connection was lost: give back what is in flight and not in our hands.

        No claim is under way. What is being settled is in our hands until that is answered.
        """
        if self._claims.is_connected:
            return
        found = await self._announce(must_exist=True)
        unheard, settled = self._in_flight.strays(found)
        try:
            await self._give_back(unheard, "unheard")
            await self._give_back(settled, "again")
        except BaseException:
            # Connected, we would not ask again what is in flight, and keep it for ever.
            self._claims.close()
            raise
        self._in_flight.gave_back_strays()
        if settled:
            log.warning(
                "%s of queue %s, settled before, were in flight again after a reconnect (a replica "
                "that lagged behind became the master?): requeued, and may run again",
                counted(len(settled), "message"), self._queue,
            )  # fmt: skip

    async def _give_back(self, ids: Sequence[bytes], which: Literal["unheard", "again"]) -> None:
        """Give these back, uncounted; of what may have run (``again``) the outcome is looked up."""
        for start in range(0, len(ids), MAX_BATCH):
            part = ids[start : start + MAX_BATCH]
            await self._settles.script(
                _GIVE_BACK, self._base, self._lease.incarnation, which, *part
            )

    async def _explained(self, error: ReplyError) -> BrokerUnavailable | LeaseLost:
        incarnation = self._lease.incarnation
        if error.code == "LEASELOST":
            return LeaseLost(incarnation)
        return await queue_unavailable(self._settles, self._queue, error, incarnation)

    async def _announce(self, *, must_exist: bool) -> list[bytes]:
        self._epoch += 1
        try:
            return await self._claims.script(
                _ENTER,
                self._base,
                self._lease.incarnation,
                self._epoch,
                int(self._lease.seconds * 1000),
                1 if must_exist else 0,
            )
        except ReplyError as error:
            raise await self._explained(error) from error

    async def _wait_for_quarantine(self, too_little: Admission) -> None:
        # No wake-up can be relied on: the one for the end of our suspect is often heard before
        # the reply that says so, and those in the quarantine may be of another queue.
        if self._lease.quarantine.admission == too_little:
            with anyio.move_on_after(QUARANTINE_WAIT):
                await self._in_flight.quarantine_left.wait()
