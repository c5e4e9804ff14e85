"""Routes: where a task's messages go. First what the call says, then the task, then the app.

What a rule of the app answers is a `Route`; what is decided of a call, before its message is made,
is a `Plan`. How its broker gets it, and which brokers know exchanges, is the dispatch's business.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from fnmatch import translate
from typing import Any, TypeVar, cast

import msgspec

from asyncq.client.calls import not_a_call
from asyncq.client.task import Task, check_destination, check_priority
from asyncq.errors import ConfigurationError
from asyncq.language.signature import NO_OPTIONS, CallOptions, Signature
from asyncq.language.topology import Queue, check_queues, list_queues, resolve
from asyncq.shown import Shown

T = TypeVar("T")
DEFAULT_QUEUE = "default"
DEFAULT_BROKER = "default"


class Route(Shown, frozen=True, kw_only=True):
    """Where messages go: to a queue, or to an exchange with a routing key.

    Raises:
        ConfigurationError: to neither or to both, or a name that cannot be.
        ValueError: no such priority.
    """

    queue: str | None = None
    exchange: str | None = None
    routing_key: str = ""
    priority: int | None = None
    """For those whose call and task say none."""

    def __post_init__(self) -> None:
        check_destination(self.queue, self.exchange, self.routing_key or None)
        if self.queue is None and self.exchange is None:
            raise ConfigurationError(f"{self!r} leads nowhere: give it a queue or an exchange")
        if self.priority is not None:
            check_priority(self.priority)


Destination = str | Queue | Route
"""A queue by its name or as it is declared, or more than that."""
Rule = Callable[[Signature[Any]], Destination | None]
"""Looks at a call; None is no opinion. It is asked for every call, so let it be quick."""
Patterns = (
    Mapping[str, Destination]
    | Mapping[re.Pattern[str], Destination]
    | Mapping[str | re.Pattern[str], Destination]
)
Routes = Patterns | Rule | Sequence[Patterns | Rule]
"""Rules in their order; the first that answers counts. A text is a pattern for whole task names as
in a shell (``mail.*``), with case; a compiled pattern has to match the whole name as well."""


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a message before it is made: where it goes, and what its task says."""

    queue: str
    """To an exchange: the first of the queues that are bound, empty where none of the app's is."""
    priority: int
    is_default: bool = False
    """To that queue alone, and the default broker has it."""
    exchange: str | None = None
    routing_key: str = ""
    bound: Sequence[str] = ()
    """The queues of the app that the exchange leads to."""
    expires: float | None
    keep_result: float | None
    encode: Callable[[tuple[Any, ...], Mapping[str, Any]], tuple[msgspec.Raw, msgspec.Raw]]
    """What makes bytes of its arguments."""
    read: Callable[[msgspec.Raw], Any]
    """What makes a value of the bytes of its result."""


class _Lazily(dict[str, T]):
    """What is known of tasks, by their names: made when it is first asked for; as many as tasks."""

    def __init__(self, make: Callable[[str], T]) -> None:
        super().__init__()
        self._make = make

    def __missing__(self, name: str) -> T:
        made = self[name] = self._make(name)
        return made


class Router:
    """Decides where messages go. Pure, but for the rules that users write."""

    def __init__(
        self, tasks: Mapping[str, Task[..., Any]], routes: Routes = (), queues: Iterable[Queue] = ()
    ) -> None:
        self._tasks = tasks
        self._rules = list(_rules(routes))
        declared = list_queues(queues)
        for _, queue in self._rules:
            if isinstance(queue, Queue) and queue not in declared:
                declared.append(queue)
        check_queues(declared)
        self.queues = {queue.name: queue for queue in declared}
        """Those that are declared, in their order."""
        self._routes = _Lazily(self._static_route)
        self._plans = _Lazily(self._static_plan)  # of calls without options

    def decide(self, signature: Signature[Any]) -> Plan:
        """Where this call goes, by what it says, its task, and the app's rules.

        Raises:
            TypeError: it is no call.
            ConfigurationError: the app has no such task, or a rule answers what is no destination.
        """
        try:
            plan, options = self._plans[signature.task], signature.options
        except AttributeError:
            raise not_a_call(signature) from None
        if plan is not None and (options is NO_OPTIONS or _goes_by_itself(plan, options)):
            return plan
        route = self._routes[signature.task]
        if route is None and options.queue is None and options.exchange is None:
            route = self._ask(signature)
        return self._plan(signature.task, route, options)

    def broker_of(self, queue: str) -> str:
        """The name of the broker that has this queue."""
        declared = self.queues.get(queue)
        return DEFAULT_BROKER if declared is None else declared.broker

    def task(self, name: str) -> Task[..., Any] | None:
        """The app's task of this name, if it has one."""
        return self._tasks.get(name)

    def forget(self, name: str) -> None:
        """The task of this name is another now."""
        self._routes.pop(name, None)
        self._plans.pop(name, None)

    def default_queues(self) -> list[str]:
        """The declared queues, and those that the tasks go to by themselves."""
        routes = [self._routes[name] for name in list(self._tasks)]
        found = {route.queue for route in routes if route and route.queue} | set(self.queues)
        if None in routes:  # what no rule has an opinion of
            found.add(DEFAULT_QUEUE)
        return sorted(found) or [DEFAULT_QUEUE]

    def _static_route(self, name: str) -> Route | None:
        """Where the task's messages go whatever the call looks like; None where that matters."""
        try:
            settings = self._tasks[name].settings
        except KeyError:
            raise ConfigurationError(f"this app has no task {name!r}") from None
        if settings.exchange is not None:
            return Route(exchange=settings.exchange, routing_key=settings.routing_key)
        if settings.queue is not None:
            return Route(queue=settings.queue)
        for rule, destination in self._rules:
            if not isinstance(rule, re.Pattern):
                return None
            if rule.fullmatch(name):
                return _as_route(destination)
        return Route(queue=DEFAULT_QUEUE)

    def _static_plan(self, name: str) -> Plan | None:
        route = self._routes[name]
        return None if route is None else self._plan(name, route, NO_OPTIONS)

    def _plan(self, name: str, route: Route | None, options: CallOptions) -> Plan:
        """For calls with these options, which go along this route unless they say otherwise."""
        task, bound = self._tasks[name], list[str]()
        settings = task.settings
        queue, exchange, key = options.queue, options.exchange, options.routing_key
        if route is not None and queue is None and exchange is None:
            queue, exchange = route.queue, route.exchange
            key = route.routing_key if key is None else key
        if exchange is not None:
            bound = resolve(self.queues.values(), exchange, key or "", options.headers or {})
            queue = bound[0] if bound else None
        priorities = (
            options.priority,
            settings.priority,
            None if route is None else route.priority,
        )
        return Plan(
            queue=queue or "",
            priority=next((each for each in priorities if each is not None), 0),
            is_default=exchange is None and self.broker_of(queue or "") == DEFAULT_BROKER,
            exchange=exchange,
            routing_key=key or "",
            bound=bound,
            expires=settings.expires,
            keep_result=settings.keep_result,
            encode=task.parameters.encode,
            read=task.read,
        )

    def _ask(self, signature: Signature[Any]) -> Route:
        for rule, destination in self._rules:
            if isinstance(rule, re.Pattern):
                if rule.fullmatch(signature.task):
                    return _as_route(destination)
                continue
            answer = rule(signature)
            if isinstance(answer, Queue) and answer != self.queues.get(answer.name):
                raise ConfigurationError(
                    f"the route of task {signature.task} is queue {answer.name}, which is not "
                    "declared: list it in App(queues=[...])"
                )
            if answer is not None:
                return _as_route(answer)
        return Route(queue=DEFAULT_QUEUE)


def _goes_by_itself(plan: Plan, options: CallOptions) -> bool:
    """Whether the call goes where its task goes by itself."""
    return (
        options.queue is None
        and options.exchange is None
        and options.routing_key is None
        and options.priority is None
        and (options.headers is None or plan.exchange is None)
    )


def _rules(routes: Routes) -> Iterable[tuple[re.Pattern[str] | Rule, Destination]]:
    """The rules one by one; a function answers for itself."""
    if isinstance(routes, Mapping):
        for pattern, destination in cast("Mapping[Any, Any]", routes).items():
            _as_route(destination)  # now, and not when the first message is sent
            yield _compiled(pattern), destination
    elif callable(routes):
        yield routes, ""
    else:
        for part in routes:
            yield from _rules(part)


def _compiled(pattern: Any) -> re.Pattern[str]:
    if isinstance(pattern, str):
        return re.compile(translate(pattern))
    if isinstance(pattern, re.Pattern):
        return cast("re.Pattern[str]", pattern)
    raise ConfigurationError(
        f"routes go by patterns of task names, as in 'mail.*' or re.compile(...), not {pattern!r}"
    )


def _as_route(destination: Destination) -> Route:
    match destination:
        case Route():
            return destination
        case Queue(name=name):
            return Route(queue=name)
        case str():
            return Route(queue=destination)
        case _:
            raise ConfigurationError(
                "a route leads to a queue's name, a Queue or a Route(queue=..., exchange=..., "
                f"priority=...), not to {destination!r}"
            )
