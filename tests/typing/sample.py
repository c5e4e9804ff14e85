"""What a type checker says about tasks and their callers; read by `test_typing`.

``# error: part of pyright's message`` stands behind a line that must be refused, ``# type: text``
behind a ``reveal_type``. Every other line must pass. What mypy cannot tell is marked so besides:
``[mypy: another type]``, ``[mypy: passes]``, ``[mypy: refuses]``.
"""

import re
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, ParamSpec, TypeVar, reveal_type

import asyncq
from asyncq import App, Binding, Context, Exchange, Queue, Result, Retry, Route, Signature

app = App("memory://typing")


@app.task
async def add(x: int, y: int = 0) -> int:
    return x + y


@app.task(name="mail.send", queue="mail", priority=5, retry=Retry(times=5), time_limit=30.0)
async def send(ctx: Context, to: str, *, subject: str) -> None: ...


@app.task
def plain(x: int) -> str:
    return str(x)


@app.task(queue="slow")
def plain_with_context(ctx: Context, x: int) -> str:
    return str(x)


@app.task()
async def nothing() -> None: ...


@app.task
async def first_any(x: Any, y: int) -> str:
    return str(x)


@app.task
async def first_object(x: object, y: int) -> str:
    return str(x)


@app.task
async def variable(*xs: int, **named: str) -> list[int]:
    return list(xs)


@app.task(exchange="events", routing_key="mail.sent")
async def published(x: int) -> int:
    return x


@app.task(exchange=5)  # error: "exchange"
async def wrong_exchange() -> None: ...


@app.task(colour="red")  # error: No overloads
async def wrong_option() -> None: ...


@app.task(priority="high")  # error: "priority"
async def wrong_value() -> None: ...


async def call_tasks() -> None:
    reveal_type(await add.enqueue(1, 2))  # type: Result[int]
    reveal_type(await (await add.enqueue(1)))  # type: int
    reveal_type(await (await add.enqueue(x=1)).get(timeout=1))  # type: int
    await add.enqueue()  # error: "x"
    await add.enqueue("1")  # error: "x"
    await add.enqueue(1, 2, 3)  # error: Expected 2 positional arguments
    await add.enqueue(1, z=3)  # error: "z"
    add.s("1")  # error: "x"
    add.s()  # error: "x"
    await add.options(delay=1).enqueue("1")  # error: "x"
    await add.options(delay=1).enqueue()  # error: "x"
    add.options(delay="soon")  # error: "delay"
    add.options(later=1)  # error: "later"
    reveal_type(add.s(1))  # type: Signature[int]
    reveal_type(add.options(queue="q").s(1))  # type: Signature[int]
    reveal_type(await add.options(queue="q").enqueue(1))  # type: Result[int]
    reveal_type(await add.options(exchange="e", routing_key="k").enqueue(1))  # type: Result[int]
    add.options(exchange=5)  # error: "exchange"
    reveal_type(await published.options(routing_key="k").enqueue(1))  # type: Result[int]


def by_tenant(call: Signature[Any]) -> str | Queue | None:
    return call.kwargs.get("tenant")


def by_number(call: Signature[Any]) -> int:
    return 5


def declare_and_route() -> None:
    events = Exchange("events", "topic")
    queues = [Queue("a", bindings=[Binding(events, "#")], ttl=5.0), Queue("b", overflow="reject")]
    App(queues=queues, routes={"mail.*": "mail"})
    App(routes=[{"mail.*": "mail"}, {re.compile(r"news\..+"): Route(queue="news", priority=3)}])
    App(routes={"mail.*": "mail", re.compile("news"): Route(queue="news")})  # [mypy: refuses]
    App(routes={re.compile("a"): queues[0]})
    App(routes=by_tenant)
    App(routes=[{"a": "b"}, by_tenant])
    patterns = {"a": "b"}
    App(routes=patterns)
    App(routes={"a": 5})  # error: "routes"
    App(routes=by_number)  # error: "routes"
    Queue("a", overflow="drop")  # error: "overflow"
    Queue("a", kind="stream")  # error: "kind"
    Exchange("a", "topics")  # error: "kind"


P = ParamSpec("P")
R = TypeVar("R")


def logged(function: Callable[P, Awaitable[R]]) -> Callable[P, Awaitable[R]]:
    return function


@app.task
@logged
async def decorated(x: int) -> str:
    return str(x)


@app.task(queue="slow")
@logged
async def decorated_with_context(ctx: Context, x: int) -> str:
    return str(x)


async def call_what_is_decorated() -> None:
    reveal_type(await decorated.enqueue(1))  # type: Result[str]
    await decorated.enqueue("1")  # error: "int"
    reveal_type(await decorated(1))  # type: str
    decorated("1")  # error: "int"
    reveal_type(await decorated_with_context.enqueue(1))  # type: Result[str]
    await decorated_with_context.enqueue("1")  # error: "int"


async def call_directly(ctx: Context) -> None:
    reveal_type(await add(1, 2))  # type: int
    coroutines = [add(1)]
    reveal_type(coroutines)  # type: list[Coroutine[Any, Any, int]]
    await add("no")  # error: "int"
    await add()  # error: "x"
    reveal_type(plain(1))  # type: str
    plain("no")  # error: "int"
    await send(ctx, "you", subject="hello")
    await send("you", subject="hello")  # error: "to"
    await send(ctx, 5, subject="hello")  # error: "str"
    reveal_type(plain_with_context(ctx, 1))  # type: str
    plain_with_context(ctx, "1")  # error: "int"
    task: asyncq.Task[[int], str] = plain
    reveal_type(await task.enqueue(1))  # type: Result[str]


async def read_results_by_their_ids() -> None:
    reveal_type(add.result("id"))  # type: Result[int]
    reveal_type(await plain.result("id"))  # type: str
    reveal_type(app.result("id"))  # type: Result[Any]
    reveal_type(app.result("id", add))  # type: Result[int]
    app.result("id", "add")  # error: No overloads
    add.result(5)  # error: "str"


@asyncq.shared_task
async def shared(x: int) -> bytes:
    return b""


@asyncq.shared_task(queue="shared")
def shared_plain(ctx: Context, x: int) -> bytes:
    return b""


async def call_what_is_shared(ctx: Context) -> None:
    reveal_type(await shared.enqueue(1))  # type: Result[bytes]
    await shared.enqueue("1")  # error: "int"
    reveal_type(await app.enqueue(shared.s(1)))  # type: Result[bytes]
    reveal_type(await shared_plain.enqueue(1))  # type: Result[bytes]
    reveal_type(shared_plain(ctx, 1))  # type: bytes
    reveal_type(shared.result("id"))  # type: Result[bytes]


async def leave_the_context_to_the_worker() -> None:
    reveal_type(await send.enqueue("you", subject="hello"))  # type: Result[None]
    await send.enqueue("you")  # error: "subject"
    await send.enqueue(5, subject="hello")  # error: "to"
    reveal_type(await plain_with_context.enqueue(1))  # type: Result[str]
    await plain_with_context.enqueue()  # error: "x"
    await plain_with_context.enqueue("1")  # error: "x"


async def call_other_shapes() -> None:
    reveal_type(await plain.enqueue(1))  # type: Result[str]
    await plain.enqueue("1")  # error: "x"
    reveal_type(await nothing.enqueue())  # type: Result[None]
    await nothing.enqueue(1)  # error: Expected 0 positional arguments
    reveal_type(await first_any.enqueue("anything", 1))  # type: Result[str] [mypy: Any]
    await first_any.enqueue("anything", "1")  # error: "y" [mypy: passes]
    await first_any.enqueue("anything")  # error: "y" [mypy: passes]
    reveal_type(await first_object.enqueue("anything", 1))  # type: Result[str]
    await first_object.enqueue("anything", "1")  # error: "y"
    reveal_type(await variable.enqueue(1, 2, a="b"))  # type: Result[list[int]]
    await variable.enqueue("1")  # error: "xs"


async def wait_for_many() -> None:
    reveal_type(await app.enqueue(add.s(1)))  # type: Result[int]
    results = await app.enqueue_many(add.s(n) for n in range(3))
    reveal_type(results)  # type: list[Result[int]]
    reveal_type(await asyncq.gather(*results))  # type: list[int]
    reveal_type(await asyncq.gather(*results, return_exceptions=True))  # type: list[int | TaskError]
    async for done in asyncq.as_completed(results):
        reveal_type(await done)  # type: int

    async def source() -> AsyncIterator[asyncq.Signature[str]]:
        yield plain.s(1)

    reveal_type(await app.enqueue_many(source()))  # type: list[Result[str]]
    mixed = await app.enqueue_many([add.s(1), plain.s(2)])
    reveal_type(mixed)  # type: list[Result[int | str]] [mypy: list[Result[object]]]
    one, other = await add.enqueue(1), await plain.enqueue(2)
    reveal_type(await asyncq.gather(one, other))  # type: tuple[int, str]
    reveal_type(await asyncq.gather(one))  # type: tuple[int]
    reveal_type(await asyncq.gather(one, other, timeout=1.0))  # type: tuple[int, str]
    six = await asyncq.gather(one, other, one, one, one, other)
    reveal_type(six)  # type: tuple[int, str, int, int, int, str]
    both = await asyncq.gather(one, other, return_exceptions=True)
    reveal_type(both)  # type: tuple[int | TaskError, str | TaskError]
    reveal_type(await asyncq.gather(*mixed))  # type: list[int | str] [mypy: list[object]]
    reveal_type(await asyncq.gather(one, one, one, one, one, one, one))  # type: list[int]
    value, text = await asyncq.gather(one, other)
    reveal_type((value, text))  # type: tuple[int, str]
    await asyncq.gather(1, 2)  # error: No overloads
    wrong: Result[str] = await add.enqueue(1)  # error: "Result[int]" is not assignable
    reveal_type(wrong.id)  # type: str


def call_from_a_thread() -> None:
    with app.sync() as client:
        reveal_type(client.enqueue(add.s(1)))  # type: SyncResult[int]
        reveal_type(client.enqueue(add.s(1)).get(timeout=5))  # type: int
        client.enqueue(add.s("1"))  # error: "x"
        reveal_type(client.enqueue_many([plain.s(1)]))  # type: list[SyncResult[str]]
        reveal_type(client.result("id"))  # type: SyncResult[Any]
        reveal_type(client.result("id", plain).get())  # type: str


@app.on_startup
async def start(state: dict[str, Any]) -> None: ...


@app.on_shutdown
def stop(state: dict[str, Any]) -> None: ...


@app.on_startup  # error: cannot be assigned
def start_without_state() -> None: ...
