"""Latches as a worker has to do with them: what arrives at them, what they release, who is missing.

What is promised is in `asyncq.seams.ledger`.
"""

import asyncio
import random
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence

import anyio
import msgspec

from asyncq.errors import (
    AsyncqError,
    BackendError,
    BackendUnavailable,
    BrokerUnavailable,
    ConfigurationError,
    QueueFull,
    Refused,
)
from asyncq.language.effects import Append, Arrive, Effect, Hold, Send
from asyncq.language.message import End, Outcome, Succeeded, Unreadable
from asyncq.language.record import Record
from asyncq.loggers import get_logger
from asyncq.outages import Outage
from asyncq.seams.backend import Backend

log = get_logger(__name__)

MOST_VALUE = 256 * 1024  # bytes of an outcome that a latch keeps; a larger one is in its record
LOOK = 5.0  # seconds between two looks for latches that nobody looks after
AWAY = 5.0  # seconds until a broker that did not take what was released is tried again
MOST_AUDITED = 10_000  # parts of one latch whose records are looked for at a time

Publish = Callable[[Sequence[Send]], Sequence["asyncio.Future[None]"]]

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
    """Those of an app's backend, for one worker."""

    def __init__(self, backend: Backend, publish: Publish) -> None:
        self._backend = backend
        self._publish = publish
        self._releasing: dict[str, anyio.Event] = {}
        self._done: dict[str, set[str]] = {}  # of what is released in part, ids that were taken
        self._away: dict[str, tuple[float, BrokerUnavailable]] = {}  # and until when: loop time

    async def apply(self, effects: Sequence[Hold | Arrive | Append]) -> Sequence[str]:
        """Carry these out; returns the latches that have something unsent.

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
        return await offers.ledger.apply([e for e in effects if not isinstance(e, Append)])

    async def release(self, latch: str) -> None:
        """Send all that it has released, one caller after the other.

        Raises:
            QueueFull, BrokerUnavailable, …: some is not sent, as publishing it raises.
            BackendUnavailable, BackendError: as the ledger raises.
        """
        while (under_way := self._releasing.get(latch)) is not None:
            await under_way.wait()  # then there is nothing left, or we try what did not go
        under_way = self._releasing[latch] = anyio.Event()
        try:
            await self._release(latch)
        finally:
            del self._releasing[latch]
            under_way.set()

    async def _release(self, latch: str) -> None:
        if (ledger := self._backend.offers.ledger) is None:
            return
        while (page := await ledger.unsent(latch)) is not None:
            done = self._done.get(latch, set())
            sends = [_from_now(send, page.released_at) for send in page.sends]
            error = await self._send([send for send in sends if send.envelope.id not in done])
            if error is None:
                self._done.pop(latch, None)
                await ledger.confirm(page)
                continue
            # What was taken may have run by the time that the rest is: it is not sent again.
            self._done[latch] = {send.envelope.id for send in sends} - error.ids
            left = next(at for at, send in enumerate(sends) if send.envelope.id in error.ids)
            if left:
                await ledger.confirm(msgspec.structs.replace(page, stop=page.start + left))
            raise error.error

    async def _send(self, sends: Sequence[Send]) -> "_NotSent | None":
        """Publish; the messages that were not taken and may be later, and why."""
        groups: dict[tuple[str, str], list[Send]] = defaultdict(list)
        failed: list[tuple[set[str], BaseException]] = []
        now = asyncio.get_running_loop().time()
        for send in sends:
            until, why = self._away.get(send.broker, (0.0, None))
            if why is not None and until > now:
                failed.append(({send.envelope.id}, why))
            else:
                groups[send.broker, send.envelope.queue].append(send)
        published: list[tuple[str, set[str], asyncio.Future[None]]] = []
        for (broker, _), group in groups.items():
            ids = {send.envelope.id for send in group}
            try:
                published += [(broker, ids, future) for future in self._publish(group)]
            except ConfigurationError as error:
                failed.append((ids, error))
        for broker, ids, future in published:
            try:
                await future
            except QueueFull as error:
                if left := ids & error.envelope_ids:
                    failed.append((left, error))
            except Refused as error:
                log.error("what a workflow sends will never be sent: %s", error)  # noqa: TRY400 - its trace says nothing
                if left := ids - error.envelope_ids:
                    failed.append((left, error))
            except BrokerUnavailable as error:
                # Each that waits for it would take as long as publishing may.
                self._away[broker] = (asyncio.get_running_loop().time() + AWAY, error)
                failed.append((ids, error))
            except AsyncqError as error:
                failed.append((ids, error))
        if not failed:
            return None
        return _NotSent(set[str]().union(*(ids for ids, _ in failed)), failed[0][1])

    async def look_after(self) -> None:
        """As long as the worker runs: send what nobody sends, find what nobody has told."""
        ledger = self._backend.offers.ledger
        if ledger is None:
            return
        outage = Outage("workflows are not looked after", "workflows are looked after again")
        while True:
            await anyio.sleep(LOOK * (0.5 + random.random()))  # noqa: S311 - to spread them
            try:
                due = await ledger.due()
            except AsyncqError as error:
                outage.fail(error)
                continue
            # It must survive: it is what mends all else.
            except Exception:
                log.exception("looking after workflows failed")
                continue
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
        if not has_unsent:
            has_unsent = await self.audit(latch)
        if has_unsent:
            try:
                await self.release(latch)
            except (BackendUnavailable, BackendError):
                raise
            except AsyncqError as error:  # a queue that is full, say: it is due again
                log.warning("what a workflow has released is not sent yet: %s", error)

    async def audit(self, latch: str) -> bool:
        """Have those of its parts arrive that have ended though nobody told it.

        Returns whether it has something unsent then.
        """
        ledger = self._backend.offers.ledger
        if ledger is None:
            return False
        cursor, has_unsent, looked_for = "", False, 0
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
                has_unsent = bool(await ledger.apply(found)) or has_unsent
            if not (cursor := missing.cursor):
                break
        return has_unsent


class _NotSent(msgspec.Struct, frozen=True):
    ids: set[str]
    error: BaseException


def latches_of(effects: Iterable[Effect]) -> set[str]:
    return {effect.latch for effect in effects if isinstance(effect, Hold | Arrive)}


def _arrival_of(record: Record, latch: str, part: str) -> Arrive:
    """What its record says of a part's arrival."""
    for effect in record.effects or ():
        if isinstance(effect, Arrive) and (effect.latch, effect.part) == (latch, part):
            return effect
    return arrivals([End(latch, part)], record.outcome)[0]


def _from_now(send: Send, released_at: float) -> Send:
    """What was held counts its times from its release."""
    envelope = send.envelope
    if envelope.eta is None and envelope.expires is None:
        return send
    eta = None if envelope.eta is None else released_at + envelope.eta
    expires = None if envelope.expires is None else released_at + envelope.expires
    return Send(msgspec.structs.replace(envelope, eta=eta, expires=expires), send.broker)
