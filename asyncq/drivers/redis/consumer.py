"""Taking deliveries from a Redis queue, and ending them."""

import contextlib
import math
from collections.abc import Sequence
from typing import Any

import anyio

from asyncq.drivers.redis.connection import (
    UNKNOWN_SCRIPT,
    Link,
    RedisSettings,
    lifetime,
    load_script,
)
from asyncq.drivers.redis.keys import dead_bounds, queue_key
from asyncq.drivers.redis.sizes import too_large
from asyncq.drivers.redis.spoiled import Queues
from asyncq.drivers.redis.wire import ReplyError
from asyncq.errors import BrokerUnavailable, ConfigurationError, LeaseLost
from asyncq.loggers import get_logger
from asyncq.seams.broker import (
    MAX_BATCH,
    Ack,
    Completion,
    Delivery,
    Lease,
    Nack,
    Reject,
    Settlement,
)
from asyncq.seams.dead import DeadLimits, pack_last
from asyncq.seams.packing import pack, unpack
from asyncq.seams.quarantine import NO_ADMISSION, Admission
from asyncq.seams.records import encode_record

log = get_logger(__name__)

LONGEST_WAIT = 2.0  # seconds blocked at a time; then we know that the server still answers
QUARANTINE_WAIT = 0.05  # seconds until another look when suspects wait for room in the quarantine
LEAVE_TIMEOUT = 5.0  # seconds to give back what is in flight; then the lease decides

# What the claim script says of crashes:
QUARANTINE_FULL = -2  # suspects wait for room in the quarantine
STANDS_BY = -3  # another worker has this queue for itself

SHORTEST_WAIT = 0.002  # seconds; Redis 6.2 takes one millisecond for none, and waits for ever

_CLAIM = load_script("asyncq.drivers.redis", "claim")
_SETTLE = load_script("asyncq.drivers.redis", "settle")
_ENTER = load_script("asyncq.drivers.redis", "enter")
_GIVE_BACK = load_script("asyncq.drivers.redis", "give_back")


class RedisConsumer:
    """One worker's hands in one Redis queue.

    Two connections: one waits and claims, one settles, so that neither waits for the other.
    """

    def __init__(
        self, settings: RedisSettings, queue: str, lease: Lease, limits: DeadLimits
    ) -> None:
        self._settings = settings
        self._queue = queue
        self._limits = limits
        self._bounds = dead_bounds(limits)
        self._base = queue_key(settings, queue)
        self._lease = lease
        self._records = settings.key("r", "")
        self._replies = settings.key("reply", "")
        self._claims = Link(settings, BrokerUnavailable)
        self._settles = Link(settings, BrokerUnavailable)
        self._odd: dict[str, bytes] = {}  # ids that are no text: as we write them -> as they are
        self._number = 0  # of the last claim; the token of its deliveries
        self._unheard: set[int] = set()  # claims whose reply never came
        self._suspects: set[str] = set()  # in the quarantine, and not settled
        self._awaited: Admission | None = (
            None  # what suspects found too little, as of the last claim
        )
        self._stands_by = False  # as of the last claim
        self._quarantine_left = anyio.Event()
        self._epoch = 0  # of the claiming connection; a claim sent on an older one finds nobody
        self._unsure: set[str] = set()  # settled, but the reply was lost
        self._next_due: float | None = None  # seconds, as of the last claim
        self._is_noted = False  # that nobody can be told of outcomes

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
            script = (_GIVE_BACK, self._base, self._lease.incarnation, "1")
            while await self._settles.script(*script) > 0:
                pass
        self._lease.quarantine.leave(len(self._suspects))
        self._suspects.clear()
        self._settles.close()

    async def wait(self) -> None:
        await self._reconnected()
        if self._awaited is not None:
            await self._wait_for_quarantine(self._awaited)
            return
        longest = self._longest_wait()
        await self._claims(*self._wake_up(longest), blocks=longest)

    async def receive(self, limit: int) -> Sequence[Delivery]:
        await self._reconnected()
        admission = self._lease.quarantine.reserve()
        crashes: Sequence[int] = ()
        try:
            reply = await self._claims.script(_CLAIM, *self._claim(limit, admission))
            crashes = reply[4]
        except ReplyError as error:
            raise await self._explain(error) from error
        finally:
            self._lease.quarantine.occupy(admission, crashes)
        return self._take_in(admission, reply)

    async def wait_and_receive(self, limit: int) -> Sequence[Delivery]:
        await self._reconnected()
        if self._awaited is not None:
            await self._wait_for_quarantine(self._awaited)
            return await self.receive(limit)
        longest = self._longest_wait()
        # The claim is sent behind the wait and carried out when that ends: a trip saved.
        claim = ("EVALSHA", _CLAIM.sha, 1, *self._claim(limit, NO_ADMISSION))
        try:
            _, reply = await self._claims.pipeline([self._wake_up(longest), claim], blocks=longest)
        except ReplyError as error:
            if error.code == UNKNOWN_SCRIPT:
                return await self.receive(limit)
            raise await self._explain(error) from error
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
        return await self.complete([Completion(settlement) for settlement in batch])

    async def complete(self, batch: Sequence[Completion]) -> Sequence[Delivery]:
        fenced: list[Delivery] = []
        for start in range(0, len(batch), MAX_BATCH):
            fenced += await self._complete(batch[start : start + MAX_BATCH])
        return fenced

    def _claim(self, limit: int, admission: Admission) -> tuple[Any, ...]:
        """Key and arguments of the claim script, for a new claim."""
        self._number += 1
        self._unheard.add(self._number)
        return (
            self._base,
            self._lease.incarnation,
            self._epoch,
            self._number,
            min(limit, MAX_BATCH),
            admission.together,
            1 if admission.alone else 0,
            *self._bounds,
        )

    def _wake_up(self, longest: float) -> tuple[Any, ...]:
        # Who stands by must not take the wake-ups of the one who has the queue.
        key = "standby" if self._stands_by else "wake"
        return ("BLPOP", f"{self._base}:{key}", longest)

    def _longest_wait(self) -> float:
        due, self._next_due = self._next_due, None
        return LONGEST_WAIT if due is None else min(LONGEST_WAIT, max(due, SHORTEST_WAIT))

    def _take_in(self, admission: Admission, reply: Sequence[Any]) -> Sequence[Delivery]:
        """The deliveries of a claim script's reply."""
        due, state, ids, blobs, crashes, gave_way = reply
        if gave_way:
            self._limits.note(self._queue, gave_way)
        self._unheard.discard(self._number)
        self._next_due = due / 1000 if due >= 0 else None
        self._awaited = admission if state == QUARANTINE_FULL else None
        self._stands_by = state == STANDS_BY
        if not ids:
            return ()
        try:
            names = [raw.decode() for raw in ids]
        except UnicodeDecodeError:
            names = [self._name(raw) for raw in ids]
        queue, token = self._queue, self._number
        deliveries = [
            Delivery(envelope=unpack(blob, name, queue), token=token)
            for name, blob in zip(names, blobs, strict=True)
        ]
        for place, count in enumerate(crashes):
            self._suspects.add(names[place])
            deliveries[place] = Delivery(
                envelope=deliveries[place].envelope, crashes=count, suspect=True, token=token
            )
        return deliveries

    async def _reconnected(self) -> None:
        """After the claiming connection was lost: give back what was claimed and never arrived."""
        if self._claims.is_connected:
            return
        in_flight = await self._announce(must_exist=True)
        unheard = [
            id
            for id, number in zip(in_flight[::2], in_flight[1::2], strict=True)
            if int(number) in self._unheard
        ]
        try:
            for start in range(0, len(unheard), MAX_BATCH):
                await self._settles.script(
                    _GIVE_BACK,
                    self._base,
                    self._lease.incarnation,
                    "0",
                    *unheard[start : start + MAX_BATCH],
                )
            self._unheard.clear()
        except BaseException:
            # Connected, we would not ask again what is in flight, and keep it for ever.
            self._claims.close()
            raise

    def _name(self, raw: bytes) -> str:
        """An id that other hands made may be anything; it must not take the worker down."""
        try:
            return raw.decode()
        except UnicodeDecodeError:
            name = raw.decode(errors="backslashreplace")
            self._odd[name] = raw
            return name

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
            raise await self._explain(error) from error

    async def _explain(self, error: ReplyError) -> BrokerUnavailable | LeaseLost:
        incarnation = self._lease.incarnation
        if error.code == "LEASELOST":
            return LeaseLost(incarnation)
        return await Queues(self._settings, self._settles).unavailable(
            self._queue, error, incarnation
        )

    async def _wait_for_quarantine(self, too_little: Admission) -> None:
        # No wake-up can be relied on: the one for the end of our suspect is often heard before
        # the reply that says so, and those in the quarantine may be of another queue.
        if self._lease.quarantine.admission == too_little:
            with anyio.move_on_after(QUARANTINE_WAIT):
                await self._quarantine_left.wait()

    async def _complete(self, batch: Sequence[Completion]) -> list[Delivery]:
        # By claim, and by how long and for whom to keep the record: a few groups, so that what is
        # said once for each need not be sent with each delivery.
        groups: dict[tuple[int, float, str | None], _Group] = {}
        odd = self._odd
        for completion in batch:
            settlement, record = completion.settlement, completion.record
            delivery = settlement.delivery
            if record is None:
                key = (delivery.token, 0.0, None)
            else:
                key = (delivery.token, record.keep, record.reply_to)
            group = groups.get(key)
            if group is None:
                group = groups[key] = _Group()
            group.deliveries.append(delivery)
            id = delivery.envelope.id
            if odd:
                id = odd.get(id, id)
            blob = b"" if record is None else encode_record(record)
            if isinstance(settlement, Ack):
                group.args += ("A" if delivery.suspect else "a", id, blob)
            else:
                op, detail, moment = _describe(settlement)
                group.args += (op, id, blob, detail, moment)
                if isinstance(settlement, Reject):
                    last = settlement.last
                    group.args.append(b"" if last is None else pack_last(last))
        sent: list[Delivery] = []
        args: list[Any] = []
        for (number, keep, address), group in groups.items():
            sent += group.deliveries
            kept = lifetime(keep) if keep > 0 else 0
            args += (len(group.deliveries), number, kept, address or "", *group.args)
        resent = bool(self._unsure) and not self._unsure.isdisjoint(map(_id, sent))
        try:
            positions: list[Any] = await self._settles.script(
                _SETTLE,
                self._base,
                self._lease.incarnation,
                1 if resent else 0,
                self._records,
                self._replies,
                *self._bounds,
                len(groups),
                *args,
            )
        except BaseException as error:
            self._unsure.update(map(_id, sent))
            if isinstance(error, ReplyError | BrokerUnavailable):
                raise await self._why_not(batch, error) from error
            raise
        if resent:
            self._unsure.difference_update(map(_id, sent))
        if self._suspects:
            self._leave_quarantine({_id(each) for each in sent if each.suspect})
        if positions:
            self._take_notes(positions)
        return [sent[position] for position in positions]

    async def _why_not(
        self, batch: Sequence[Completion], error: ReplyError | BrokerUnavailable
    ) -> Exception:
        """`Refused` where a record can never be stored: to try again would be for ever."""
        records = [each.record for each in batch if each.record is not None]
        sizes = [(record.id, len(encode_record(record))) for record in records]
        if (no := await too_large(self._settles, sizes)) is not None:
            return no
        if isinstance(error, ReplyError):
            return await self._explain(error)
        return BrokerUnavailable(str(error))

    def _take_notes(self, positions: list[Any]) -> None:
        """Take what the script says besides from the end of its answer."""
        last = positions[-1]
        if isinstance(last, bytes):
            self._note_unheard(positions.pop())
            last = positions[-1] if positions else 0
        if last < 0:
            self._limits.note(self._queue, -positions.pop())

    def _note_unheard(self, why: bytes) -> None:
        """Say once that outcomes are kept and cannot be pushed to who waits for them."""
        if not self._is_noted:
            self._is_noted = True
            log.warning(
                "results of queue %s reach their clients late, by polling: %r does not let us "
                "publish on channels; ACL SETUSER gives that right: +publish &%s* (%s)",
                self._queue, self._settings.url, self._replies, why.decode(errors="replace"),
            )  # fmt: skip

    def _leave_quarantine(self, settled: set[str]) -> None:
        leaving = self._suspects & settled
        if leaving:
            self._suspects -= leaving
            self._lease.quarantine.leave(len(leaving))
            self._quarantine_left.set()
            self._quarantine_left = anyio.Event()


def _id(delivery: Delivery) -> str:
    return delivery.envelope.id


class _Group:
    """Deliveries whose records are kept alike, and what the script is told of each."""

    __slots__ = ("args", "deliveries")

    def __init__(self) -> None:
        self.deliveries: list[Delivery] = []
        self.args: list[Any] = []


def _describe(settlement: Nack | Reject) -> tuple[str, bytes | str, str]:
    """Op, detail and moment, as the script takes them."""
    suspect = settlement.delivery.suspect
    if isinstance(settlement, Reject):
        replacement = settlement.replacement
        blob = "" if replacement is None else pack(replacement)
        return "R" if suspect else "r", blob, settlement.reason
    envelope = settlement.replacement or settlement.delivery.envelope
    eta = 0
    if settlement.replacement is not None and envelope.eta is not None:
        eta = math.ceil(envelope.eta * 1000)
    moment = f"{envelope.priority}:{eta}:{math.ceil(settlement.delay * 1000)}"
    blob = pack(envelope) if settlement.replacement else ""
    return "N" if suspect else "n", blob, moment
