"""Tasks as the executor needs them, prepared once: when the worker starts, as a rule."""

import inspect
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any

import msgspec

from asyncq.client.context import Context
from asyncq.client.task import Task
from asyncq.client.values.parameters import Parameters
from asyncq.config import Config
from asyncq.errors import ConfigurationError
from asyncq.language.message import FailureType, Message
from asyncq.language.policies import Retry
from asyncq.language.spelling import nearest_task
from asyncq.naming import NAME_LIMIT
from asyncq.worker.threads import Threads
from asyncq.worker.time_limit import TimeLimit

MOST_UNKNOWN = 1000  # names come from outside: bounded


class PreparedTask(msgspec.Struct, frozen=True):
    """A task, with what is decided about every run of it."""

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


class PreparedTasks:
    """Those of one worker; also of tasks that are declared while it runs, as at a prompt."""

    def __init__(
        self,
        tasks: Mapping[str, Task[..., Any]],
        config: Config,
        threads: Threads,
        unusable: Callable[[str, Exception], None],
    ) -> None:
        self.made: dict[str, PreparedTask] = {}
        self._tasks = tasks
        self._config = config
        self._threads = threads
        self._unusable = unusable
        """Told of a task that cannot be run as it is written."""
        self._refused: dict[str, str] = {}  # those, and why
        self._unknown: dict[str, str] = {}  # names that no task has, and what is said of them
        for name in tasks:
            self.make(name)

    def make(self, name: str) -> PreparedTask | None:
        """Prepare a task that was not yet, if there is such a task and it can be run."""
        task = self._tasks.get(name)
        if task is None or name in self._refused:
            return None
        try:
            prepared = self.made[name] = prepare_task(task, self._config, self._threads)
        except ConfigurationError as error:
            self._refused[name] = str(error)
            self._unusable(name, error)
            return None
        return prepared

    def why_none(self, name: str) -> tuple[FailureType, str]:
        """Why there is none of this name, which comes from outside."""
        if (why := self._refused.get(name)) is not None:
            return FailureType.UNUSABLE_TASK, why
        name = name[:NAME_LIMIT]
        why = self._unknown.get(name)
        if why is None:
            if len(self._unknown) >= MOST_UNKNOWN:
                self._unknown.clear()
            why = f"no task named {name!r} here{nearest_task(name, self.made)}"
            self._unknown[name] = why
        return FailureType.UNKNOWN_TASK, why


def call(prepared: PreparedTask, message: Message, context: Context) -> Awaitable[Any]:
    """The call of a message, begun once it is awaited: a coroutine around it would cost as much.

    Raises:
        BadArguments: they do not fit the task's parameters.
    """
    args, kwargs = prepared.parameters.decode(message.args, message.kwargs)
    if prepared.context_first:
        args = (context, *args)
    elif prepared.context_keyword is not None:
        kwargs[prepared.context_keyword] = context
    run = prepared.call(*args, **kwargs)
    limit = prepared.time_limit
    return run if limit is None else _limited(run, TimeLimit(limit, message))


async def _limited(run: Awaitable[Any], limit: TimeLimit) -> Any:
    async with limit:
        return await run


def prepare_task(task: Task[..., Any], config: Config, threads: Threads) -> PreparedTask:
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
    return PreparedTask(
        call=call,
        parameters=task.parameters,
        encode=task.result_shape.result_encoder(config.max_result_size),
        context_first=task.parameters.layout.context_first,
        context_keyword=task.parameters.layout.context_keyword,
        retry=task.settings.retry,
        time_limit=task.settings.time_limit,
        keep=config.keep_result if keep is None else keep,
        dead_letter=task.settings.dead_letter,
    )


async def _on_loop(function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
    """A plain wrapper around a coroutine function: what it returns is still to be awaited."""
    value = function(*args, **kwargs)
    return await value if inspect.isawaitable(value) else value
