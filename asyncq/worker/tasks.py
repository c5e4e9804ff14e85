"""What the log says about messages, and how many came to which end.

Each line names the task and the message, in its text and, for who sorts records by machine, in the
attributes ``asyncq_task`` and ``asyncq_id``. What comes from outside is escaped and cut.
"""

import logging
from collections.abc import Callable, Mapping
from types import TracebackType

from asyncq.errors import NewerVersion, Undecodable
from asyncq.language.envelope import Envelope
from asyncq.language.message import Failure, FailureType, Message
from asyncq.language.policies import Retry
from asyncq.loggers import LOG_ID, LOG_TASK, TRACEBACK, get_logger
from asyncq.texts import NAME_LIMIT, counted, shown
from asyncq.worker.failures import summarize

log = get_logger(__name__)

TEXT_LIMIT = 4 * 1024  # bytes of what an exception says
MOST_COMPLAINTS = 1000  # names come from outside: bounded
COMPLAIN_EVERY = 60.0  # seconds


def label(task: str, id: str) -> str:
    """``mail.send[0a1b]``; both come from outside."""
    return f"{shown(task, NAME_LIMIT)}[{shown(id, NAME_LIMIT)}]"


def label_by(decode: Callable[[Envelope], Message]) -> Callable[[Envelope], str]:
    """What labels an envelope; by its id alone, where nobody can read it.

    An envelope does not say which task it is for, so it is decoded: for those lines only that are
    written when something is wrong, or ends.
    """

    def label_of(envelope: Envelope) -> str:
        try:
            task = decode(envelope).task
        except (Undecodable, NewerVersion):
            return shown(envelope.id, NAME_LIMIT)
        return label(task, envelope.id)

    return label_of


class TaskLog:
    """Of one worker."""

    def __init__(self) -> None:
        self.verbose = log.isEnabledFor(logging.DEBUG)
        """Whether `received` and `succeeded` are worth a call; decided when the worker is made."""
        self.failed = 0
        self.retried = 0
        self.requeued = 0
        self.expired = 0
        self.ignored = 0
        self.ended_by_request = 0
        self.skipped = 0
        """They had an outcome already."""
        self._complaints: dict[str, float] = {}  # what is unknown: when it was last logged
        self._doomed_said_at = 0.0  # when there was a warning
        self._doomed_since = 0  # how many were not worth one

    def summary(self, started: int, running: int) -> str:
        """What became of the deliveries of a worker that has ended; some may run on."""
        counts = {
            "failed": self.failed,
            "to be retried": self.retried,
            "requeued": self.requeued,
            "expired": self.expired,
            "ignored": self.ignored,
            "cancelled": self.ended_by_request,
            "skipped, for they had an outcome already": self.skipped,
            "left running": running,
        }
        rest = max(started - sum(counts.values()), 0)
        said = [f"{rest} succeeded", *(f"{n} {what}" for what, n in counts.items() if n)]
        return f"{counted(started, 'task')}: {', '.join(said)}"

    def unusable(self, task: str, error: Exception) -> None:
        """It cannot be run as it is written; the worker's other tasks can."""
        log.error(
            "task %s is not run by this worker: %s",
            task, shown(str(error), TEXT_LIMIT), extra={LOG_TASK: task, LOG_ID: ""},
        )  # fmt: skip

    def received(self, message: Message) -> None:
        queue = message.header.queue
        _say(logging.DEBUG, message, "%s received: attempt %d, queue %s", message.attempt, queue)

    def succeeded(self, message: Message, seconds: float) -> None:
        _say(logging.DEBUG, message, "%s succeeded in %.3f s", seconds)

    def failure(
        self,
        message: Message,
        retry: Retry | None,
        failure: Failure,
        error: BaseException,
        trace: TracebackType | None,
    ) -> None:
        """The task raised, and is not tried again."""
        self.failed += 1
        if not log.isEnabledFor(logging.ERROR):
            return
        log.error(
            "%s failed in attempt %s: %s",
            _name(message),
            _attempt(message, retry),
            shown(": ".join(filter(None, (failure.type, failure.message))), TEXT_LIMIT),
            # The exception itself is for handlers that want more than text (of Sentry, say).
            exc_info=(type(error), error, trace),
            extra={**_about(message), TRACEBACK: failure.traceback},
        )

    def retry(self, message: Message, retry: Retry, error: BaseException, delay: float) -> None:
        self.retried += 1
        why = summarize(error, TEXT_LIMIT)
        text = "%s failed in attempt %s, next attempt in %.1f s: %s"
        _say(logging.WARNING, message, text, _attempt(message, retry), delay, why)

    def forgot_begun(self, message: Message, number: int) -> None:
        text = "%s is tried again: its scope does not wait for %s of an earlier attempt's"
        _say(logging.WARNING, message, text, counted(number, "task"))

    def run_again(self, message: Message, delay: float) -> None:
        self.retried += 1
        text = "%s asked to run again in %.1f s (attempt %d)"
        _say(logging.INFO, message, text, delay, message.attempt)

    def expected(self, message: Message, retry: Retry | None, failure: Failure) -> None:
        """The task raised what it says that it may raise: nobody has to look into it."""
        self.failed += 1
        what = shown(": ".join(filter(None, (failure.type, failure.message))), TEXT_LIMIT)
        text = "%s failed in attempt %s, as expected: %s"
        _say(logging.INFO, message, text, _attempt(message, retry), what)

    def predicate_failed(self, message: Message, fault: BaseException) -> None:
        text = "%s is not tried again: the 'when' of its retry policy raised %s"
        _say(logging.ERROR, message, text, summarize(fault, TEXT_LIMIT))

    def snoozed(self, message: Message, delay: float) -> None:
        self.retried += 1
        text = "%s asked to run again in %.1f s, as the same attempt (%d)"
        _say(logging.INFO, message, text, delay, message.attempt)

    def cancelled(self, message: Message, reason: str, error: str, *, is_odd: bool) -> None:
        self.ended_by_request += 1
        why = shown(reason, TEXT_LIMIT) or "no reason was given"
        text = "%s was cancelled in attempt %d: %s%s"
        when = "it raised, as it cleaned up," if is_odd else "it had raised"
        before = f" ({when} {shown(error, TEXT_LIMIT)})" if error else ""
        level = logging.WARNING if is_odd else logging.INFO
        _say(level, message, text, message.attempt, why, before)

    def rejected(self, message: Message, failure: Failure) -> None:
        self.failed += 1
        why = shown(failure.message, TEXT_LIMIT) or "for no reason that it gives"
        _say(logging.WARNING, message, "%s rejects its call, and is not tried again: %s", why)

    def ignored_by(self, message: Message, reason: str) -> None:
        self.ignored += 1
        text = "%s ended as one to be ignored%s"
        _say(logging.INFO, message, text, reason and f": {reason}")

    def requeue(self, message: Message) -> None:
        self.requeued += 1
        text = "%s was cancelled and requeued: its worker is stopping or has lost its lease"
        _say(logging.INFO, message, text)

    def expiry(self, message: Message, late: float) -> None:
        self.expired += 1
        text = "%s expired %.1f s before attempt %d could start"
        _say(logging.INFO, message, text, late, message.attempt)

    def skip(self, envelope: Envelope) -> None:
        self.skipped += 1
        _say(logging.INFO, envelope, "%s has an outcome already: acknowledged without running")

    def late_letter(self, envelope: Envelope) -> None:
        """It has failed, and its worker died before it was a dead letter."""
        self.skipped += 1
        text = (
            "%s has failed already, and its worker died with it: it goes to the dead letters of "
            "queue %s without running"
        )
        _say(logging.INFO, envelope, text, envelope.queue)

    def postponement(self, envelope: Envelope, why: str, delay: float, now: float) -> None:
        """Nobody here can run it; said once a minute for each reason."""
        self.requeued += 1
        if now - self._complaints.get(why, 0.0) < COMPLAIN_EVERY:
            return
        if len(self._complaints) > MOST_COMPLAINTS:
            self._complaints.clear()
        self._complaints[why] = now
        text = "%s is requeued with a delay of %g s: %s"
        _say(logging.WARNING, envelope, text, delay, shown(why, TEXT_LIMIT))

    def rejection(self, envelope: Envelope, why: str) -> None:
        self.failed += 1
        text = "%s goes to the dead letters of queue %s: %s"
        _say(logging.ERROR, envelope, text, envelope.queue, shown(why, TEXT_LIMIT))

    def doomed(self, envelope: Envelope, error: Failure, now: float) -> None:
        """It was never run, and its workflow is told; a warning once a minute."""
        self.failed += 1
        text, why = "%s is not run: %s", shown(error.message, TEXT_LIMIT)
        if error.type == FailureType.PURGED or now - self._doomed_said_at < COMPLAIN_EVERY:
            self._doomed_since += error.type != FailureType.PURGED
            _say(logging.INFO, envelope, text, why)
            return
        since, self._doomed_since, self._doomed_said_at = self._doomed_since, 0, now
        others = f" (and {since} others before)" if since else ""
        _say(logging.WARNING, envelope, text, why + others)

    def fault(self, envelope: Envelope, error: BaseException) -> None:
        """A fault of ours."""
        text = "%s could not be run, by a fault of asyncq itself: please report it"
        _say(logging.ERROR, envelope, text, exc_info=error)


def overtime(message: Message, limit: float, late: float) -> None:
    """It has caught the cancellation of its time limit, and goes on."""
    text = (
        "%s goes on %g s after its time limit of %g s, although it was cancelled then: it is "
        "cancelled again, every %g s until it ends"
    )
    _say(logging.WARNING, message, text, late, limit, late)


def _say(
    level: int,
    about: Message | Envelope,
    text: str,
    *args: object,
    exc_info: BaseException | None = None,
) -> None:
    """A line that begins with what it is about; an envelope does not say which task it is for."""
    if isinstance(about, Message):
        name, extra = _name(about), _about(about)
    else:
        id = shown(about.id, NAME_LIMIT)
        name, extra = f"message {id}", {LOG_TASK: "", LOG_ID: id}
    log.log(level, text, name, *args, exc_info=exc_info, extra=extra, stacklevel=2)


def _name(message: Message) -> str:
    return f"task {label(message.task, message.header.id)}"


def _attempt(message: Message, retry: Retry | None) -> str:
    if retry is not None and retry.is_open:
        return f"{message.attempt}, of as many as there is time for"
    most = max(message.attempt, 1 if retry is None else retry.most)
    return f"{message.attempt} of {most}"


def _about(message: Message) -> Mapping[str, str]:
    return {
        LOG_TASK: shown(message.task, NAME_LIMIT),
        LOG_ID: shown(message.header.id, NAME_LIMIT),
    }
