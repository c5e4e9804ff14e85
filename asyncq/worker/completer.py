"""The completer: what ended is recorded and settled, in batches as large as they come.

One per consumer. While one batch is under way the next gathers, so an idle worker answers after one
round trip and a busy one pays a fraction of it for each task.
"""

import asyncio
from collections.abc import Iterable, Sequence

import anyio

from asyncq.errors import (
    BackendError,
    BackendUnavailable,
    BrokerError,
    BrokerUnavailable,
    ConfigurationError,
    LeaseLost,
)
from asyncq.language.effects import KEEP_EFFECTS
from asyncq.language.envelope import LastAttempt
from asyncq.language.message import Failed, Failure, FailureType, Unreadable
from asyncq.language.record import Record
from asyncq.loggers import get_logger
from asyncq.outages import Outage
from asyncq.seams.backend import Backend
from asyncq.seams.broker import (
    MAX_BATCH,
    Completed,
    Completion,
    Consumer,
    Delivery,
    Lease,
    Reject,
    Settlement,
)
from asyncq.texts import counted
from asyncq.worker.followups import Following, FollowUps, left_of
from asyncq.worker.latches import Latches, arrivals, effects_of
from asyncq.worker.releases import Publish

log = get_logger(__name__)

SETTLE_TIMEOUT = 5.0  # seconds a closing worker goes on trying; after that the lease decides
CLOSED_WITHIN = 10.0  # seconds after a cancellation: what runs has as long as `Pool` says to end
FOLLOW_TIMEOUT = 3.0  # seconds until it leaves what is not sent yet to others
BACKLOG = 2  # how many times the pool's size may wait to be settled before claiming pauses


class Completer:
    """Carries out completions until it is closed and nothing is left."""

    def __init__(
        self,
        consumer: Consumer,
        backend: Backend,
        lease: Lease,
        publish: Publish,
        latches: Latches,
        *,
        unified: bool,
        room: int,
    ) -> None:
        self._consumer = consumer
        self._complete_at_once = consumer.offers.complete if unified else None
        self._follow_ups = FollowUps(latches, publish, self._followed)
        self._may_have_effects = False  # what is to be settled
        self._backend = backend
        self._lease = lease
        self._most = max(MAX_BATCH, room * BACKLOG)
        self.settled = 0
        """How many completions were carried out."""
        self._finished: list[Completion] = []
        self._news = asyncio.Event()
        self._less = asyncio.Event()
        self._under_way = False
        self._giving_up: asyncio.TimerHandle | None = None  # once closed
        self._outage = Outage("settling tasks is interrupted", "settling tasks goes on")
        self._shield = anyio.CancelScope(shield=True)

    @property
    def is_unified(self) -> bool:
        """Whether a record and its settlement are one step."""
        return self._complete_at_once is not None

    def add(self, completion: Completion) -> None:
        """Take over the end of a delivery."""
        if self._lease.lost:
            return  # it ended too late: others own it
        if completion.stays:
            self._may_have_effects = True
        if not self._finished:  # else `run` has not looked yet
            self._news.set()
        self._finished.append(completion)

    def _followed(self, completions: Iterable[Completion]) -> None:
        """What follows from these is sent, or left to whoever has them next."""
        if not self._lease.lost:
            self._finished += completions
        self._news.set()
        self._less.set()

    async def wait_for_room(self) -> None:
        """Return once there is not too much left to settle."""
        while len(self._finished) + self._follow_ups.waiting > self._most:
            self._less.clear()
            await self._less.wait()

    async def wait_until_settled(self) -> None:
        """Return once nothing is left to settle."""
        while self._finished or self._under_way or self._follow_ups.waiting:
            self._less.clear()
            await self._less.wait()

    def close(self) -> None:
        """Nothing more will be added: `run` returns when what is left is settled."""
        loop = asyncio.get_running_loop()
        self._shield.deadline = loop.time() + SETTLE_TIMEOUT
        self._giving_up = loop.call_later(FOLLOW_TIMEOUT, self._follow_ups.give_up)
        self._news.set()

    async def run(self) -> None:
        # Shielded: these tasks have run, and if we leave without saying so they run twice. It ends
        # because its owner always closes it, and then within SETTLE_TIMEOUT, also when a driver
        # does not answer.
        batch: Sequence[Completion] = ()
        with self._shield:
            async with anyio.create_task_group() as group:
                group.start_soon(self._follow_ups.run)
                while True:
                    try:
                        batch = batch or await self._next_batch()
                        if not batch:
                            break
                        self._under_way = True
                        await self._complete(batch)
                    except asyncio.CancelledError:
                        is_over = self._shield.cancel_called or group.cancel_scope.cancel_called
                        if is_over or not _outlives_cancellation():
                            raise
                        self._expect_to_be_closed()
                        continue
                    batch, self._under_way = (), False
                    self._less.set()
                if self._giving_up is not None:
                    self._giving_up.cancel()
                group.cancel_scope.cancel()
                return
        left = len(batch) + len(self._finished)
        if not left:
            return
        log.error(
            "%s could not be settled: they have ended, and run again when lease %s is over",
            counted(left, "task"), self._lease.incarnation,
        )  # fmt: skip

    def _expect_to_be_closed(self) -> None:
        """Wait for no owner for ever: he was cancelled as well, and may have ended before."""
        latest = asyncio.get_running_loop().time() + CLOSED_WITHIN
        self._shield.deadline = min(self._shield.deadline, latest)

    async def _next_batch(self) -> Sequence[Completion]:
        """What is to be carried out next, once there is something; nothing at the end."""
        while not self._finished and (self._giving_up is None or self._follow_ups.waiting):
            self._news.clear()
            await self._news.wait()
        batch, self._finished = self._finished[:MAX_BATCH], self._finished[MAX_BATCH:]
        return batch

    async def _complete(self, batch: Sequence[Completion]) -> None:
        while True:
            try:
                if fenced := await self._carry_out(batch):
                    log.warning(
                        "fenced: lease %s had ended, so no outcome of %s was stored; other workers "
                        "run them",
                        self._lease.incarnation,
                        counted(len(fenced), "task"),
                    )
                self.settled += len(batch)
            except (BrokerUnavailable, BackendUnavailable, ConfigurationError) as error:
                # The last: rights that were taken away come back, and what has run is kept.
                await anyio.sleep(self._outage.fail(error))
            except LeaseLost as error:
                log.warning(
                    "%s were not settled, as they belong to other workers now: %s",
                    counted(len(batch), "task"),
                    error,
                )
                return
            # A component that must survive: a message that no driver can settle is set aside,
            # where its neighbours and the next worker do not stumble over it.
            except Exception as error:
                log.exception("settling %s failed", counted(len(batch), "task"))
                await self._set_aside(batch, error)
                return
            else:
                if self._outage.error is not None:
                    self._outage.end()
                return

    async def _set_aside(self, batch: Sequence[Completion], error: Exception) -> None:
        """Try each alone; the one at fault goes to the dead letters, with an outcome."""
        if len(batch) > 1:
            for completion in batch:
                await self._complete([completion])
            return
        settlement = batch[0].settlement
        if isinstance(settlement, Reject) and settlement.reason.startswith(FailureType.UNSETTLED):
            return  # nor could that be settled: it stays leased
        await self._complete([_unsettled(settlement.delivery, error)])

    async def _carry_out(self, batch: Sequence[Completion]) -> Sequence[Delivery]:
        """Record and settle; what stays in hand is settled when what follows from it is done."""
        if self._complete_at_once is None:
            return await self._record_and_settle(batch)
        completed = await self._complete_at_once(batch)
        if self._may_have_effects and (staying := [each for each in batch if each.stays]):
            self._follow(staying, completed)
        return completed.fenced

    async def _record_and_settle(self, batch: Sequence[Completion]) -> Sequence[Delivery]:
        records = [completion.record for completion in batch if completion.record is not None]
        standing: Sequence[Record] = ()
        if records:
            # This backend cannot check who owns a message; so ours must be beyond doubt.
            if self._lease.lost and not self._lease.held_to_the_end:
                raise LeaseLost(self._lease.incarnation)
            if not self._lease.lost and not self._lease.is_good():
                raise BrokerUnavailable("the lease could not be renewed")
            standing = await self._backend.store_records(records)
        if not self._may_have_effects and not standing:
            return await self._consumer.settle([completion.settlement for completion in batch])
        # Others may have stored a record from which something follows where from ours nothing does.
        others = {record.id for record in standing if record.effects != ()}
        ending: list[Settlement] = []
        staying: list[Completion] = []
        for each in batch:
            if each.stays or (each.record is not None and each.record.id in others):
                staying.append(each)
            else:
                ending.append(each.settlement)
        fenced = await self._consumer.settle(ending) if ending else ()
        self._follow(staying, Completed(standing=standing))
        return fenced

    def _follow(self, batch: Sequence[Completion], completed: Completed) -> None:
        """Have the effects of what stands carried out, and then settle."""
        stood = {record.id: record for record in completed.standing}
        lost = {id(delivery) for delivery in completed.fenced}
        following: list[Following] = []
        for completion in batch:
            settlement, record = completion.settlement, completion.record
            delivery = settlement.delivery
            if lost and id(delivery) in lost:
                continue
            # Whoever was lost with it may have begun to send.
            are_suspect = delivery.suspect and (record is None or record.id in stood)
            if record is None:
                left = left_of(delivery.envelope)
                effects = () if left is None else left.effects or ()
            else:
                if stood:
                    standing = stood.get(record.id, record)
                    record = record if isinstance(standing.outcome, Unreadable) else standing
                effects = effects_of(record, delivery.envelope.ends)
            following.append(Following.of(settlement, effects, are_suspect=are_suspect))
        self._follow_ups.send(following)


def _outlives_cancellation() -> bool:
    """Go on although this task was cancelled, by a program that cancels every task of its loop.

    False if it was not: something that it waited for was.
    """
    task = asyncio.current_task()
    if task is None or not task.cancelling():
        return False
    task.uncancel()
    return True


def _unsettled(delivery: Delivery, error: Exception) -> Completion:
    why = f"{type(error).__name__} while it was settled"
    if isinstance(error, BrokerError | BackendError):  # in our words; others may say anything
        why += f": {error}"
    envelope = delivery.envelope
    failure = Failure(FailureType.UNSETTLED.value, why)
    outcome = Failed(failure)
    effects = arrivals(envelope.ends, outcome)
    keep = KEEP_EFFECTS if effects else 60.0
    record = Record(envelope.id, outcome, keep=keep, reply_to=envelope.reply_to, effects=effects)
    reject = Reject(delivery, f"{failure.type}: {why}", LastAttempt(failure))
    return Completion(reject, record, stays=bool(effects))
