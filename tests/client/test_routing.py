"""Where messages go: exchanges and bindings, and the app's routes."""

import re
from collections.abc import Sequence
from typing import Any

import msgspec
import pytest
from anyio import fail_after

from asyncq.app import App
from asyncq.client.context import Context
from asyncq.client.routing import Route, Routes
from asyncq.drivers import table as drivers
from asyncq.drivers.memory.broker import MemoryBroker
from asyncq.errors import ConfigurationError, Unroutable
from asyncq.language.envelope import Envelope
from asyncq.language.message import new_id
from asyncq.language.signature import Signature
from asyncq.language.topology import Binding, Exchange, Queue
from asyncq.seams.broker import Offers
from tests.client.given import PATIENCE

LOGS = Exchange("logs", "topic")
FILES = Exchange("files", "headers")
NEWS = Exchange("news", "fanout")
QUEUES = [
    Queue("errors", bindings=[Binding(LOGS, "*.error"), Binding(NEWS)]),
    Queue("mail", bindings=[Binding(LOGS, "mail.#"), Binding(FILES, headers={"type": "pdf"})]),
    Queue("plain", bindings=[Binding(NEWS), Binding(Exchange("direct"), "here")]),
]


def new_app(scheme: str = "memory", routes: Routes = (), queues: Sequence[Queue] = QUEUES) -> App:
    name = new_id()
    return App(f"{scheme}://{name}", backend=f"memory://{name}", queues=queues, routes=routes)


async def where(app: App, id: str) -> list[str]:
    """The queues that have a copy of this message, with the ids that they have."""
    broker = app.client.broker
    assert isinstance(broker, MemoryBroker)
    ids = [id, *(f"{id}@{queue.name}" for queue in QUEUES)]
    return [
        found for found, status in zip(ids, await broker.find(ids), strict=True) if status
    ]  # fmt: skip


async def lengths(app: App) -> dict[str, int]:
    """The queues that have something, and how much."""
    queues = app.queues
    found = {name: (await queues.depth(name)).ready for name in await queues.list()}
    return {name: ready for name, ready in found.items() if ready}


@pytest.mark.parametrize(
    ("options", "copies", "queues"),
    [
        ({"exchange": "logs", "routing_key": "mail.error"}, ["1", "1@mail"], ["errors", "mail"]),
        ({"exchange": "logs", "routing_key": "mail.sent.late"}, ["1"], ["mail"]),
        ({"exchange": "logs", "routing_key": "db.error"}, ["1"], ["errors"]),
        ({"exchange": "news"}, ["1", "1@plain"], ["errors", "plain"]),
        ({"exchange": "direct", "routing_key": "here"}, ["1"], ["plain"]),
        ({"exchange": "files", "headers": {"type": "pdf", "n": 1}}, ["1"], ["mail"]),
    ],
)
async def test_an_exchange_leads_to_every_queue_that_is_bound(
    options: dict[str, Any], copies: list[str], queues: list[str]
) -> None:
    app = new_app()

    @app.task(queue="elsewhere")
    async def task() -> None: ...

    async with app:
        result = await task.options(id="1", **options).enqueue()
        await task.options(id="1", **options).enqueue()  # is kept once

        assert result.id == "1"
        assert await where(app, "1") == copies
        assert await lengths(app) == dict.fromkeys(queues, 1)


@pytest.mark.parametrize(
    "options",
    [
        {"exchange": "logs", "routing_key": "news"},
        {"exchange": "nowhere", "routing_key": "mail.error"},
        {"exchange": "files", "headers": {"type": "png"}},
    ],
    ids=str,
)
async def test_what_no_queue_takes_is_the_callers_error_and_nothing_is_sent(
    options: dict[str, Any],
) -> None:
    app = new_app()

    @app.task
    async def task(n: int) -> None: ...

    async with app:
        with pytest.raises(Unroutable, match=options["exchange"]) as caught:
            await task.options(**options).enqueue(1)
        with pytest.raises(Unroutable):
            await app.enqueue_many([task.s(2), task.options(**options).s(3)])

        assert caught.value.exchange == options["exchange"]
        assert caught.value.routing_key == options.get("routing_key", "")
        assert await lengths(app) == {}


async def test_each_copy_runs_once_and_the_result_is_that_of_the_first() -> None:
    app = new_app()

    ran: list[str] = []

    @app.task(exchange="news")
    async def note(ctx: Context, n: int) -> int:
        ran.append(ctx.queue)
        return n

    async with app.worker():
        with fail_after(PATIENCE):
            result = await note.enqueue(1)
            assert await result == 1
            assert await app.result(f"{result.id}@plain") == 1
            many = await app.enqueue_many(note.s(n) for n in range(600))
            assert [await each for each in many] == list(range(600))
            for each in many:
                await app.result(f"{each.id}@plain")

    assert sorted(ran) == ["errors"] * 601 + ["plain"] * 601


async def test_a_task_has_an_exchange_and_a_call_may_have_another_key_or_a_queue() -> None:
    app = new_app()

    @app.task(exchange="logs", routing_key="db.error")
    async def task() -> None: ...

    async with app:
        await task.enqueue()
        assert await lengths(app) == {"errors": 1}
        await task.options(routing_key="mail.sent").enqueue()
        assert await lengths(app) == {"errors": 1, "mail": 1}
        await task.options(queue="other").enqueue()
        await task.options(exchange="news").enqueue()
        assert await lengths(app) == {"errors": 2, "mail": 1, "other": 1, "plain": 1}


# Brokers that route by themselves


class RoutingBroker(MemoryBroker):
    """Knows exchanges, or says so: keeps what it is given."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.bound: list[Queue] = []
        self.given: list[Envelope] = []

    @property
    def offers(self) -> Offers:
        return msgspec.structs.replace(super().offers, bind=self.bind)

    async def bind(self, queues: Sequence[Queue]) -> None:
        self.bound += queues

    async def publish(self, envelopes: Sequence[Envelope]) -> None:
        self.given += envelopes


@pytest.mark.parametrize(("exchange", "first"), [("logs", "errors"), ("of-others", "")])
async def test_a_broker_that_knows_exchanges_gets_the_message_as_it_is(
    monkeypatch: pytest.MonkeyPatch, exchange: str, first: str
) -> None:
    monkeypatch.setitem(drivers.BROKERS, "routing", f"{__name__}:RoutingBroker")
    app = new_app("routing")

    @app.task
    async def task() -> None: ...

    async with app:
        broker = app.client.broker
        assert isinstance(broker, RoutingBroker)
        await task.options(exchange=exchange, routing_key="mail.error", id="1").enqueue()

    [given] = broker.given
    assert broker.bound == QUEUES
    assert (given.id, given.queue) == ("1", first)
    assert (given.exchange, given.routing_key) == (exchange, "mail.error")


# Routes


def by_tenant(call: Signature[Any]) -> str | None:
    return call.kwargs.get("tenant")


def no_opinion(_: Signature[Any]) -> None:
    return None


def to_exchange(_: Signature[Any]) -> Route:
    return Route(exchange="logs", routing_key="mail.x")


def to_declared(_: Signature[Any]) -> Queue:
    return QUEUES[2]


def to_q_with_priority(_: Signature[Any]) -> Route:
    return Route(queue="q", priority=5)


@pytest.mark.parametrize(
    ("routes", "queue"),
    [
        ((), "default"),
        ({"mail.*": "a"}, "a"),
        ({"mail.send": "a"}, "a"),
        ({"mail": "a"}, "default"),
        ({"Mail.*": "a"}, "default"),
        ({"*.s[a-f]nd": "a"}, "a"),
        ({"news.*": "a", "mail.*": "b", "*": "c"}, "b"),
        ({re.compile(r"mail\.(send|sent)"): "a"}, "a"),
        ({re.compile(r"mail"): "a"}, "default"),
        ({"news.*": "a", re.compile(r"mail\..+"): "b"}, "b"),
        ({"mail.*": Queue("declared")}, "declared"),
        ({"mail.*": Route(queue="a", priority=4)}, "a"),
        ({"mail.*": Route(exchange="logs", routing_key="db.error")}, "errors"),
        (by_tenant, "acme"),
        ([by_tenant, {"mail.*": "a"}], "acme"),
        ([{"mail.*": "a"}, by_tenant], "a"),
        ([{"news.*": "a"}, no_opinion, {"mail.*": "b"}], "b"),
        ([no_opinion], "default"),
        (to_exchange, "mail"),
        (to_declared, "plain"),
    ],
)
async def test_the_first_rule_that_answers_says_where_a_task_goes(
    routes: Routes, queue: str
) -> None:
    app = new_app(routes=routes)

    @app.task(name="mail.send")
    async def send(*, tenant: str) -> None: ...

    async with app:
        await send.enqueue(tenant="acme")
        await app.enqueue_many([send.s(tenant="acme")])

        assert await lengths(app) == {queue: 2}


async def test_the_call_comes_before_the_task_and_the_task_before_the_routes() -> None:
    asked: list[str] = []

    def rule(call: Signature[Any]) -> str:
        asked.append(call.task)
        return "route"

    app = new_app(routes=rule)

    @app.task(queue="task", name="a")
    async def a() -> None: ...

    @app.task(name="b")
    async def b() -> None: ...

    async with app:
        await a.enqueue()
        await a.options(queue="call").enqueue()
        await b.options(queue="call").enqueue()
        assert asked == []
        await b.enqueue()

        assert await lengths(app) == {"task": 1, "call": 2, "route": 1}
    assert asked == ["b"]


@pytest.mark.parametrize("routes", [{"*": Route(queue="q", priority=5)}, to_q_with_priority])
async def test_a_routes_priority_is_for_those_that_say_none(
    monkeypatch: pytest.MonkeyPatch, routes: Any
) -> None:
    monkeypatch.setitem(drivers.BROKERS, "routing", f"{__name__}:RoutingBroker")
    app = new_app("routing", routes=routes)

    @app.task(name="none")
    async def none() -> None: ...

    @app.task(name="own", priority=0)
    async def own() -> None: ...

    async with app:
        for call in (none, none.options(priority=0), none.options(priority=9), own):
            await call.enqueue()
        broker = app.client.broker

    assert isinstance(broker, RoutingBroker)
    assert [given.priority for given in broker.given] == [5, 0, 9, 0]


async def test_a_worker_consumes_what_is_declared_and_where_tasks_go() -> None:
    app = new_app(routes={"mail.*": "routed", "news.*": Queue("news")})

    @app.task(name="mail.send")
    async def send() -> None: ...

    @app.task(name="other", queue="own")
    async def other() -> None: ...

    assert app.queues.declared == ["errors", "mail", "news", "own", "plain", "routed"]


def test_a_rule_that_looks_at_calls_may_leave_them_to_the_default_queue() -> None:
    app = new_app(routes=by_tenant, queues=[Queue("acme")])
    assert app.queues.declared == ["acme"]

    @app.task
    async def task() -> None: ...

    assert app.queues.declared == ["acme", "default"]


@pytest.mark.parametrize(
    ("routes", "complaint"),
    [
        ({"*": "a b"}, "queue name"),
        ({"*": {"queue": "a"}}, r"Route\(queue="),
        ({5: "a"}, "patterns of task names"),
        ({"a": Queue("q"), "b": Queue("q", ttl=5.0)}, "declared twice"),
        ({"a": Queue("mail", ttl=5.0)}, "declared twice"),
    ],
    ids=str,
)
def test_routes_that_cannot_be_are_refused_at_once(routes: Any, complaint: str) -> None:
    with pytest.raises(ConfigurationError, match=complaint):
        new_app(routes=routes)


@pytest.mark.parametrize("answer", [5, Queue("unknown"), "a b", {"queue": "a"}], ids=str)
async def test_a_rule_that_answers_nonsense_is_the_callers_error(answer: Any) -> None:
    app = new_app(routes=lambda _: answer)

    @app.task
    async def task() -> None: ...

    async with app:
        with pytest.raises(ConfigurationError):
            await task.enqueue()
        assert await lengths(app) == {}


@pytest.mark.parametrize("make", [Route, lambda: Route(queue="a", exchange="b")])
def test_a_route_leads_to_a_queue_or_to_an_exchange(make: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"leads nowhere|not both"):
        make()
