"""What travels, and how it ended: messages, outcomes.

How a message becomes bytes is the codecs' business, where it waits the brokers', how it is run the
worker's.
"""

import os
import re
import time
from enum import StrEnum
from hashlib import sha256
from typing import Annotated, Any

import msgspec

from asyncq.shown import Shown

EMPTY_ARGS = msgspec.Raw(b"\x90")  # no arguments, in MessagePack
EMPTY_KWARGS = msgspec.Raw(b"\x80")
TASK_NAME = re.compile(r"[A-Za-z0-9_.:<>-]{1,200}")
QUEUE_NAME = re.compile(r"[A-Za-z0-9_.-]{1,128}")
MESSAGE_ID = re.compile(r"[!-~]{1,128}")
MAX_PRIORITY = 9
LAST_ERROR = "asyncq-last-error"  # header: what the attempt before this one raised
UNREADABLE = (ValueError, TypeError, OverflowError, RecursionError)
"""What decoding raises for bytes from outside that are not what they should be: msgspec's errors
are ValueErrors, and so is text that is none."""


Priority = Annotated[int, msgspec.Meta(ge=0, le=MAX_PRIORITY)]
"""Of what is decoded: where another number stands, other hands wrote it."""


class End(Shown, frozen=True, array_like=True, gc=False):
    """A latch at which the end of a message arrives, as which of its parts."""

    latch: str
    part: str


class Header(Shown, frozen=True, gc=False, omit_defaults=True):
    """What brokers know of a message, whatever task it is for.

    Every field travels: it is written and read in `asyncq.seams.packing`, and nowhere else. New
    ones come last, with a default.
    """

    id: str
    queue: str
    """Where it waits; of one that names an exchange, the queue whose copy keeps the id."""
    priority: Priority = 0
    """From 0 (lowest) to 9."""
    eta: float | None = None
    """Unix seconds; not delivered before."""
    expires: float | None = None
    """Unix seconds, from which on the task must not start; delivered even so: ending it is the
    worker's business."""
    reply_to: str | None = None
    """Where the client that sent it listens for outcomes."""
    sent_at: float = 0.0
    """Unix seconds."""
    headers: dict[str, Any] = {}  # noqa: RUF012 - msgspec makes each a new one
    again: bool = False
    """It may have been sent before and have run since: whether it has an outcome is looked up
    first."""
    ends: tuple[End, ...] = ()
    """Where its end arrives."""


class Limits(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """How long the attempts of one call may take, in seconds; None leaves it to the task, infinity
    is no limit."""

    hard: float | None = None
    soft: float | None = None


class Message(msgspec.Struct, frozen=True, gc=False):
    """One request to run one task."""

    header: Header
    """The envelope it came in, where it came in one."""
    task: str
    args: msgspec.Raw = EMPTY_ARGS
    """The positional arguments: a MessagePack array, decoded by the executor alone."""
    kwargs: msgspec.Raw = EMPTY_KWARGS
    """The keyword arguments: a MessagePack map with text keys."""
    attempt: int = 1
    root: str | None = None
    """The message that began all this; None when it is this one."""
    parent: str | None = None
    """The message whose task sent this one."""
    keep_result: float | None = None
    """Seconds to keep the outcome; None leaves it to the task, 0 keeps nothing."""
    limits: Limits | None = None
    """What the call says of its time; None leaves it to the task."""


class Failure(Shown, frozen=True, array_like=True):
    """What a task raised, as text: no class is ever imported or made from it."""

    type: str
    """The name of the exception's class, as `TaskFailed` says, or a `FailureType`."""
    message: str
    traceback: str = ""


class FailureType(StrEnum):
    """What `Failure.type` says where no exception of the task's is to be named."""

    BAD_ARGUMENTS = "BadArguments"
    """The message's arguments do not fit the task's parameters; it was not started."""
    RESULT_NOT_ENCODABLE = "ResultNotEncodable"
    """The task returned what cannot travel."""
    RESULT_TOO_LARGE = "ResultTooLarge"
    """The task returned more than ``max_result_size`` bytes."""
    MESSAGE_TOO_LARGE = "MessageTooLarge"
    """The message has more than the worker's ``max_message_size`` bytes."""
    UNDECODABLE = "Undecodable"
    """The message cannot be read."""
    NEWER_VERSION = "NewerVersion"
    """A newer asyncq made the message, and no such worker came within ``unknown_ttl``."""
    UNKNOWN_TASK = "UnknownTask"
    """No worker that knows the task came within ``unknown_ttl``."""
    UNUSABLE_TASK = "UnusableTask"
    """The worker cannot run the task as it is written: an annotation cannot be resolved, say."""
    WORKER_CRASHED = "WorkerCrashed"
    """As many workers as ``max_crashes`` says died while they ran it."""
    WAITED_TOO_LONG = "WaitedTooLong"
    """No worker took a part of a workflow within the ``ttl`` of its queue."""
    OVERFLOWED = "Overflowed"
    """A part of a workflow gave way in a queue with a ``max_length``."""
    PURGED = "Purged"
    """Its queue was purged while a part of a workflow waited there."""
    REJECTED = "Rejected"
    """The task raised `asyncq.Reject`: the call can never succeed."""
    REFUSED = "Refused"
    """No broker will ever take what follows from a task: its exchange is gone, say."""
    UNSETTLED = "Unsettled"
    """The task ended, and no broker or backend would take how."""
    EXECUTOR_FAILED = "ExecutorFailed"
    """A fault of asyncq."""


class Succeeded(msgspec.Struct, frozen=True, tag="succeeded", array_like=True, gc=False):
    """The task returned ``value``, encoded as MessagePack."""

    value: msgspec.Raw


class Failed(msgspec.Struct, frozen=True, tag="failed", array_like=True):
    """The task raised and will not be tried again, or its message went to the dead letters."""

    error: Failure


class Cancelled(msgspec.Struct, frozen=True, tag="cancelled", array_like=True):
    """The task was cancelled on request."""

    reason: str = ""
    error: str = ""
    """What its last attempt raised, if it did: its type and text."""


class Ignored(msgspec.Struct, frozen=True, tag="ignored", array_like=True):
    """The task said that nobody needs to know how it ended."""

    reason: str = ""


class Expired(msgspec.Struct, frozen=True, tag="expired", array_like=True):
    """``expires`` passed before the task was started, or started again."""

    error: str = ""
    """What the attempt before raised, if there was one: its type and text."""


class Unreadable(msgspec.Struct, frozen=True, tag="unreadable", array_like=True):
    """What is kept for it is no outcome: other hands wrote it. Read, and never stored by us."""

    why: str


Outcome = (
    Succeeded | Failed | Cancelled | Expired | Ignored | Unreadable
)  # how a message ended, for good


class Progress(Shown, frozen=True, array_like=True):
    """How far a running task says it is."""

    value: float
    total: float | None = None


class Status(StrEnum):
    """Where a message is in its life."""

    UNKNOWN = "unknown"
    QUEUED = "queued"
    SCHEDULED = "scheduled"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    EXPIRED = "expired"
    IGNORED = "ignored"


def status_of(outcome: Outcome) -> Status:
    """The status that stands once a message has this outcome."""
    match outcome:
        case Succeeded():
            return Status.SUCCEEDED
        case Failed():
            return Status.FAILED
        case Cancelled():
            return Status.CANCELLED
        case Expired():
            return Status.EXPIRED
        case Ignored():
            return Status.IGNORED
        case Unreadable():
            return Status.UNKNOWN


_ids: list[str] = []


def new_id() -> str:
    """An id in hexadecimal: 48 bits of milliseconds, then 80 random bits (as in RFC 9562's UUID 7).

    Ids of one time are neighbours in an index: with 300,000 messages queued in SQLite, settling is
    several times faster than with random ones. They are drawn 256 at a time, since one system call
    each would cost more than everything else that an enqueue does.
    """
    if not _ids:
        moment = f"{time.time_ns() // 1_000_000:012x}"
        block = os.urandom(10 * 256).hex()
        _ids.extend([moment + block[at : at + 20] for at in range(0, len(block), 20)])
    return _ids.pop()


def derived_id(parent: str, part: str) -> str:
    """The id of what this message begets, always the same; ``part`` names it among its siblings.

    Its moment is the parent's, where that has one (`new_id`), so that they are neighbours.
    """
    digest = sha256(f"{parent}\0{part}".encode()).hexdigest()
    moment = parent[:12] if len(parent) == len(digest) // 2 else digest[20:32]
    return moment + digest[:20]


# A forked child must not hand out its parent's ids.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_ids.clear)
