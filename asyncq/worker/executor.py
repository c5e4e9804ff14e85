"""The executor: one delivery in, one completion out.

Everything that can become of an attempt is decided here, as data; nothing is stored, published or
settled. That is the completer's business.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import msgspec

from asyncq.client.context import Context, Services, find_context, set_context
from asyncq.client.places import Inside, set_place
from asyncq.client.task import Task
from asyncq.client.values.encoding import NOTHING
from asyncq.clock import Clock
from asyncq.config import Config
from asyncq.errors import (
    BadArguments,
    Directive,
    Ignore,
    NewerVersion,
    RetryLater,
    Snooze,
    Undecodable,
)
from asyncq.errors import (
    Reject as RejectCall,
)
from asyncq.language.effects import KEEP_EFFECTS, Effect, Send
from asyncq.language.marks import Mark
from asyncq.language.message import (
    LAST_ERROR,
    Cancelled,
    End,
    Expired,
    Failed,
    Failure,
    FailureType,
    Ignored,
    Message,
    Outcome,
    Succeeded,
)
from asyncq.language.policies import Retry
from asyncq.language.record import Record
from asyncq.language.scopes import BEGUN, MOST_BEGUN, SCOPE, begun_in, names_in
from asyncq.seams.backend import Backend
from asyncq.seams.broker import Ack, Completion, Delivery, Nack, Reject
from asyncq.seams.codec import Codec
from asyncq.texts import counted, shown
from asyncq.worker.cancellations import Cancellations
from asyncq.worker.dead_letters import DeadLetters
from asyncq.worker.failures import (
    comes_from,
    describe,
    is_a,
    is_interrupted,
    summarize,
    trace_of,
)
from asyncq.worker.latches import arrivals
from asyncq.worker.pool import Slots
from asyncq.worker.prepared import PreparedTask, PreparedTasks, call
from asyncq.worker.scopes import Scopes
from asyncq.worker.tasks import TEXT_LIMIT, TaskLog
from asyncq.worker.threads import RaisedInThread
from asyncq.worker.unrun import Unrun
from asyncq.worker.verdicts import (
    directive_in,
    ends_by_request,
    is_expected,
    may_retry,
    with_arguments,
)

KEEP_LARGE = 86400.0  # seconds for one whose value is too large for the latch it arrives at
LONGEST_KEEP = 10 * 365 * 86400.0  # seconds

IGNORED_EXIT = "coroutine ignored GeneratorExit"  # Python's words

ERROR_LIMIT = 500  # bytes that a retried message carries of it

RETURNED_NOTHING = Succeeded(NOTHING)

Complete = Callable[[Completion], None]


class Executor:
    """Runs deliveries; never raises, and always completes."""

    def __init__(
        self,
        *,
        tasks: Mapping[str, Task[..., Any]],
        codec: Codec,
        backend: Backend,
        config: Config,
        clock: Clock,
        worker: str,
        state: dict[str, Any],
        services: Services,
        slots: Slots,
        cancellations: Cancellations,
        scopes: Scopes,
    ) -> None:
        self.apart: set[str] = set()
        """The queues of which an end is recorded in one step and settled in another, so that a
        worker may die between the two. Written by the sessions."""
        self.task_log = TaskLog()
        self._prepared = PreparedTasks(tasks, config, slots.threads, self.task_log.unusable)
        self._made = self._prepared.made  # looked into for each delivery
        self._decode = codec.decode
        self._encode = codec.encode
        self._dead_letters = DeadLetters(codec, worker)
        self._config = config
        self._now = clock.now
        self._worker = worker
        self._state = state
        self._services = services
        self._slots = slots
        self._cancellations = cancellations
        self._scopes = scopes
        self._store = backend.store
        self._verbose = self.task_log.verbose
        self._unrun = Unrun(
            codec=codec,
            backend=backend,
            config=config,
            now=clock.now,
            worker=worker,
            dead_letters=self._dead_letters,
            log=self.task_log,
            made=self._made,
            apart=self.apart,
            end_scopes_of=scopes.end_opened_by,
            runs_already=slots.runs_already,
        )

    async def run(self, delivery: Delivery, complete: Complete) -> None:
        """Run one delivery and hand its completion over."""
        try:
            completion = await self._completion(delivery)
        except asyncio.CancelledError:  # before the task was begun
            mark = self._cancellations.asked()
            if mark is not None:
                completion = self.cancelled(delivery, mark)
            else:
                self.task_log.requeued += 1
                completion = Completion(Nack(delivery))
        except KeyboardInterrupt:
            complete(Completion(Nack(delivery)))
            raise
        # Around everything: a fault of ours must not keep a message leased for ever.
        except BaseException as error:
            if not _is_running():
                raise  # nobody runs it any more: what is left of it is collected
            completion = self._close(delivery, error)
        if self._cancellations.has_left and self._cancellations.was_left():
            return  # its end was told without us
        complete(completion)

    async def _completion(self, delivery: Delivery) -> Completion:
        started = self._now()
        envelope = delivery.envelope
        if envelope.headers:
            delivery = self._unrun.with_ends(delivery)
        if (delivery.suspect or delivery.again or envelope.again) and (
            known := await self._unrun.judge(delivery)
        ) is not None:
            return known
        if delivery.verdict:
            return self._unrun.doomed(delivery)
        opened = self._open(delivery)
        if isinstance(opened, Completion):
            return opened
        message, prepared = opened
        if self._verbose:
            self.task_log.received(message)
        is_scoped = SCOPE in message.header.headers
        marks = self._cancellations
        is_doubtful = is_scoped or (marks.is_alert and marks.may_be_marked(message))
        if (is_doubtful or message.header.expires is not None) and (
            end := await self._unwanted(delivery, message, prepared, started)
        ) is not None:
            return end
        context = Context(message, self._state, self._services, started)
        set_context(context)
        if is_scoped:
            self._enter_scopes(delivery, context)
        try:
            outcome = self._succeeded(prepared, await call(prepared, message, context))
            effects, context.effects = context.effects, None  # it has ended
            if effects and isinstance(outcome, Succeeded):
                return self._end(delivery, message, prepared, outcome, started, tuple(effects))
        except Directive as directive:
            return self._follow(delivery, message, prepared, directive, started)
        except BadArguments as error:
            outcome = Failed(Failure(FailureType.BAD_ARGUMENTS.value, str(error)))
        except GeneratorExit:
            raise  # see `_close`
        # Around the user's task: whatever it raises, SystemExit included, is its own failure.
        except BaseException as error:
            if _is_ignored_exit(error):
                raise
            return self._fail(delivery, message, prepared, error, started)
        return self._end(delivery, message, prepared, outcome, started)

    async def _unwanted(
        self, delivery: Delivery, message: Message, prepared: PreparedTask, started: float
    ) -> Completion | None:
        """The end of what was cancelled, or has expired, before it is started; None of the rest."""
        if self._cancellations.is_alert and self._cancellations.may_be_marked(message):
            mark = await self._cancellations.mark_of(message)
            if mark is not None:
                return self._cancelled(delivery, message, prepared, mark, started)
            started = self._now()  # it may have waited until that was known
        if (
            (names := self._scopes_of(message))
            and (mark := await self._scopes.mark_of(names)) is not None
            and not await self._cancellations.is_spared_after_all(message.header)
        ):
            return self._cancelled(delivery, message, prepared, mark, started)
        expires = message.header.expires
        if expires is None or started < expires:
            return None
        self.task_log.expiry(message, started - expires)
        before = message.header.headers.get(LAST_ERROR)
        outcome = Expired(before if isinstance(before, str) else "")
        return self._end(delivery, message, prepared, outcome, started)

    def _scopes_of(self, message: Message) -> tuple[str, ...]:
        header = message.header
        if SCOPE not in header.headers or self._cancellations.is_spared(header):
            return ()
        return names_in(header.headers)

    def _enter_scopes(self, delivery: Delivery, context: Context) -> None:
        """What the task sends belongs to the scopes of its message."""
        if names := self._scopes_of(context.message):
            context.scopes = names
            self._scopes.enter(delivery, names)
            set_place(Inside(context, names, self._store))

    def _fail(
        self,
        delivery: Delivery,
        message: Message,
        prepared: PreparedTask,
        error: BaseException,
        started: float,
    ) -> Completion:
        """What becomes of an attempt that raised.

        Raises:
            KeyboardInterrupt: it was not the task who raised it, but whoever ends this process.
        """
        if type(error) is RaisedInThread:
            error = error.error
        if (mark := self._cancellations.asked()) is not None:
            return self._cancelled(delivery, message, prepared, mark, started, error)
        if self._slots.is_cancelling() and comes_from(error, asyncio.CancelledError):
            # The pool's doing, not the task's: it runs again elsewhere, uncounted. That holds as
            # well for what broke because of it, a connection in the middle of a call, say.
            self.task_log.requeue(message)
            return Completion(Nack(delivery))
        if type(error) is KeyboardInterrupt and is_interrupted(error):
            raise error
        if is_a(error, BaseExceptionGroup) and (directive := directive_in(error)) is not None:
            return self._follow(delivery, message, prepared, directive, started)
        if (delay := self._pause(message, prepared.retry, error)) is not None:
            self.task_log.retry(message, cast("Retry", prepared.retry), error, delay)
            return self._retry(delivery, message, delay, error)
        trace = trace_of(error)  # describe() lets go of it
        failure = describe(error)
        if prepared.throws and is_expected(error, prepared.throws):
            self.task_log.expected(message, prepared.retry, failure)
        else:
            self.task_log.failure(message, prepared.retry, failure, error, trace)
        return self._end(delivery, message, prepared, Failed(failure), started)

    def _pause(self, message: Message, retry: Retry | None, error: BaseException) -> float | None:
        """Seconds until the policy wants another attempt; None: it wants none."""
        if retry is None or not may_retry(retry, error, message.attempt):
            return None
        try:
            if not retry.is_worth(error):
                return None
        except KeyboardInterrupt:
            raise
        # It is the user's code, and must not cost the failure that it is asked about.
        except BaseException as fault:  # noqa: BLE001
            self.task_log.predicate_failed(message, fault)
            return None
        delay = retry.pause(message.attempt)
        in_time = retry.is_in_time(delay, self._now(), message.header.sent_at)
        return delay if in_time else None

    def _follow(
        self,
        delivery: Delivery,
        message: Message,
        prepared: PreparedTask,
        directive: Directive,
        started: float,
    ) -> Completion:
        """What becomes of an attempt that said so itself."""
        if (mark := self._cancellations.asked()) is not None:
            return self._cancelled(delivery, message, prepared, mark, started, directive)
        match directive:
            case RetryLater(delay=asked):
                delay = max(asked, 0.0)
                try:
                    message = with_arguments(message, prepared, directive)
                except TypeError as error:  # `BadArguments`, or what cannot be sent
                    why = f"RetryLater's arguments: {error}"
                    failure = Failure(FailureType.BAD_ARGUMENTS.value, why)
                    self.task_log.rejected(message, failure)
                    return self._end(delivery, message, prepared, Failed(failure), started)
                self.task_log.run_again(message, delay)
                return self._retry(delivery, message, delay)
            case Snooze(delay=asked):
                delay = max(asked, 0.0)
                self.task_log.snoozed(message, delay)
                return self._retry(delivery, message, delay, counted=0)
            case RejectCall(reason=reason):
                failure = Failure(FailureType.REJECTED.value, shown(reason, TEXT_LIMIT))
                self.task_log.rejected(message, failure)
                return self._end(delivery, message, prepared, Failed(failure), started)
            case Ignore(reason=reason):
                reason = shown(reason, TEXT_LIMIT)
                self.task_log.ignored_by(message, reason)
                return self._end(delivery, message, prepared, Ignored(reason), started)
            case _:  # a subclass of the user's own says nothing that we know
                return self._fail(delivery, message, prepared, directive, started)

    def cancelled(self, delivery: Delivery, mark: Mark) -> Completion:
        """The end of a delivery that is cancelled while its task is not at hand."""
        opened = self._open(delivery)
        if isinstance(opened, Completion):
            return opened
        return self._cancelled(delivery, *opened, mark, self._now())

    def _cancelled(  # noqa: PLR0917 - as what calls it
        self,
        delivery: Delivery,
        message: Message,
        prepared: PreparedTask,
        mark: Mark,
        started: float,
        error: BaseException | None = None,
    ) -> Completion:
        """The end of what was cancelled, whatever it raised then; or raised before, if it was to be
        tried again."""
        before = message.header.headers.get(LAST_ERROR)
        told = before if isinstance(before, str) else ""
        is_odd = error is not None and not ends_by_request(error)
        if error is not None and is_odd:
            told = summarize(error, ERROR_LIMIT)
        self.task_log.cancelled(message, mark.reason, told, is_odd=is_odd)
        outcome = Cancelled(mark.reason, told)
        return self._end(delivery, message, prepared, outcome, started)

    def _close(self, delivery: Delivery, error: BaseException) -> Completion:
        """What becomes of an attempt whose coroutines were closed, or of a fault of ours.

        A `GeneratorExit` that comes out of a future does not pass through what awaits that: Python
        closes all of it, and raises where the first of them was awaited, which is here. So does
        the complaint if one of them awaits something on its way out.
        """
        is_closed = is_a(error, GeneratorExit) or _is_ignored_exit(error)
        opened = self._open(delivery) if is_closed else None
        if isinstance(opened, tuple):
            return self._fail(delivery, *opened, error, self._now())
        self.task_log.fault(delivery.envelope, error)
        return self._unrun.reject(delivery, FailureType.EXECUTOR_FAILED, describe(error).message)

    def _open(self, delivery: Delivery) -> tuple[Message, PreparedTask] | Completion:
        """The message and its task; or what becomes of a delivery that has none."""
        envelope = delivery.envelope
        size, limit = len(envelope.body), self._config.max_message_size
        if size > limit:
            why = f"{counted(size, 'byte')}, the limit is {limit}"
            return self._unrun.reject(delivery, FailureType.MESSAGE_TOO_LARGE, why)
        try:
            message = self._decode(envelope)
        except NewerVersion as error:
            return self._unrun.postpone(delivery, FailureType.NEWER_VERSION, str(error))
        except Undecodable as error:
            return self._unrun.reject(delivery, FailureType.UNDECODABLE, str(error))
        prepared = self._made.get(message.task) or self._prepared.make(message.task)
        if prepared is not None:
            return message, prepared
        return self._unrun.postpone(delivery, *self._prepared.why_none(message.task))

    def _succeeded(self, prepared: PreparedTask, value: Any) -> Outcome:
        if value is None:
            return RETURNED_NOTHING
        try:
            encoded = prepared.encode(value)
        except TypeError as error:
            return Failed(Failure(FailureType.RESULT_NOT_ENCODABLE.value, str(error)))
        size, limit = len(memoryview(encoded)), self._config.max_result_size
        if size > limit:
            why = f"{counted(size, 'byte')}, the limit is {limit}"
            return Failed(Failure(FailureType.RESULT_TOO_LARGE.value, why))
        return Succeeded(encoded)

    def _end(  # noqa: PLR0917 - called for each message, and slower by keywords
        self,
        delivery: Delivery,
        message: Message,
        prepared: PreparedTask,
        outcome: Outcome,
        started: float,
        effects: tuple[Effect, ...] = (),
    ) -> Completion:
        if self._verbose and isinstance(outcome, Succeeded):
            self.task_log.succeeded(message, self._now() - started)
        settlement: Ack | Reject = Ack(delivery)
        if isinstance(outcome, Failed) and prepared.dead_letter:
            settlement = self._dead_letters.of_failure(delivery, message, outcome.error)
        keep = prepared.keep
        if (asked := message.keep_result) is not None:
            keep = min(asked, LONGEST_KEEP) if asked > 0 else 0.0  # also if that is no number
        header = message.header
        follows = effects or header.ends
        begun = _begun(message, effects) if SCOPE in header.headers else None
        if begun is not None:  # who has opened its scope may have to look
            keep = max(keep, KEEP_EFFECTS)
        if keep <= 0 and header.reply_to is None and not follows:
            return Completion(settlement)
        record = Record(
            header.id,
            outcome,
            message.task,
            message.attempt,
            started,
            self._now(),
            self._worker,
            keep,
            header.reply_to,
        )
        if begun:
            record = msgspec.structs.replace(record, begun=begun)
        if follows:
            return Completion(settlement, _with_effects(record, effects, header.ends), stays=True)
        return Completion(settlement, record)

    def _retry(
        self,
        delivery: Delivery,
        message: Message,
        delay: float,
        error: BaseException | None = None,
        *,
        counted: int = 1,
    ) -> Completion:
        headers = message.header.headers
        if error is not None:  # should the message expire before it is tried again
            headers = {**headers, LAST_ERROR: summarize(error, ERROR_LIMIT)}
        if SCOPE in headers and (begun := _begun(message)):
            if len(begun) > MOST_BEGUN:
                self.task_log.forgot_begun(message, len(begun) - MOST_BEGUN)
            headers = {**headers, BEGUN: begun[-MOST_BEGUN:]}
        header = msgspec.structs.replace(message.header, eta=None, headers=headers)
        again = msgspec.structs.replace(message, header=header, attempt=message.attempt + counted)
        self._cancellations.given_back(again)
        return Completion(Nack(delivery, delay, self._encode(again)))


def _with_effects(record: Record, effects: tuple[Effect, ...], ends: Sequence[End]) -> Record:
    """What follows is told by the record, as long as somebody may have to look."""
    arriving = arrivals(ends, record.outcome)
    is_large = bool(arriving) and not arriving[0].value
    keep = max(record.keep, KEEP_LARGE if is_large else KEEP_EFFECTS)
    return msgspec.structs.replace(record, keep=keep, effects=(*effects, *arriving))


def _begun(message: Message, effects: Sequence[Effect] = ()) -> tuple[str, ...]:
    """What the runs of this message have sent within its scopes: where the last of them ends."""
    context = find_context()
    own = () if context is None or context.id != message.header.id else context.begun
    sent = [each.envelope for each in effects if isinstance(each, Send)]
    after = [envelope.id for envelope in sent if SCOPE in envelope.headers]
    return (*begun_in(message.header.headers), *own, *after)


def _is_ignored_exit(error: BaseException) -> bool:
    """Whether Python complains that a coroutine which it closes goes on."""
    return type(error) is RuntimeError and error.args == (IGNORED_EXIT,)


def _is_running() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
