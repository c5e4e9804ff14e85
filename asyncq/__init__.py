"""asyncq: a distributed task queue that is asyncio all the way down."""

from asyncq.app import App
from asyncq.config import Config
from asyncq.context import Context, current_context
from asyncq.errors import (
    AsyncqError,
    BackendUnavailable,
    BrokerUnavailable,
    ConfigurationError,
    InvalidValue,
    MessageTooLarge,
    QueueFull,
    RetryLater,
    TaskCancelled,
    TaskError,
    TaskExpired,
    TaskFailed,
    UnknownOption,
    UnknownResult,
    UnreadableResult,
    Unroutable,
)
from asyncq.message import Progress, Status
from asyncq.policies import Retry
from asyncq.result import Result, as_completed, gather
from asyncq.routing import Route
from asyncq.shared import shared_task
from asyncq.signature import Signature
from asyncq.task import Task
from asyncq.topology import Binding, Exchange, Queue

__all__ = [
    "App",
    "AsyncqError",
    "BackendUnavailable",
    "Binding",
    "BrokerUnavailable",
    "Config",
    "ConfigurationError",
    "Context",
    "Exchange",
    "InvalidValue",
    "MessageTooLarge",
    "Progress",
    "Queue",
    "QueueFull",
    "Result",
    "Retry",
    "RetryLater",
    "Route",
    "Signature",
    "Status",
    "Task",
    "TaskCancelled",
    "TaskError",
    "TaskExpired",
    "TaskFailed",
    "UnknownOption",
    "UnknownResult",
    "UnreadableResult",
    "Unroutable",
    "as_completed",
    "current_context",
    "gather",
    "shared_task",
]
