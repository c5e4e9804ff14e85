"""Jobs: tasks as the executor needs them, made once when the worker starts."""

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from types import TracebackType
from typing import Any

import anyio
import msgspec

from asyncq.config import Config
from asyncq.context import Context
from asyncq.message import Message
from asyncq.parameters import Parameters
from asyncq.policies import Retry
from asyncq.task import Task
from asyncq.worker.failures import is_a


class Job(msgspec.Struct, frozen=True):
    """A task, with what is decided about every run of it."""

    name: str
    call: Callable[..., Awaitable[Any]]
    parameters: Parameters
    encode: Callable[[Any], msgspec.Raw]
    """Of what it returns."""
    context_first: bool
    context_keyword: str | None
    retry: Retry | None
    time_limit: float | None
    keep: float
    dead_letter: bool


class TimeLimitExceeded(Exception):
    """The attempt took longer than the task's ``time_limit``."""


class _TimeLimit:
    """`asyncio.timeout`, saying whose time it was."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._timeout = asyncio.timeout(seconds)

    async def __aenter__(self) -> None:
        await self._timeout.__aenter__()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> bool | None:
        try:
            return await self._timeout.__aexit__(kind, error, trace)
        except TimeoutError:
            raise TimeLimitExceeded(f"the time limit of {self._seconds} s is over") from None


async def call(job: Job, message: Message, context: Context) -> Any:
    args, kwargs = job.parameters.decode(message.args, message.kwargs)
    if job.context_first:
        args = (context, *args)
    elif job.context_keyword is not None:
        kwargs[job.context_keyword] = context
    if job.time_limit is None:
        return await job.call(*args, **kwargs)
    async with _TimeLimit(job.time_limit):
        return await job.call(*args, **kwargs)


def make_job(task: Task[..., Any], config: Config, threads: anyio.CapacityLimiter) -> Job:
    """
    Raises:
        ConfigurationError: an annotation of its parameters cannot be resolved.
    """
    task.parameters.prepare()
    call = task.function
    if not task.is_coroutine:
        call = partial(_in_thread, task.function, threads)
    elif not inspect.iscoroutinefunction(call):
        call = partial(_on_loop, call)
    keep = task.settings.keep_result
    result = task.result_shape
    return Job(
        name=task.name,
        call=call,
        parameters=task.parameters,
        encode=result.encode_result if result.has_models else result.encode_whole,
        context_first=task.parameters.context_first,
        context_keyword=task.parameters.context_keyword,
        retry=task.settings.retry,
        time_limit=task.settings.time_limit,
        keep=config.keep_result if keep is None else keep,
        dead_letter=task.settings.dead_letter,
    )


async def _on_loop(function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
    """A plain wrapper around a coroutine function: what it returns is still to be awaited."""
    value = function(*args, **kwargs)
    return await value if inspect.isawaitable(value) else value


class RaisedInThread(Exception):
    """Carries out of a thread what no coroutine can raise as it is: `StopIteration`."""

    def __init__(self, error: BaseException) -> None:
        super().__init__()
        self.error = error


async def _in_thread(
    function: Callable[..., Any], threads: anyio.CapacityLimiter, /, *args: Any, **kwargs: Any
) -> Any:
    # A thread cannot be cancelled: at its time limit, or when the worker stops, it is left behind.
    value, error = await anyio.to_thread.run_sync(
        partial(_catch, function, args, kwargs), abandon_on_cancel=True, limiter=threads
    )
    if error is None:
        return await value if inspect.isawaitable(value) else value
    raise RaisedInThread(error) if is_a(error, StopIteration) else error


def _catch(
    function: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]
) -> tuple[Any, BaseException | None]:
    """The thread's side. An exception is handed over as a value: no future takes every kind."""
    try:
        return function(*args, **kwargs), None
    except BaseException as error:  # noqa: BLE001 - raised again where the task is awaited
        return None, error
