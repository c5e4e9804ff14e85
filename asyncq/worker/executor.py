"""The executor: one delivery in, one conclusion out.

Everything that can become of an attempt is decided here, as data; nothing is stored, published or
settled. That is the completer's business.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import Any

import anyio
import msgspec

from asyncq.backends.base import Backend
from asyncq.brokers.base import Ack, Conclusion, Delivery, Nack, Reject
from asyncq.clock import Clock
from asyncq.codecs.base import Codec
from asyncq.config import Config
from asyncq.context import Context, Report, set_context
from asyncq.errors import BackendUnavailable, NewerVersion, RetryLater, Undecodable
from asyncq.message import (
    Cancelled,
    Expired,
    Failed,
    Failure,
    Message,
    Outcome,
    Record,
    Succeeded,
)
from asyncq.parameters import BadArguments
from asyncq.policies import Retry
from asyncq.task import Task
from asyncq.values import NOTHING, encode
from asyncq.worker.failures import NAME_LIMIT, describe
from asyncq.worker.jobs import Job, call, make_job

log = logging.getLogger(__name__)

LONGEST_KEEP = 10 * 365 * 86400.0  # seconds
UNKNOWN_SINCE = "asyncq-unknown-since"  # header: when a worker first could not run this message

RETURNED_NOTHING = Succeeded(NOTHING)

Conclude = Callable[[Conclusion], None]


class Executor:
    """Runs deliveries; never raises, and always concludes."""

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
        report: Report,
    ) -> None:
        threads = anyio.CapacityLimiter(config.concurrency)
        self._jobs = {name: make_job(task, config, threads) for name, task in tasks.items()}
        self._decode = codec.decode
        self._encode = codec.encode
        self._backend = backend
        self._config = config
        self._now = clock.now
        self._worker = worker
        self._state = state
        self._report = report
        self._complaints: dict[str, float] = {}  # what is unknown: when it was last logged

    async def run(self, delivery: Delivery, conclude: Conclude) -> None:
        """Run one delivery and hand its conclusion over."""
        try:
            conclusion = await self._conclusion(delivery)
        # Around everything: a fault of ours must not keep a message leased for ever.
        except Exception as error:
            log.exception("message %s could not be handled", delivery.envelope.id)
            conclusion = self._bury(delivery, "ExecutorFailed", describe(error).message)
        conclude(conclusion)

    async def _conclusion(self, delivery: Delivery) -> Conclusion:
        started = self._now()
        if (delivery.suspect or delivery.again) and (
            verdict := await self._judge(delivery)
        ) is not None:
            return verdict
        opened = self._open(delivery)
        if isinstance(opened, Conclusion):
            return opened
        message, job = opened
        if message.expires is not None and started >= message.expires:
            return self._end(delivery, message, job, Expired(), started)
        context = Context(message, self._state, self._report)
        set_context(context)
        try:
            outcome = self._succeeded(await call(job, message, context))
        except asyncio.CancelledError:
            # Cancelled by the pool: not the task's doing, so it runs again elsewhere, uncounted.
            if (task := asyncio.current_task()) is not None and task.cancelling():
                return Conclusion(Nack(delivery))
            outcome = Cancelled()
        except RetryLater as directive:
            log.info("task %s[%s] asked to run again", job.name, message.id)
            return self._retry(delivery, message, max(directive.delay, 0.0))
        except BadArguments as error:
            outcome = Failed(Failure("BadArguments", str(error)))
        except KeyboardInterrupt:
            raise
        # Around the user's task: whatever it raises, SystemExit included, is its own failure.
        except BaseException as error:  # noqa: BLE001
            if job.retry is not None and _may_retry(job.retry, error, message):
                return self._retry(delivery, message, job.retry.pause(message.attempt), error)
            outcome = Failed(describe(error))
        return self._end(delivery, message, job, outcome, started)

    def _open(self, delivery: Delivery) -> tuple[Message, Job] | Conclusion:
        """The message and its task; or what becomes of a delivery that has none."""
        envelope = delivery.envelope
        size, limit = len(envelope.body), self._config.max_message_size
        if size > limit:
            return self._bury(delivery, "MessageTooLarge", f"{size} bytes, the limit is {limit}")
        try:
            message = self._decode(envelope)
            return message, self._jobs[message.task]
        except NewerVersion as error:
            return self._postpone(delivery, "NewerVersion", str(error))
        except Undecodable as error:
            return self._bury(delivery, "Undecodable", str(error))
        except KeyError as error:
            name = str(error)[:NAME_LIMIT]
            return self._postpone(delivery, "UnknownTask", f"no task named {name} here")

    def _succeeded(self, value: Any) -> Outcome:
        if value is None:
            return RETURNED_NOTHING
        try:
            encoded = encode(value)
        except TypeError as error:
            return Failed(Failure("ResultNotEncodable", str(error)))
        size = len(memoryview(encoded))
        if size > self._config.max_result_size:
            limit = self._config.max_result_size
            return Failed(Failure("ResultTooLarge", f"{size} bytes, the limit is {limit}"))
        return Succeeded(encoded)

    def _end(
        self, delivery: Delivery, message: Message, job: Job, outcome: Outcome, started: float
    ) -> Conclusion:
        if isinstance(outcome, Failed):
            log.error(
                "task %s[%s] failed in attempt %d: %s: %s",
                job.name, message.id, message.attempt, outcome.error.type, outcome.error.message,
            )  # fmt: skip
        keep = job.keep if message.keep_result is None else _bounded(message.keep_result)
        if keep <= 0 and message.reply_to is None:
            return Conclusion(Ack(delivery))
        record = Record(
            message.id,
            outcome,
            message.task,
            message.attempt,
            started,
            self._now(),
            self._worker,
            keep,
            message.reply_to,
        )
        return Conclusion(Ack(delivery), record)

    def _retry(
        self,
        delivery: Delivery,
        message: Message,
        delay: float,
        error: BaseException | None = None,
    ) -> Conclusion:
        if error is not None:
            log.warning(
                "task %s[%s] failed in attempt %d, next in %.1f s: %s",
                message.task, message.id, message.attempt, delay, type(error).__qualname__,
            )  # fmt: skip
        again = msgspec.structs.replace(message, attempt=message.attempt + 1, eta=None)
        return Conclusion(Nack(delivery, delay, self._encode(again)))

    async def _judge(self, delivery: Delivery) -> Conclusion | None:
        """What becomes of a delivery that may have run before; None if it is to run."""
        try:
            [record] = await self._backend.fetch([delivery.envelope.id])
        except BackendUnavailable:
            return Conclusion(Nack(delivery, delay=1.0))
        if record is not None:
            return Conclusion(Ack(delivery))  # its outcome stands; only the settling was lost
        if delivery.crashes >= self._config.max_crashes:
            return self._bury(
                delivery, "WorkerCrashed", f"{delivery.crashes} workers died while they ran it"
            )
        return None

    def _postpone(self, delivery: Delivery, kind: str, why: str) -> Conclusion:
        """Give back what a newer worker may know how to run; bury it when none came in time."""
        now, envelope = self._now(), delivery.envelope
        since = envelope.headers.get(UNKNOWN_SINCE)
        if not isinstance(since, float):
            since = now
        if now - since >= self._config.unknown_ttl:
            return self._bury(delivery, kind, why)
        if now - self._complaints.get(why, 0.0) >= 60.0:  # noqa: PLR2004 - a line a minute
            if len(self._complaints) > 1000:  # noqa: PLR2004 - names come from outside: bounded
                self._complaints.clear()
            self._complaints[why] = now
            log.warning("message %s is given back: %s: %s", envelope.id, kind, why)
        headers = {**envelope.headers, UNKNOWN_SINCE: since}
        replacement = msgspec.structs.replace(envelope, headers=headers, eta=None)
        return Conclusion(Nack(delivery, self._config.unknown_delay, replacement))

    def _bury(self, delivery: Delivery, kind: str, why: str) -> Conclusion:
        """To the dead letters, with an outcome for whoever waits."""
        envelope = delivery.envelope
        log.error("message %s goes to the dead letters: %s: %s", envelope.id, kind, why)
        record = Record(
            envelope.id,
            Failed(Failure(kind, why)),
            finished_at=self._now(),
            worker=self._worker,
            keep=self._config.keep_result,
            reply_to=envelope.reply_to,
        )
        return Conclusion(Reject(delivery, f"{kind}: {why}"), record)


def _bounded(keep: float) -> float:
    """What a message asks for, as a time that a backend can keep something for."""
    return min(keep, LONGEST_KEEP) if keep > 0 else 0.0  # no number at all is not greater either


def _may_retry(retry: Retry, error: BaseException, message: Message) -> bool:
    return isinstance(error, Exception) and retry.allows(error, message.attempt)
