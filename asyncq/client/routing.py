"""Routes: where a task's messages go. First what the call says, then the task, then the app.

What a rule of the app answers is a `Route`. Which broker has that queue, and which queues an
exchange leads to, is the dispatch's business.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from fnmatch import translate
from typing import Any, cast

import msgspec

from asyncq.client.task import Task, check_destination, check_priority
from asyncq.errors import ConfigurationError
from asyncq.language.signature import Signature
from asyncq.language.topology import Queue, check_queues, list_queues
from asyncq.shown import Shown

DEFAULT_QUEUE = "default"


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


class Plan(msgspec.Struct, frozen=True):
    """What is known of a task's messages before one is sent."""

    queue: str
    """Empty where an exchange, or a look at the call, decides."""
    priority: int
    expires: float | None
    keep_result: float | None
    encode: Callable[[tuple[Any, ...], Mapping[str, Any]], tuple[msgspec.Raw, msgspec.Raw]]
    """What makes bytes of its arguments."""
    read: Callable[[msgspec.Raw], Any]
    """What makes a value of the bytes of its result."""
    route: Route | None = None
    """Where the task's messages go, unless the call says otherwise; None: look at the call."""


class _Plans(dict[str, Plan]):
    """Plans by the names of tasks, each made when it is first asked for; as many as tasks."""

    def __init__(self, make: Callable[[str], Plan]) -> None:
        super().__init__()
        self._make = make

    def __missing__(self, name: str) -> Plan:
        plan = self[name] = self._make(name)
        return plan


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
        self._made = _Plans(self._plan)
        self.plans: Mapping[str, Plan] = self._made
        """Of each task, by its name; raises `ConfigurationError` for one that is not there."""

    def decide(self, signature: Signature[Any]) -> Route:
        """Where this call goes, by what it says, its task, and the app's rules.

        Raises:
            ConfigurationError: a rule answers what is no destination.
        """
        options, settings = signature.options, self._tasks[signature.task].settings
        if options.exchange is not None:
            return Route(exchange=options.exchange, routing_key=options.routing_key or "")
        route = self.plans[signature.task].route or self._ask(signature)
        key = options.routing_key
        if key is not None and route.exchange is not None:
            route = msgspec.structs.replace(route, routing_key=key)
        if options.priority is not None or settings.priority is not None:
            route = msgspec.structs.replace(route, priority=None)
        return route

    def forget(self, name: str) -> None:
        """The task of this name is another now."""
        self._made.pop(name, None)

    def default_queues(self) -> list[str]:
        """The declared queues, and those that the tasks go to by themselves."""
        plans = [self.plans[name] for name in list(self._tasks)]
        found = {plan.queue for plan in plans if plan.queue} | set(self.queues)
        if any(plan.route is None for plan in plans):  # what no rule has an opinion of
            found.add(DEFAULT_QUEUE)
        return sorted(found) or [DEFAULT_QUEUE]

    def _plan(self, name: str) -> Plan:
        try:
            task = self._tasks[name]
        except KeyError:
            raise ConfigurationError(f"this app has no task {name!r}") from None
        settings = task.settings
        route = self._static_route(name)
        priority = settings.priority
        if priority is None:
            priority = route.priority if route is not None else None
        return Plan(
            queue=(route.queue if route is not None else None) or "",
            priority=priority or 0,
            expires=settings.expires,
            keep_result=settings.keep_result,
            encode=task.parameters.encode,
            read=task.read,
            route=route,
        )

    def _static_route(self, name: str) -> Route | None:
        """Where the task's messages go whatever the call looks like; None where that matters."""
        settings = self._tasks[name].settings
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
