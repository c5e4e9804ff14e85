"""The app: tasks, a broker and a backend under one name."""

from collections import ChainMap, defaultdict
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    Callable,
    Collection,
    Generator,
    Iterable,
    Mapping,
    Sequence,
)
from contextlib import asynccontextmanager, contextmanager
from types import TracebackType
from typing import Any, Never, Protocol, Self, TypeVar, overload

import msgspec

from asyncq.client.client import Client
from asyncq.client.connections import Connections, Here
from asyncq.client.modules import TaskModules
from asyncq.client.queues import DeadLetters, Queues
from asyncq.client.result import Result
from asyncq.client.routing import DEFAULT_BROKER, Router, Routes
from asyncq.client.scope import Scope
from asyncq.client.shared import check_aliases, check_free, shared_tasks, working_for
from asyncq.client.sync import SyncClient
from asyncq.client.task import Task, TaskDecorator, TaskOptions, make_task
from asyncq.clock import Clock, SystemClock
from asyncq.codecs.native import NativeCodec
from asyncq.config import DEFAULTS, Config, Url, broker_urls
from asyncq.drivers.hosts import Hosts
from asyncq.drivers.table import check_url, make_backend, make_broker
from asyncq.errors import ConfigurationError, InvalidValue, first_error
from asyncq.language.marks import Cancellation
from asyncq.language.quantities import Duration
from asyncq.language.signature import Signature
from asyncq.language.spelling import parameters_of, unknown_option
from asyncq.language.topology import Queue
from asyncq.seams.backend import Backend
from asyncq.seams.broker import Broker
from asyncq.seams.dead import DeadLimits
from asyncq.texts import counted
from asyncq.worker.arrival import connected
from asyncq.worker.embedded import Embedded
from asyncq.worker.queues import Consumed, check_queues
from asyncq.worker.signals import run_until_signalled
from asyncq.worker.worker import Hook, Worker

R = TypeVar("R")
H = TypeVar("H", bound=Hook)


class Elsewhere(Protocol):
    """Where an app connects instead of where its URLs say."""

    @property
    def clock(self) -> Clock: ...

    def open_broker(self, url: Url) -> Broker: ...

    def open_backend(self, url: Url) -> Backend: ...

    def make_client(self, **parts: Any) -> Client: ...


class App:
    """Tasks, and where their messages and outcomes are kept.

    ``broker`` is a URL: ``redis://``, ``rediss://``, ``sqlite:///path``, ``memory://``; without
    one, ``$ASYNCQ_BROKER``, else SQLite in ``./asyncq.db``. ``backend`` is the same store unless it
    is given; ``null://`` keeps no outcomes.

    A list of URLs is tried in its order, when the app connects and when the one in use stays away:
    see `asyncq.drivers.hosts` for what becomes of what waits there. Of files the first is used.

    ``brokers`` are several by their names, ``default`` among them, in place of one: each queue is
    where its ``Queue(broker=...)`` says, else in the default one. Outcomes have one backend, for
    all of them that of the default broker.

    ``queues`` are those with bindings or bounds; any other needs no declaration. ``routes`` say
    where the tasks go whose call and options do not: see `asyncq.client.routing.Routes`.

    ``include`` names the modules where tasks are. They may import the app: they are imported when
    the tasks are first needed (connecting, a worker, ``app.tasks``), and not here.

    Raises:
        ConfigurationError: brokers, queues, routes or names of modules that cannot be.
    """

    def __init__(
        self,
        broker: str | Sequence[str] | None = None,
        *,
        brokers: Mapping[str, str | Sequence[str]] | None = None,
        backend: str | None = None,
        queues: Sequence[Queue] = (),
        routes: Routes = (),
        include: Sequence[str] = (),
        config: Config = DEFAULTS,
        clock: Clock | None = None,
        **unknown: Never,
    ) -> None:
        if unknown:
            raise unknown_option("App", unknown, parameters_of(App), Config.__struct_fields__)
        if not isinstance(config, Config):  # pyright: ignore[reportUnnecessaryIsInstance] - what users write
            raise InvalidValue("config", config, "a Config(...)")
        self.urls = _urls(broker, brokers)
        """Of each broker, by its name."""
        self.backend_url = Url(backend) if backend is not None else self.url
        for each in (url for urls in self.urls.values() for url in urls):
            check_url("broker", each)
        check_url("backend", self.backend_url)
        self.config = config
        self._tasks: dict[str, Task[..., Any]] = {}
        self._former: dict[str, Task[..., Any]] = {}  # by names that they had before
        self._modules = TaskModules(include)
        self._router = Router(self._tasks, routes, queues)
        _check_brokers(self._router.queues.values(), self.urls)
        self._clock = clock or SystemClock()
        self._codec = NativeCodec()
        self._startup: list[Hook] = []
        self._shutdown: list[Hook] = []
        self._connections = Connections(self._make_client)
        self.queues = Queues(lambda: self.client, self._declared_queues)
        """What waits in the app's queues, and what is done about it."""
        self.dead = DeadLetters(lambda: self.client)
        """Its dead letters."""
        self._elsewhere: Elsewhere | None = None
        self.task = TaskDecorator(self._register, {})
        """Makes a function a task: ``@app.task`` or ``@app.task(queue="mail", ...)``."""
        shared_tasks.join(self)

    def __repr__(self) -> str:
        return f"<asyncq app, {counted(len(self._tasks), 'task')}, {self.url!r}>"

    @property
    def tasks(self) -> dict[str, Task[..., Any]]:
        """Every task by its name, those of the modules to ``include`` as well.

        Raises:
            ConfigurationError: one of these cannot be imported.
        """
        self._modules.load()
        return self._tasks

    def discover(self, *packages: str, related: str | None = "tasks") -> None:
        """Include the modules below these packages that are called ``tasks`` or in one so called.

        ``related`` is another name; None means every module, but no program (``__main__``). Found
        and imported as those of ``include`` are.

        Raises:
            ConfigurationError: what is given can be no name of a module.
        """
        self._modules.discover(packages, related)

    async def __aenter__(self) -> Self:
        """Connect, in this event loop: each has connections of its own.

        May be nested; who leaves last closes the connections.

        Raises:
            BrokerUnavailable: nothing answers at the URL.
            ConfigurationError: something there answers and cannot be used, or a module to include
                cannot be imported; says why.
        """
        self._modules.load()
        await self._connections.enter()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
        /,
    ) -> None:
        await self._connections.leave(kind, error, trace)

    @property
    def url(self) -> Url:
        """Of the default broker; the first, if it has several."""
        return self.urls[DEFAULT_BROKER][0]

    @property
    def client(self) -> Client:
        """What is connected in this event loop.

        Raises:
            ConfigurationError: nothing is; says whether it is in another loop or process.
        """
        return self._connections.client

    async def enqueue(self, signature: Signature[R]) -> Result[R]:
        """Send one call; returns once the broker keeps it. Raises as `Task.enqueue`."""
        return await self._connections.client.enqueue(signature)

    async def enqueue_many(
        self, signatures: Iterable[Signature[R]] | AsyncIterable[Signature[R]]
    ) -> list[Result[R]]:
        """Send many calls, streamed in batches; returns once the broker keeps all of them.

        Raises as `Task.enqueue`; what came before the call at fault may have been sent.
        """
        return await self.client.enqueue_many(signatures)

    @overload
    def result(self, id: str, task: None = None) -> Result[Any]: ...
    @overload
    def result(self, id: str, task: Task[..., R]) -> Result[R]: ...
    def result(self, id: str, task: Task[..., Any] | None = None) -> Result[Any]:
        """The handle to any task's outcome, whoever sent it: as plain data, or as ``task`` returns.

        ``task.result(id)`` is the same.
        """
        return self.client.result(id, task)

    async def cancel(
        self,
        messages: Iterable[Result[Any] | str] | Result[Any] | str | None = None,
        reason: str = "",
        *,
        task: str | Task[..., Any] | None = None,
        queue: str | None = None,
        headers: dict[str, Any] | None = None,
        scope: Scope | str | None = None,
    ) -> dict[str, Cancellation]:
        """Cancel many, as `Result.cancel` does one: by their results or ids, and say what became of
        each; or all that were sent until now to this task (also by its aliases), or this queue, or
        with these headers (and are all of what is given); or all that belongs to a scope, or will,
        by its `Scope.name` as well.

        What is described and not named ends when a worker comes to it, and is not counted: nothing
        is searched for. Marks are kept for as long as dead letters (`Config.keep_dead_letters`),
        30 days at least, and those of what is named until that is due. What is described, or lies
        in RabbitMQ, which cannot say when that is, and is delayed for longer, runs all the same.

        Raises:
            InvalidValue: nothing is named nor described, or both.
            ConfigurationError, BackendUnavailable, BrokerUnavailable: as `Result.cancel`.
        """
        return await self.client.canceller.cancel_any(
            messages, reason, task=task, queue=queue, headers=headers, scope=scope
        )

    @property
    def is_connected(self) -> bool:
        """Whether there is something to send with here."""
        try:
            return self.client is not None  # pyright: ignore[reportUnnecessaryComparison] - raises
        except ConfigurationError:
            return False

    def on_startup(self, hook: H) -> H:
        """Run this before a worker takes its first message, with the dictionary of its state."""
        self._startup.append(hook)
        return hook

    def on_shutdown(self, hook: H) -> H:
        """Run this when a worker has settled its last message, with the dictionary of its state."""
        self._shutdown.append(hook)
        return hook

    @asynccontextmanager
    async def worker(
        self,
        *,
        queues: Consumed | None = None,
        concurrency: int | None = None,
        max_waiting: int | None = None,
        grace: Duration | None = None,
        **unknown: Never,
    ) -> AsyncGenerator[Worker]:
        """A worker in this event loop: consuming when entered, drained when left.

        ``queues`` are those of the app's tasks if not given; ``{"mail": 10, "default": None}``
        runs at most ten of ``mail`` at a time. ``max_waiting`` tasks may lend their slot while they
        wait for others' results. Stop it early with ``stop()``. What the block raises
        comes out as it is, after the drain; so does what ends the worker. While it drains, SIGINT
        (another Ctrl-C) gives back at once what still runs. The block may be left by another task
        than entered it, as fixtures are.

        Raises:
            ConfigurationError: queues or options that cannot be; before it connects.
        """
        bounds, config = self._check_worker(queues, concurrency, max_waiting, grace, unknown)
        async with self:
            worker = self._worker(bounds, config)
            async with Embedded(worker):
                yield worker

    async def run_worker(
        self,
        *,
        queues: Consumed | None = None,
        concurrency: int | None = None,
        max_waiting: int | None = None,
        grace: Duration | None = None,
        burst: bool = False,
        require_broker: bool = False,
        **unknown: Never,
    ) -> None:
        """Run a worker until SIGTERM or SIGINT, or in a ``burst`` until the queues are empty.

        It waits for brokers and a backend that do not answer yet, and says so in the log. See
        `asyncq.worker.signals` for what signals do.

        Raises:
            BrokerUnavailable, BackendUnavailable: at once, with ``require_broker``.
            ConfigurationError: an option that cannot be, at once; or something there answers and
                cannot be used.
        """
        bounds, config = self._check_worker(queues, concurrency, max_waiting, grace, unknown)
        async with connected(self, lambda: self.client.backend, required=require_broker):
            worker = self._worker(bounds, config, burst=burst)
            try:
                await run_until_signalled(worker)
            except BaseExceptionGroup as errors:
                raise first_error(errors) from None

    @contextmanager
    def connect_through(self, elsewhere: Elsewhere) -> Generator[None]:
        """Connect to what this opens, and live in its time, until the block ends: for tests.

        What is connected now stays so, and is what the app uses again afterwards. See
        `asyncq.testing.run`.
        """
        before = self._elsewhere, self._clock, self._connections
        self._elsewhere, self._clock = elsewhere, elsewhere.clock
        self._connections = Connections(self._make_client)
        try:
            yield
        finally:
            self._elsewhere, self._clock, self._connections = before

    def sync(self) -> SyncClient:
        """A client for code without an event loop. Its connections are its own.

        Enter it with ``with``, as often and in as many threads as you like.
        """
        self._modules.load()  # in this thread: the other one would wait for what we import
        return SyncClient(self._make_client)

    def make_worker(
        self,
        *,
        queues: Consumed | None = None,
        concurrency: int | None = None,
        max_waiting: int | None = None,
        grace: Duration | None = None,
        burst: bool = False,
        **unknown: Never,
    ) -> Worker:
        """A worker that does not run yet; the app must be connected.

        Raises:
            InvalidValue, UnknownOption: an option that cannot be; says what can.
        """
        bounds, config = self._check_worker(queues, concurrency, max_waiting, grace, unknown)
        return self._worker(bounds, config, burst=burst)

    def _worker(
        self, bounds: Mapping[str, int | None], config: Config, *, burst: bool = False
    ) -> Worker:
        bounds = bounds or check_queues(self.queues.declared)
        by_broker: dict[str, list[str]] = defaultdict(list)
        for queue in bounds:
            by_broker[self.client.broker_of(queue)].append(queue)
        return Worker(
            tasks=ChainMap(self.tasks, self._former),
            client=self.client,
            codec=self._codec,
            config=config,
            clock=self._clock,
            queues=by_broker,
            bounds={queue: bound for queue, bound in bounds.items() if bound is not None},
            startup=[self._work_here, *self._startup],
            shutdown=self._shutdown,
            burst=burst,
        )

    def _check_worker(
        self,
        queues: Consumed | None,
        concurrency: int | None,
        max_waiting: int | None,
        grace: Duration | None,
        unknown: Mapping[str, object],
    ) -> tuple[Mapping[str, int | None], Config]:
        """The queues and settings of a worker; raises as `make_worker`, before it is connected."""
        if unknown:
            known = parameters_of(self.make_worker)
            raise unknown_option("worker", unknown, known, Config.__struct_fields__)
        given = {"concurrency": concurrency, "max_waiting": max_waiting, "grace": grace}
        given = {name: value for name, value in given.items() if value is not None}
        return check_queues(queues), msgspec.structs.replace(self.config, **given)

    def _declared_queues(self) -> list[str]:
        self._modules.load()
        return self._router.default_queues()

    def adopt(self, task: Task[..., Any]) -> None:
        """Have a shared task as one's own."""
        self._tasks[task.name] = task
        for alias in [each for each, one in self._former.items() if one.name == task.name]:
            del self._former[alias]
        self._former.update(dict.fromkeys(task.settings.aliases, task))
        self._router.forget(task.name)

    def check_name(
        self, function: Callable[..., Any], name: str, aliases: Sequence[str] = ()
    ) -> None:
        """
        Raises:
            ConfigurationError: another task has this name, or one of these.
        """
        check_free(self._tasks.get(name), function, name)
        check_aliases(self._tasks, self._former, name, aliases)

    def _register(
        self, function: Callable[..., Any], name: str, options: TaskOptions
    ) -> Task[..., Any]:
        self.check_name(function, name, options.aliases)
        task = make_task(function, name, options, self)
        self.adopt(task)
        return task

    def _work_here(self, _: dict[str, Any]) -> None:
        """Be the app in use for all that a worker runs."""
        working_for.set(self)

    def _make_client(self, here: Here) -> Client:
        hosts = {name: Hosts(urls) for name, urls in self.urls.items()}
        brokers = {name: self._open_broker(each) for name, each in hosts.items()}
        # The very same URL, and not an equal one: who names a backend means that one.
        beside = self.backend_url is self.url
        backend = self._open_backend(hosts[DEFAULT_BROKER] if beside else Hosts([self.backend_url]))
        make = Client if self._elsewhere is None else self._elsewhere.make_client
        return make(
            brokers=brokers,
            router=self._router,
            backend=backend,
            codec=self._codec,
            config=self.config,
            clock=self._clock,
            here=here,
        )

    def _open_broker(self, hosts: Hosts) -> Broker:
        if self._elsewhere is not None:
            return self._elsewhere.open_broker(hosts.url)
        limits = DeadLimits(self.config.max_dead_letters, self.config.keep_dead_letters)
        return make_broker(hosts, self._clock, limits)

    def _open_backend(self, hosts: Hosts) -> Backend:
        if self._elsewhere is not None:
            return self._elsewhere.open_backend(hosts.url)
        return make_backend(hosts, self._clock)


def _urls(
    broker: str | Sequence[str] | None, brokers: Mapping[str, str | Sequence[str]] | None
) -> Mapping[str, tuple[Url, ...]]:
    if brokers is None:
        return {DEFAULT_BROKER: broker_urls(broker)}
    if broker is not None:
        raise ConfigurationError(
            "give one broker, or brokers={...} with one named default among them, not both"
        )
    if DEFAULT_BROKER not in brokers:
        raise ConfigurationError(
            f"brokers={{...}} needs one named {DEFAULT_BROKER}, for every queue that names none; "
            f"there is {', '.join(brokers) or 'none at all'}"
        )
    if unnamed := [name for name, urls in brokers.items() if not urls]:
        raise ConfigurationError(f"broker {unnamed[0]} has no URL")
    return {name: broker_urls(urls) for name, urls in brokers.items()}


def _check_brokers(queues: Iterable[Queue], known: Collection[str]) -> None:
    for queue in queues:
        if queue.broker not in known:
            raise ConfigurationError(
                f"queue {queue.name}: there is no broker {queue.broker!r}; "
                f"App(brokers={{...}}) has {', '.join(known)}"
            )
