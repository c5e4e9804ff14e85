"""asyncq: a distributed task queue that is asyncio all the way down."""

import asyncq.interrupted  # noqa: F401  # pyright: ignore[reportUnusedImport] - first of all
from asyncq.app import App
from asyncq.client.context import Context, current_context
from asyncq.client.gathering import as_completed, gather
from asyncq.client.result import Result
from asyncq.client.routing import Route
from asyncq.client.scope import Scope, scope
from asyncq.client.shared import shared_task
from asyncq.client.task import Task
from asyncq.config import Config
from asyncq.errors import (
    AsyncqError,
    BackendError,
    BackendUnavailable,
    BadArguments,
    BrokerError,
    BrokerUnavailable,
    ConfigurationError,
    Ignore,
    InvalidValue,
    LeaseLost,
    MessageTooLarge,
    NewerVersion,
    QueueFull,
    QueueUnavailable,
    Refused,
    Reject,
    RetryLater,
    Snooze,
    SoftTimeLimitExceeded,
    TaskCancelled,
    TaskError,
    TaskExpired,
    TaskFailed,
    TaskIgnored,
    TimeLimitExceeded,
    Undecodable,
    UnknownOption,
    UnknownResult,
    UnreadableResult,
    Unroutable,
)
from asyncq.language.marks import Cancellation
from asyncq.language.message import FailureType, Progress, Status
from asyncq.language.policies import Retry
from asyncq.language.signature import Signature
from asyncq.language.topology import Binding, Exchange, Queue

__all__ = [
    "App",
    "AsyncqError",
    "BackendError",
    "BackendUnavailable",
    "BadArguments",
    "Binding",
    "BrokerError",
    "BrokerUnavailable",
    "Cancellation",
    "Config",
    "ConfigurationError",
    "Context",
    "Exchange",
    "FailureType",
    "Ignore",
    "InvalidValue",
    "LeaseLost",
    "MessageTooLarge",
    "NewerVersion",
    "Progress",
    "Queue",
    "QueueFull",
    "QueueUnavailable",
    "Refused",
    "Reject",
    "Result",
    "Retry",
    "RetryLater",
    "Route",
    "Scope",
    "Signature",
    "Snooze",
    "SoftTimeLimitExceeded",
    "Status",
    "Task",
    "TaskCancelled",
    "TaskError",
    "TaskExpired",
    "TaskFailed",
    "TaskIgnored",
    "TimeLimitExceeded",
    "Undecodable",
    "UnknownOption",
    "UnknownResult",
    "UnreadableResult",
    "Unroutable",
    "as_completed",
    "current_context",
    "gather",
    "scope",
    "shared_task",
]
