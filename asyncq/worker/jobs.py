"""Jobs: tasks as the executor needs them, made once when the worker starts."""

import inspect
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import msgspec

from asyncq.client.context import Context
from asyncq.client.task import Task
from asyncq.client.values.parameters import Parameters
from asyncq.config import Config
from asyncq.language.message import Message
from asyncq.language.policies import Retry
from asyncq.worker.threads import Threads
from asyncq.worker.time_limit import TimeLimit


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


async def call(job: Job, message: Message, context: Context) -> Any:
    args, kwargs = job.parameters.decode(message.args, message.kwargs)
    if job.context_first:
        args = (context, *args)
    elif job.context_keyword is not None:
        kwargs[job.context_keyword] = context
    if job.time_limit is None:
        return await job.call(*args, **kwargs)
    async with TimeLimit(job.time_limit, message):
        return await job.call(*args, **kwargs)


def make_job(task: Task[..., Any], config: Config, threads: Threads) -> Job:
    """
    Raises:
        ConfigurationError: an annotation of its parameters cannot be resolved.
    """
    task.parameters.prepare()
    call = task.function
    if not task.is_coroutine:
        call = partial(threads.run, task.function)
    elif not inspect.iscoroutinefunction(call):
        call = partial(_on_loop, call)
    keep = task.settings.keep_result
    return Job(
        name=task.name,
        call=call,
        parameters=task.parameters,
        encode=task.result_shape.result_encoder(config.max_result_size),
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
