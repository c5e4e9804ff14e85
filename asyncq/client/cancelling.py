"""Cancelling: what a client does to have messages end, whoever sent them and wherever they are.

A mark is left in the backend, where every worker finds it, also one that is off meanwhile
(`asyncq.language.marks`, `asyncq.worker.cancellations`). What waits has its outcome written here
and at once, so that nobody waits until a worker comes to it; the worker that does drops it. What
runs is ended by its worker. Where a broker cannot say what it has (RabbitMQ), the workers get a
moment to tell of what they run, and then the outcome is written here as well.
"""

from collections.abc import Callable, Hashable, Iterable, Sequence
from contextlib import suppress
from typing import Any, cast

import anyio

from asyncq.client.operate import Operator
from asyncq.client.places import find_place
from asyncq.client.result import Result
from asyncq.client.scope import Scope
from asyncq.client.task import Task, check_id, check_task_name, plain_headers
from asyncq.client.values.encoding import encode
from asyncq.errors import (
    BackendError,
    BackendUnavailable,
    ConfigurationError,
    InvalidValue,
    NewerVersion,
    Undecodable,
)
from asyncq.language.effects import KEEP_EFFECTS
from asyncq.language.envelope import Envelope
from asyncq.language.marks import (
    ASKED,
    KIND,
    MOST_IDS,
    Cancellation,
    Mark,
    check_reason,
    write_mark,
)
from asyncq.language.message import (
    LAST_ERROR,
    Cancelled,
    Message,
    Status,
    Unreadable,
    new_id,
)
from asyncq.language.record import Record
from asyncq.language.scopes import (
    IT_IS_OVER,
    KEEP_NEWS,
    KEEP_OVER,
    begun_in,
    is_name,
    over,
    why_over,
)
from asyncq.language.scopes import KIND as SCOPES
from asyncq.language.topology import check_queue_name
from asyncq.seams.backend import Backend
from asyncq.seams.feeds import WRITTEN_FOR_OTHERS
from asyncq.seams.registry import Registry

HEARD_WITHIN = 0.03  # seconds until workers have heard of a mark, and begin nothing that has it
WITHIN = 0.3  # seconds in which the worker that runs it says so, where a broker cannot
LOOK = 0.03  # seconds between two looks for that
MOST_TRIES = 5  # of a change that others make at the same moment
MOST_HEADERS = 10_000  # bytes of what a mark compares


class Canceller:
    """Cancels for one client. Its methods raise `BackendUnavailable` and `BrokerUnavailable` where
    these do not answer: some may be cancelled then, and to call again is safe."""

    def __init__(
        self,
        backend: Backend,
        operator: Operator,
        *,
        decode: Callable[[Envelope], Message],
        now: Callable[[], float],
        keep: float,
        keep_marks: float,
        task: Callable[[str], Task[..., Any] | None],
        told: Callable[[Iterable[str]], None],
        scope_is_over: Callable[[str, str], None],
    ) -> None:
        self._backend = backend
        self._operator = operator
        self._decode = decode
        self._now = now
        self._keep = max(keep, KEEP_EFFECTS)  # seconds, of outcomes
        self._keep_marks = keep_marks
        self._task = task  # of that name
        self._told = told  # whose outcomes were written here, and nobody may have been told
        self._scope_is_over = scope_is_over  # its name and why: it may have been opened here

    @property
    def writes_for_others(self) -> bool:
        """Whether it may write outcomes of which it does not know who waits for them."""
        return not self._operator.sees_all and self._backend.offers.registry is not None

    async def cancel(self, ids: Sequence[str], reason: str) -> dict[str, Cancellation]:
        """Cancel these; says for each what became of it.

        Raises:
            ConfigurationError: the backend keeps no marks.
        """
        reason, registry = check_reason(reason), self._registry()
        answers: dict[str, Cancellation] = {}
        marked: list[str] = []
        for start in range(0, len(ids), MOST_IDS):
            marked += await self._mark(registry, ids[start : start + MOST_IDS], reason, answers)
        if marked:
            await anyio.sleep(HEARD_WITHIN)
        for start in range(0, len(marked), MOST_IDS):
            await self._end(marked[start : start + MOST_IDS], reason, answers)
        if (place := find_place()) is not None:
            place.excuse(ids)
        return answers

    async def cancel_any(
        self,
        messages: Iterable[Result[Any] | str] | Result[Any] | str | None,
        reason: str,
        *,
        task: str | Task[..., Any] | None,
        queue: str | None,
        headers: dict[str, Any] | None,
        scope: Scope | str | None,
    ) -> dict[str, Cancellation]:
        """As `App.cancel`."""
        is_described = task is not None or queue is not None or headers is not None
        is_named = isinstance(cast("Any", messages), Result | Iterable)
        ways = (messages is not None) + is_described + (scope is not None)
        if ways != 1 or (messages is not None and not is_named):
            allowed = "either results or ids, or a task=, queue= or headers=, or a scope= to go by"
            raise InvalidValue("what is cancelled", messages, allowed)
        if messages is not None:
            given = [messages] if isinstance(messages, Result | str) else messages
            ids = [each.id if isinstance(each, Result) else each for each in given]
            for id in ids:
                check_id(id)
            return await self.cancel(list(dict.fromkeys(ids)), reason)
        if scope is not None:
            name = _name_of(scope, self._backend.store)
            await self.cancel_scope(name, reason)
            self._scope_is_over(name, reason)
            return {}
        if queue is not None:
            check_queue_name(queue)
        if headers == {}:
            raise InvalidValue("headers", headers, "at least one header to go by, or None")
        plain = None if headers is None else plain_headers(headers)
        if isinstance(task, str):
            check_task_name(task)
            task = self._task(task) or task
        names = (task.name, *task.settings.aliases) if isinstance(task, Task) else (task,)
        for name in names:
            await self.cancel_all(reason, task=name, queue=queue, headers=plain)
        return {}

    async def cancel_all(
        self, reason: str, *, task: str | None, queue: str | None, headers: dict[str, Any] | None
    ) -> None:
        """Cancel whatever was sent until now and is all of this; workers find it as they come to
        it. Raises as `cancel`."""
        if task is None and queue is None and not headers:
            raise InvalidValue(
                "what is cancelled", None, "ids, or a task, a queue or headers to go by"
            )
        if headers and len(memoryview(encode(headers))) > MOST_HEADERS:
            raise InvalidValue("headers", headers, f"at most {MOST_HEADERS} bytes")
        mark = Mark(
            at=self._now(), reason=check_reason(reason), task=task, queue=queue, headers=headers
        )
        await self._put(self._registry(), mark)

    async def cancel_scope(self, name: str, reason: str, ids: Sequence[str] = ()) -> None:
        """Say that a scope is over: whatever belongs to it ends, or never starts. What of these ids
        waits has its outcome at once. Raises as `cancel`."""
        reason, registry = check_reason(reason), self._registry()
        asks = not self._operator.sees_all
        mark = Mark(at=self._now(), reason=reason or IT_IS_OVER, scope=name, asks=asks)
        if await _end_scope(registry, name, reason):
            await registry.put(KIND, new_id(), write_mark(mark), version=0, keep=KEEP_NEWS)
        answers: dict[str, Cancellation] = {}
        if ids:
            await anyio.sleep(HEARD_WITHIN)
            for start in range(0, len(ids), MOST_IDS):
                await self._end(ids[start : start + MOST_IDS], mark.reason, answers)

    async def spare(self, ids: Sequence[str]) -> None:
        """What was cancelled until now does not concern these any more: they are to run again."""
        registry = self._backend.offers.registry
        if registry is None or not ids:
            return
        is_anything_cancelled = (await registry.list(KIND, limit=1)).entries
        if not is_anything_cancelled and not (await registry.list(SCOPES, limit=1)).changes:
            return
        for start in range(0, len(ids), MOST_IDS):
            page = tuple(ids[start : start + MOST_IDS])
            await self._put(registry, Mark(at=self._now(), ids=page, spares=True))

    def _registry(self) -> Registry:
        offers = self._backend.offers
        if offers.registry is None or offers.topics is None:
            raise ConfigurationError(
                "what is cancelled is marked in the backend, and this app's backend keeps no "
                "marks: give the app one that does, as in backend='redis://localhost'"
            )
        return offers.registry

    async def _put(self, registry: Registry, mark: Mark, keep: float = 0.0) -> None:
        keep = max(keep, self._keep_marks)
        await registry.put(KIND, new_id(), write_mark(mark), version=0, keep=keep)

    async def _mark(
        self, registry: Registry, ids: Sequence[str], reason: str, answers: dict[str, Cancellation]
    ) -> Sequence[str]:
        """Leave a mark on what has not ended, and say of what runs that it is asked to; returns the
        others of these."""
        places = await self._left(ids, answers)
        if not places:
            return ()
        left = list(places)
        now, keep = self._now(), 0.0
        for envelope in await self._operator.envelopes(left):
            if envelope is not None and envelope.eta is not None:  # nobody meets it before
                keep = max(keep, envelope.eta - now + self._keep_marks)
        asks = not self._operator.sees_all
        await self._put(registry, Mark(at=now, reason=reason, ids=tuple(left), asks=asks), keep)
        answers.update({id: Cancellation.ASKED for id in left if places[id] is Status.RUNNING})
        return [id for id in left if id not in answers]

    async def _left(
        self, ids: Sequence[str], answers: dict[str, Cancellation]
    ) -> dict[str, Status | None]:
        """Where those are that have not ended; of the others it is said."""
        ended = await self._ended(ids)
        left = [id for id in ids if id not in ended]
        places = dict(zip(left, await self._operator.find(left), strict=True))
        ended.update({id: Cancellation.ENDED for id in left if places[id] is Status.FAILED})
        if self._operator.sees_all and (nowhere := [id for id in left if places[id] is None]):
            ended.update(dict.fromkeys(nowhere, Cancellation.UNKNOWN))
            ended.update(await self._ended(nowhere))  # in between
        answers.update(ended)
        return {id: place for id, place in places.items() if id not in ended}

    async def _end(self, ids: Sequence[str], reason: str, answers: dict[str, Cancellation]) -> None:
        """Write the outcome of what still waits, now that workers know the mark."""
        places = await self._left(ids, ended := dict[str, Cancellation]())
        # Seen before, so not unknown; of some the outcome is not kept.
        found = dict.fromkeys(ended, Cancellation.ENDED)
        for record in await self._backend.fetch(list(found)):
            if record is not None:  # by its worker, who had heard of the mark; or before that
                found[record.id] = _answer(record)
        answers.update(found)
        answers.update(
            {id: Cancellation.ASKED for id, place in places.items() if place is Status.RUNNING}
        )
        if unseen := [id for id, place in places.items() if place is None]:
            answers.update(await self._hear_of(unseen))
        answers.update(await self._write([id for id in places if id not in answers], reason))
        self._told(id for id in ids if answers.get(id) is Cancellation.CANCELLED)

    async def _ended(self, ids: Sequence[str]) -> dict[str, Cancellation]:
        records = await self._backend.fetch(ids)
        return {
            record.id: Cancellation.ENDED
            for record in records
            if record is not None and not isinstance(record.outcome, Unreadable)
        }

    async def _hear_of(self, ids: Sequence[str]) -> dict[str, Cancellation]:
        """How those ended that workers had in hand."""
        answers: dict[str, Cancellation] = {}
        with anyio.move_on_after(WITHIN):
            while missing := [id for id in ids if id not in answers]:
                await anyio.sleep(LOOK)
                answers.update(await self._answered(missing))
                for record in await self._backend.fetch(missing):
                    if record is not None:
                        answers[record.id] = _answer(record)
        return answers

    async def _answered(self, ids: Sequence[str]) -> dict[str, Cancellation]:
        """Those that a worker says it runs."""
        entries = await self._registry().get(ASKED, ids)
        return {entry.name: Cancellation.ASKED for entry in entries if entry is not None}

    async def _write(self, ids: Sequence[str], reason: str) -> dict[str, Cancellation]:
        """Write the outcome of what waits; what follows from it is derived by who holds it."""
        if not ids:
            return {}
        envelopes = await self._operator.envelopes(ids)
        records = [
            self._record(id, envelope, reason) for id, envelope in zip(ids, envelopes, strict=True)
        ]
        answers = dict.fromkeys(ids, Cancellation.CANCELLED)
        stood = await self._backend.store_records(records)
        if self.writes_for_others:
            with suppress(BackendError, ConfigurationError):  # who waits reads it a little later
                await self._backend.push(WRITTEN_FOR_OTHERS, records)
        return answers | {record.id: _answer(record) for record in stood}

    def _record(self, id: str, envelope: Envelope | None, reason: str) -> Record:
        task, attempt, error, reply_to, begun = "", 1, "", None, ()
        if envelope is not None:
            begun = begun_in(envelope.headers)
            told, reply_to = envelope.headers.get(LAST_ERROR), envelope.reply_to
            error = told if isinstance(told, str) else ""
            try:
                message = self._decode(envelope)
            except (NewerVersion, Undecodable):
                pass
            else:
                task, attempt = message.task, message.attempt
        return Record(
            id,
            Cancelled(reason, error),
            task,
            attempt,
            finished_at=self._now(),
            keep=self._keep,
            reply_to=reply_to,
            effects=None,
            begun=begun,
        )


def _name_of(scope: Scope | str, store: Hashable) -> str:
    """
    Raises:
        InvalidValue: it is none, or one in which nothing was sent.
    """
    name = scope.name_in(store) if isinstance(scope, Scope) else scope
    if not isinstance(name, str) or not is_name(name):
        raise InvalidValue("scope", name, "a scope in which something was sent, or its name")
    return name


async def _end_scope(registry: Registry, name: str, reason: str) -> bool:
    """Whether it was not over before.

    Raises:
        BackendUnavailable: it may be over; to call again is safe.
    """
    for _ in range(MOST_TRIES):
        [entry] = await registry.get(SCOPES, [name])
        if entry is not None and why_over(entry.data) is not None:
            return False
        version = 0 if entry is None else entry.version
        if await registry.put(SCOPES, name, over(reason), version=version, keep=KEEP_OVER):
            return True
    raise BackendUnavailable(f"scope {name} cannot be ended: others change it at the same moment")


def _answer(record: Record) -> Cancellation:
    is_cancelled = isinstance(record.outcome, Cancelled)
    return Cancellation.CANCELLED if is_cancelled else Cancellation.ENDED
