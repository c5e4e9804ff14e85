"""Tasks as the executor needs them, prepared once: when the worker starts, as a rule."""

import inspect
import math
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
from asyncq.language.policies import Errors, Retry
from asyncq.language.spelling import nearest_task
from asyncq.naming import NAME_LIMIT
from asyncq.worker.threads import Interrupt, Threads
from asyncq.worker.time_limit import SoftTimeLimit, TimeLimit

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
    hard: float | None
    """Its time limits, in seconds."""
    soft: float | None
    is_limited: bool
    interrupt: Interrupt | None
    """Of a plain function: what raises something in the thread where it runs."""
    throws: Errors
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
    if not prepared.is_limited and message.limits is None:
        return run
    return _limited(run, prepared, message)


async def _limited(run: Awaitable[Any], prepared: PreparedTask, message: Message) -> Any:
    hard, soft, asked = prepared.hard, prepared.soft, message.limits
    if asked is not None:
        hard = hard if asked.hard is None else asked.hard
        soft = soft if asked.soft is None else asked.soft
    if soft is not None and soft < math.inf:
        run = SoftTimeLimit(run, soft, prepared.interrupt)
    if hard is None or not hard < math.inf:
        return await run
    async with TimeLimit(hard, message, prepared.interrupt):
        return await run


def prepare_task(task: Task[..., Any], config: Config, threads: Threads) -> PreparedTask:
    """
    Raises:
        ConfigurationError: an annotation of its parameters cannot be resolved.
    """
    task.parameters.prepare()
    call, settings = task.function, task.settings
    if not task.is_coroutine:
        call = partial(threads.run, task.function)
    elif not inspect.iscoroutinefunction(call):
        call = partial(_on_loop, call)
    keep = settings.keep_result
    return PreparedTask(
        call=call,
        parameters=task.parameters,
        encode=task.result_shape.result_encoder(config.max_result_size),
        context_first=task.parameters.layout.context_first,
        context_keyword=task.parameters.layout.context_keyword,
        retry=settings.retry,
        hard=settings.time_limit,
        soft=settings.soft_time_limit,
        is_limited=settings.time_limit is not None or settings.soft_time_limit is not None,
        interrupt=None if task.is_coroutine else threads.interrupt,
        throws=settings.throws,
        keep=config.keep_result if keep is None else keep,
        dead_letter=settings.dead_letter,
    )


async def _on_loop(function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
    """A plain wrapper around a coroutine function: what it returns is still to be awaited."""
    value = function(*args, **kwargs)
    return await value if inspect.isawaitable(value) else value
