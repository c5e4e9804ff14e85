"""Latches as a worker has to do with them: what arrives at them, which are due, who is missing.

What is promised is in `asyncq.seams.ledger`; what they release is sent in
`asyncq.worker.releases`.
"""

import random
from collections.abc import Iterable, Sequence

import anyio
import msgspec

from asyncq.errors import AsyncqError, ConfigurationError, Refused
from asyncq.language.effects import KEEP_EFFECTS, Append, Arrive, Effect, Hold, Send
from asyncq.language.message import (
    End,
    Failed,
    Failure,
    FailureType,
    Outcome,
    Succeeded,
    Unreadable,
    new_id,
)
from asyncq.language.record import Record
from asyncq.loggers import get_logger
from asyncq.outages import Outage
from asyncq.seams.backend import Backend
from asyncq.seams.ledger import SENDER_AWAY, Due, Ledger
from asyncq.worker.releases import Publish, Releases

log = get_logger(__name__)

MOST_VALUE = 256 * 1024  # bytes of an outcome that a latch keeps; a larger one is in its record
LOOK = 5.0  # seconds between two looks for latches that nobody looks after
A_MOMENT = 0.1  # seconds for which who cannot send is told of something
TURNS_LEFT = 3  # times as long, while a broker is away that something waits for
MOST_AUDITED = 10_000  # parts of one latch whose records are looked for at a time

_encode = msgspec.msgpack.Encoder().encode


def arrivals(ends: Sequence[End], outcome: Outcome) -> tuple[Arrive, ...]:
    """What the end of a message is to the latches that it ends at: ``value`` is the outcome."""
    if not ends:
        return ()
    value = _encode(outcome)
    if len(value) > MOST_VALUE:
        value = b""
    ok = isinstance(outcome, Succeeded)
    return tuple(Arrive(end.latch, end.part, ok, value) for end in ends)


def effects_of(record: Record, ends: Sequence[End]) -> Sequence[Effect]:
    """What follows from a record, for who has its message."""
    effects = record.effects or ()
    if not ends:
        return effects
    told = {(each.latch, each.part) for each in effects if isinstance(each, Arrive)}
    untold = [end for end in ends if (end.latch, end.part) not in told]
    return (*effects, *arrivals(untold, record.outcome))


class Latches:
    """Those of an app's backend, for one worker.

    One that ``is_eager`` is not there for long: it looks for what is due at once, and tries again
    soon what could not be sent.
    """

    def __init__(self, backend: Backend, publish: Publish, *, is_eager: bool = False) -> None:
        self._backend = backend
        self._sender = new_id()
        self._is_eager = is_eager
        self._is_looking = is_eager and backend.offers.ledger is not None
        self._audited: dict[str, str] = {}  # how far, of latches with more parts than one audit has
        self._releases = Releases(backend, publish, self.refuse, self._sender, is_eager=is_eager)

    @property
    def is_at_work(self) -> bool:
        """Whether it looks for what is due, or has something to send."""
        return self._is_looking or self._releases.is_at_work

    @property
    def sent(self) -> int:
        """How many messages it has sent that were released."""
        return self._releases.sent

    @property
    def unsent(self) -> int:
        """How many latches have released something that this worker could not send."""
        return self._releases.unsent

    async def apply(self, effects: Sequence[Hold | Arrive | Append]) -> Sequence[str]:
        """Carry these out; returns the latches that this worker is to `release`.

        Raises:
            BackendUnavailable, BackendError: some may not have been; to call again is safe.
            ConfigurationError: this backend has no latches, or no topics.
        """
        offers = self._backend.offers
        if appends := [each for each in effects if isinstance(each, Append)]:
            if offers.topics is None:
                raise ConfigurationError("a task adds to a topic, and this app's backend has none")
            await offers.topics.append(appends)
        if len(appends) == len(effects):
            return ()
        if offers.ledger is None:
            raise ConfigurationError(
                "a task is part of a workflow, which this app's backend cannot keep: give the app "
                "one that can, as in backend='redis://localhost'"
            )
        rest = [each for each in effects if not isinstance(each, Append)]
        return await offers.ledger.apply(rest, self._sender)

    async def refuse(self, sends: Sequence[Send], error: Refused) -> None:
        """Have messages that will never be sent end as failed: others may wait for their end.

        Raises as `apply`.
        """
        outcome = Failed(Failure(FailureType.REFUSED.value, error.why))
        records = [
            Record(
                each.envelope.id,
                outcome,
                keep=KEEP_EFFECTS,
                reply_to=each.envelope.reply_to,
                effects=arrivals(each.envelope.ends, outcome),
            )
            for each in sends
        ]
        stood = {each.id: each for each in await self._backend.store_records(records)}
        log.error("what follows from a task will never be sent, and has failed: %s", error)
        arriving = [
            effect
            for record, send in zip(records, sends, strict=True)
            for effect in effects_of(stood.get(record.id, record), send.envelope.ends)
            if isinstance(effect, Arrive)
        ]
        if arriving:
            for latch in await self.apply(arriving):
                self._releases.send_soon(latch)

    async def release(self, latch: str) -> None:
        """Try once to send what it has released; what does not go is tried again."""
        await self._releases.send(latch)

    async def look_after(self) -> None:
        """As long as the worker runs: send what nobody sends, find what nobody has told."""
        ledger = self._backend.offers.ledger
        if ledger is None:
            return
        async with anyio.create_task_group() as group:
            group.start_soon(self._releases.run)
            await self._look_for_due(ledger)

    async def _look_for_due(self, ledger: Ledger) -> None:
        outage = Outage("workflows are not looked after", "workflows are looked after again")
        if self._is_eager:
            await self._look(ledger, outage)
        while True:
            # Who is told of what it cannot send leaves the next turns to others.
            pause = LOOK * (TURNS_LEFT if self._releases.let_go else 1)
            await anyio.sleep(pause * (0.5 + random.random()))  # noqa: S311 - to spread them
            await self._look(ledger, outage)

    async def _look(self, ledger: Ledger, outage: Outage) -> None:
        self._is_looking = True
        try:
            # What it is told of may be what it cannot send: others are to be told of that soon.
            lease = A_MOMENT if self._releases.let_go else SENDER_AWAY
            await self._look_at_all(await ledger.due(self._sender, lease=lease), outage)
        except AsyncqError as error:
            outage.fail(error)
        # It must survive: it is what mends all else.
        except Exception:
            log.exception("looking after workflows failed")
        finally:
            self._is_looking = False

    async def _look_at_all(self, due: Sequence[Due], outage: Outage) -> None:
        errors: list[Exception] = []
        for each in due:  # one that cannot be read is to hold up none of the others
            try:
                await self._look_at(each.latch, has_unsent=each.has_unsent)
            except AsyncqError as error:
                errors.append(error)
            except Exception:
                log.exception("looking after a workflow failed")
        if errors:
            outage.fail(errors[0])
        else:
            outage.end()

    async def _look_at(self, latch: str, *, has_unsent: bool) -> None:
        if has_unsent or await self.audit(latch):
            await self.release(latch)

    async def audit(self, latch: str) -> bool:
        """Have those of its parts arrive that have ended though nobody told it.

        Of one with very many parts, so many of them, from where the audit before ended. Returns
        whether this worker is to `release` it then.
        """
        ledger = self._backend.offers.ledger
        if ledger is None:
            return False
        cursor, is_ours, looked_for = self._audited.pop(latch, ""), False, 0
        while looked_for < MOST_AUDITED:
            missing = await ledger.missing(latch, cursor)
            looked_for += len(missing.ids)
            records = await self._backend.fetch([id for _, id in missing.ids])
            found = [
                _arrival_of(record, latch, part)
                for (part, _), record in zip(missing.ids, records, strict=True)
                if record is not None and not isinstance(record.outcome, Unreadable)
            ]
            if found:
                log.info("a workflow waited for %d of its tasks that have ended", len(found))
                is_ours = bool(await ledger.apply(found, self._sender)) or is_ours
            if not (cursor := missing.cursor):
                return is_ours
        self._audited[latch] = cursor
        return is_ours


def latches_of(effects: Iterable[Effect]) -> set[str]:
    return {effect.latch for effect in effects if isinstance(effect, Hold | Arrive)}


def _arrival_of(record: Record, latch: str, part: str) -> Arrive:
    """What its record says of a part's arrival."""
    for effect in record.effects or ():
        if isinstance(effect, Arrive) and (effect.latch, effect.part) == (latch, part):
            return effect
    return arrivals([End(latch, part)], record.outcome)[0]
