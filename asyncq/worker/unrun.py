"""What becomes of a delivery without being run: its outcome stands, or nobody may or can run it."""

from collections.abc import Awaitable, Callable, Mapping

import msgspec

from asyncq.config import Config
from asyncq.errors import BackendError, NewerVersion, Undecodable
from asyncq.language.effects import KEEP_EFFECTS
from asyncq.language.message import Failed, Failure, FailureType, Unreadable
from asyncq.language.record import Record
from asyncq.language.scopes import begun_in
from asyncq.seams.backend import Backend
from asyncq.seams.broker import Ack, Completion, Delivery, Nack, Reject
from asyncq.seams.codec import Codec
from asyncq.texts import counted
from asyncq.worker.dead_letters import UNKNOWN_SINCE, DeadLetters
from asyncq.worker.followups import left_of
from asyncq.worker.latches import arrivals, effects_of
from asyncq.worker.prepared import PreparedTask
from asyncq.worker.tasks import TaskLog

ALREADY = "another delivery of it runs here already"
COPY_DELAY = 1.0  # seconds until the outcome of what it is a copy of is looked for again

DOOMS = {
    each.value: each
    for each in (FailureType.WAITED_TOO_LONG, FailureType.OVERFLOWED, FailureType.PURGED)
}


class Unrun:
    """Ends those of one worker; ``apart`` and ``made`` as in its executor, ``runs_already`` as in
    `Slots`."""

    def __init__(
        self,
        *,
        codec: Codec,
        backend: Backend,
        config: Config,
        now: Callable[[], float],
        worker: str,
        dead_letters: DeadLetters,
        log: TaskLog,
        made: Mapping[str, PreparedTask],
        apart: set[str],
        end_scopes_of: Callable[[str], Awaitable[None]],
        runs_already: Callable[[str], bool],
    ) -> None:
        self._decode = codec.decode
        self._backend = backend
        self._config = config
        self._now = now
        self._worker = worker
        self._dead_letters = dead_letters
        self._log = log
        self._made = made
        self._apart = apart
        self._end_scopes_of = end_scopes_of
        self._runs_already = runs_already

    def with_ends(self, delivery: Delivery) -> Delivery:
        """As it was before an older worker gave it back: that one knows of no `Header.ends`."""
        envelope = delivery.envelope
        if envelope.ends or UNKNOWN_SINCE not in envelope.headers:
            return delivery
        try:
            ends = self._decode(envelope).header.ends
        except (NewerVersion, Undecodable):
            return delivery
        envelope = msgspec.structs.replace(envelope, ends=ends)
        return msgspec.structs.replace(delivery, envelope=envelope)

    async def judge(self, delivery: Delivery) -> Completion | None:
        """What becomes of a delivery that may have run before; None if it is to run."""
        left = left_of(delivery.envelope)
        if left is not None and left.effects is not None:
            return Completion(left.settlement(delivery), stays=True)
        try:
            [record] = await self._backend.fetch([delivery.envelope.id])
            if record is None and left is None:
                if self._runs_already(delivery.envelope.id):  # its scopes are to stand
                    return self._leave_copy(delivery)
                await self._end_scopes_of(delivery.envelope.id)
        except BackendError as error:
            self._log.postponement(
                delivery.envelope, f"whether it has run is not known: {error}", 1.0, self._now()
            )
            return Completion(Nack(delivery, delay=1.0))
        if record is not None and isinstance(record.outcome, Unreadable):
            record = None
        if left is not None:
            return Completion(left.settlement(delivery), record, stays=record is not None)
        if record is not None:
            stays = bool(effects_of(record, delivery.envelope.ends))
            settlement = self._settle_again(delivery, record, stays=stays)
            return Completion(settlement, record, stays) if stays else Completion(settlement)
        if delivery.crashes >= self._config.max_crashes and not delivery.verdict:
            why = counted(
                delivery.crashes, "worker died while it ran it", "workers died while they ran it"
            )
            return self.reject(delivery, FailureType.WORKER_CRASHED, why)
        return None

    def _settle_again(self, delivery: Delivery, record: Record, *, stays: bool) -> Ack | Reject:
        """The end of a delivery whose outcome stands: only the settling was lost.

        A failure that was recorded and not settled is no dead letter yet. Something may follow from
        it first (``stays``); or its worker died in between. Where these are one step there is no
        between: then it was one, and was sent again since. So was what no worker died with.
        """
        outcome, envelope = record.outcome, delivery.envelope
        is_unsettled = stays or (delivery.suspect and envelope.queue in self._apart)
        if (
            isinstance(outcome, Failed)
            and is_unsettled
            and outcome.error.type != FailureType.PURGED
        ):
            prepared = self._made.get(record.task)
            if prepared is None or prepared.dead_letter:
                self._log.late_letter(envelope)
                return self._dead_letters.of_record(delivery, record, outcome.error)
        if not stays:  # else it comes for what follows from it
            self._log.skip(envelope)
        return Ack(delivery)

    def _leave_copy(self, delivery: Delivery) -> Completion:
        """Have it looked at later, and then as well look first whether it has an outcome."""
        envelope = delivery.envelope
        self._log.postponement(envelope, ALREADY, COPY_DELAY, self._now())
        later = msgspec.structs.replace(envelope, again=True, eta=None)
        return Completion(Nack(delivery, COPY_DELAY, later))

    def postpone(self, delivery: Delivery, kind: FailureType, why: str) -> Completion:
        """Give back what a newer worker may know how to run; reject it when none came in time."""
        now, envelope = self._now(), delivery.envelope
        since = envelope.headers.get(UNKNOWN_SINCE)
        if not isinstance(since, float):
            since = now
        if now - since >= self._config.unknown_ttl:
            return self.reject(delivery, kind, why)
        self._log.postponement(envelope, f"{kind}: {why}", self._config.unknown_delay, now)
        headers = {**envelope.headers, UNKNOWN_SINCE: since}
        replacement = msgspec.structs.replace(envelope, headers=headers, eta=None)
        return Completion(Nack(delivery, self._config.unknown_delay, replacement))

    def doomed(self, delivery: Delivery) -> Completion:
        """The end of what its broker would have buried or removed, and others wait for."""
        word, _, why = delivery.verdict.partition(": ")
        kind = DOOMS.get(word, FailureType.UNDECODABLE)  # other hands wrote another
        failure = Failure(kind.value, why)
        self._log.doomed(delivery.envelope, failure, self._now())
        if kind == FailureType.PURGED:  # it was to be gone
            return self._end_unrun(Ack(delivery), failure)
        return self._end_unrun(self._dead_letters.of_unrun(delivery, failure), failure)

    def reject(self, delivery: Delivery, kind: FailureType, why: str) -> Completion:
        """To the dead letters, with an outcome for whoever waits."""
        self._log.rejection(delivery.envelope, f"{kind}: {why}")
        failure = Failure(kind.value, why)
        return self._end_unrun(self._dead_letters.of_unrun(delivery, failure), failure)

    def _end_unrun(self, settlement: Ack | Reject, failure: Failure) -> Completion:
        envelope = settlement.delivery.envelope
        outcome, keep = Failed(failure), self._config.keep_result
        effects = arrivals(envelope.ends, outcome)
        record = Record(
            envelope.id,
            outcome,
            finished_at=self._now(),
            worker=self._worker,
            keep=max(keep, KEEP_EFFECTS) if effects else keep,
            reply_to=envelope.reply_to,
            effects=effects,
            begun=begun_in(envelope.headers),
        )
        return Completion(settlement, record, stays=bool(effects))
