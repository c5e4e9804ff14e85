"""Shared tasks: of libraries that have no app. Every app of the process can send and run them."""

import threading
from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from typing import Any, Protocol, TypeVar
from weakref import WeakSet

from asyncq.client.result import Result
from asyncq.client.task import Home, Sender, Task, TaskDecorator, TaskOptions, make_task
from asyncq.errors import ConfigurationError
from asyncq.naming import is_same_definition, is_typed_in

R = TypeVar("R")


class Adopter(Home, Protocol):
    """An app, as shared tasks know it."""

    @property
    def is_connected(self) -> bool: ...

    def check_name(
        self, function: Callable[..., Any], name: str, aliases: Sequence[str]
    ) -> None: ...

    def adopt(self, task: Task[..., Any]) -> None: ...


class SharedTasks:
    """The shared tasks of this process, and its apps: their calls go to the one in use."""

    def __init__(self) -> None:
        self.tasks: dict[str, Task[..., Any]] = {}
        self._apps: WeakSet[Adopter] = WeakSet()
        self._lock = threading.Lock()  # modules are imported by threads

    def join(self, app: Adopter) -> None:
        """Let this app have all shared tasks, those to come as well."""
        with self._lock:
            self._apps.add(app)
            for task in self.tasks.values():
                app.adopt(task)

    def register(
        self, function: Callable[..., Any], name: str, options: TaskOptions
    ) -> Task[..., Any]:
        """Make a function a task of every app.

        Raises:
            ConfigurationError: the name is taken, here or in one of the apps.
        """
        task = make_task(function, name, options, self)
        with self._lock:
            check_free(self.tasks.get(name), function, name)
            for app in self._apps:
                app.check_name(function, name, options.aliases)
            self.tasks[name] = task
            for app in self._apps:
                app.adopt(task)
        return task

    @property
    def client(self) -> Sender:
        """As of any `Home`."""
        return self.app_in_use().client

    def result(self, id: str, task: Task[..., R], /) -> Result[R]:
        """As of any `Home`."""
        return self.app_in_use().result(id, task)

    def app_in_use(self) -> Adopter:
        """The app whose worker runs this, or the one that is connected here, or the only one.

        Raises:
            ConfigurationError: there is none, or several could be meant.
        """
        app = working_for.get()
        if app is not None:
            return app
        with self._lock:
            apps = list(self._apps)
        apps = [app for app in apps if app.is_connected] or apps
        if len(apps) == 1:
            return apps[0]
        raise ConfigurationError(
            "a shared task is sent by the app in use, and "
            + (f"{len(apps)} apps are: {apps!r}" if apps else "there is no app")
            + "; say which one with 'await app.enqueue(task.s(...))'"
        )


def check_free(taken: Task[..., Any] | None, function: Callable[..., Any], name: str) -> None:
    """
    Raises:
        ConfigurationError: another task has this name, and not by an earlier run of its own code.
    """
    if taken is None or is_typed_in(function) or is_same_definition(taken.function, function):
        return
    hint = ""
    if "<locals>" in name:
        hint = ", or its decorator a functools.wraps: without, all that it decorates are called so"
    raise ConfigurationError(
        f"there are two tasks named {name}: give one another name with @app.task(name=...){hint}"
    )


def check_aliases(
    tasks: Mapping[str, Task[..., Any]],
    former: Mapping[str, Task[..., Any]],
    name: str,
    aliases: Sequence[str],
) -> None:
    """
    Raises:
        ConfigurationError: messages of one name would belong to two tasks.
    """
    other = former.get(name)
    if other is not None and other.name != name:
        raise ConfigurationError(
            f"task {other.name} has the alias {name}: what is sent to {name} is its, so no other "
            "task can be named so"
        )
    for alias in aliases:
        other = tasks.get(alias) or former.get(alias)
        if other is not None and other.name != name:
            raise ConfigurationError(
                f"task {name} has the alias {alias}, which belongs to task {other.name} already: "
                "each name means one task"
            )


working_for: ContextVar[Adopter | None] = ContextVar("asyncq_app", default=None)
"""The app whose worker runs this."""

shared_tasks = SharedTasks()
shared_task = TaskDecorator(shared_tasks.register, {})
