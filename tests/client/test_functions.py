"""What can be a task works; what cannot is refused where it is declared, with what to write."""

import asyncio
import contextlib
import functools
import math
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator
from typing import Annotated, Any, Optional, overload

import pytest

from asyncq.app import App
from asyncq.client.context import Context
from asyncq.drivers.memory.broker import MemoryBroker
from asyncq.errors import ConfigurationError, TaskFailed
from asyncq.language.message import Status
from tests.client import seen_by_checkers
from tests.client.given import PATIENCE, new_app, until_status
from tests.client.wrapping import retried, traced


async def add(x: int, y: int = 1) -> int:
    return x + y


def plain(x: int) -> int:
    return x + 1


class Adder:
    def __init__(self, by: int) -> None:
        self.by = by

    async def add(self, x: int) -> int:
        return x + self.by

    def __call__(self, x: int) -> int:
        return x + self.by

    @classmethod
    async def of_class(cls, x: int) -> int:
        return cls(1).by + x

    async def unbound(self, x: int) -> int:
        return x

    half = functools.partialmethod(add, x=1)
    more = functools.partialmethod(add)

    @functools.singledispatchmethod
    async def dispatched(self, x: Any) -> int:
        return x


class AsyncAdder:
    async def __call__(self, x: int) -> int:
        return x + 1


@functools.singledispatch
def dispatched(x: Any) -> int:
    return x + 1


@functools.singledispatch
async def dispatched_later(x: Any) -> int:
    raise AssertionError


@dispatched_later.register
async def _(x: int) -> int:
    return x + 1


def promised(x: int) -> Awaitable[int]:
    """Needs the loop that it is called on."""
    future = asyncio.get_running_loop().create_future()
    future.set_result(x + 1)
    return future


@overload
async def overloaded(x: int) -> int: ...
@overload
async def overloaded(x: str) -> str: ...
async def overloaded(x: Any) -> Any:
    return x + 1


async def only_by_place(x: int, /) -> int:
    return x + 1


async def with_defaults(x: int, seen: list[int] = [], *, more: set[int] = {1}) -> int:  # noqa: B006 - the point
    return x + len(more) + len(seen)


async def of_many(*numbers: int, **others: int) -> int:
    return sum(numbers) + sum(others.values(), start=1)


@functools.lru_cache
def cached(x: int) -> int:
    return x + 1


def late(x: int) -> Any:
    """A plain function whose result is to be awaited."""
    return add(x)


increment: Callable[[int], int] = lambda x: x + 1  # noqa: E731 - the point
RIGHT: dict[str, Any] = {
    "a coroutine function": add,
    "a plain function": plain,
    "a plain wrapper around a coroutine function": traced(add),
    "two wrappers": traced(retried(add)),
    "a wrapper around a plain function": traced(plain),
    "a static method": staticmethod(add),
    "a bound method": Adder(1).add,
    "a class method": Adder.of_class,
    "a partial": functools.partial(add, y=1),
    "a partial of a plain wrapper": functools.partial(traced(add), y=1),
    "a callable object": Adder(1),
    "a callable object that is asynchronous": AsyncAdder(),
    "a dispatcher": dispatched,
    "an asynchronous dispatcher": dispatched_later,
    "a plain function that promises to return what is awaited": promised,
    "an overloaded function": overloaded,
    "a function with positions only": only_by_place,
    "a function with mutable defaults": with_defaults,
    "a function of any number": of_many,
    "a partial method of an object": Adder(1).more,
    "a cached function": cached,
    "a lambda with a name": increment,
    "a plain function that returns what is awaited": late,
}


@pytest.mark.parametrize("kind", RIGHT)
async def test_what_can_be_called_can_be_a_task(app: App, kind: str) -> None:
    decorate: Any = app.task(name="it")
    task = decorate(RIGHT[kind])

    async with app.worker():
        result = await task.enqueue(4)

        assert await result.get(timeout=PATIENCE) == 5


async def test_a_builtin_runs_in_a_thread(app: App) -> None:
    task: Any = app.task(math.sqrt)

    async with app.worker():
        assert await (await task.enqueue(4.0)).get(timeout=PATIENCE) == 2.0


async def stream() -> AsyncIterator[int]:
    yield 1


async def manage() -> AsyncGenerator[int]:
    yield 1


def generate() -> Iterator[int]:
    yield 1


async def caches(x: int) -> int:
    return x


WRONG: dict[str, tuple[Callable[[Any], Any], str]] = {
    "an async generator": (lambda app: app.task(stream), "is an async generator; return a list"),
    "a wrapped async generator": (lambda app: app.task(traced(stream)), "is an async generator"),
    "a generator": (lambda app: app.task(generate), "is a generator; return a list"),
    "a lambda": (lambda app: app.task(increment), "give it a name"),
    "a class": (lambda app: app.task(Adder), "is a class"),
    "a method without its object": (
        lambda app: app.task(Adder.unbound),
        "no message can bring its 'self'",
    ),
    "a wrapped method": (lambda app: app.task(traced(Adder.unbound)), "bring its 'self'"),
    "a class method in its class": (
        lambda app: app.task(vars(Adder)["of_class"]),
        "below the class",
    ),
    "a partial method": (lambda app: app.task(vars(Adder)["half"]), "belongs to an object"),
    "a dispatching method": (
        lambda app: app.task(name="it")(Adder(1).dispatched),
        "is a singledispatchmethod.*write a function around it",
    ),
    "a method of a builtin": (lambda app: app.task(list[int]().append), "has no name of its own"),
    "an async context manager": (
        lambda app: app.task(contextlib.asynccontextmanager(manage)),
        "is an async generator",
    ),
    "a property": (lambda app: app.task(property(plain)), "belongs to an object"),
    "a partial without a name": (
        lambda app: app.task(functools.partial(add, 1)),
        "has no name of its own; give it one",
    ),
    "an object without a name": (lambda app: app.task(Adder(1)), "give it one with app.task"),
    "cached coroutines": (
        lambda app: app.task(functools.lru_cache(caches)),
        "each can be awaited once",
    ),
    "a builtin without a signature": (lambda app: app.task(time.sleep), "write a function around"),
    "a call": (lambda app: app.task(add(1)), "give the function itself"),
    "a name": (lambda app: app.task("mail"), "is a function"),
    "nothing": (lambda app: app.task(None), "is a function"),
    "a task": (lambda app: app.task(app.task(add)), "is a task already"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_what_cannot_be_a_task_is_refused_where_it_is_declared(app: App, kind: str) -> None:
    declare, why = WRONG[kind]

    with pytest.raises(ConfigurationError, match=why):
        declare(app)


async def quoted(ctx: "Context", x: int) -> int:
    return x + ctx.attempt


async def optional(ctx: Context | None = None, x: int = 0) -> int:
    return x + (0 if ctx is None else ctx.attempt)


async def old_optional(ctx: Optional["Context"], x: int) -> int:
    return x + (0 if ctx is None else ctx.attempt)


async def annotated(ctx: Annotated[Context, "the run"], x: int) -> int:
    return x + ctx.attempt


async def keyword(x: int, *, ctx: Annotated["Context | None", "the run"] = None) -> int:
    return x + (0 if ctx is None else ctx.attempt)


SPELLINGS: dict[str, Any] = {
    "quoted": quoted,
    "optional": optional,
    "old optional": old_optional,
    "annotated": annotated,
    "by keyword": keyword,
    "wrapped": retried(quoted),
    "wrapped plainly": traced(quoted),
}


@pytest.mark.parametrize("spelling", SPELLINGS)
async def test_the_context_is_seen_in_every_spelling(app: App, spelling: str) -> None:
    decorate: Any = app.task(name="it")
    task = decorate(SPELLINGS[spelling])

    async with app.worker():
        result = await task.enqueue(x=1)

        assert await result.get(timeout=PATIENCE) == 2


async def test_what_only_type_checkers_import_hurts_its_own_task_alone(
    caplog: pytest.LogCaptureFixture,
) -> None:
    app = new_app(grace=1.0, unknown_ttl=0.0)
    tasks = seen_by_checkers.make_tasks(app)

    async with app.worker():
        assert await (await tasks["context"].enqueue(1)).get(timeout=PATIENCE) == 2
        assert await (await tasks["dotted"].enqueue(1)).get(timeout=PATIENCE) == 2
        assert await (await tasks["returns"].enqueue(1)).get(timeout=PATIENCE) == {"x": 1}
        with pytest.raises(ConfigurationError, match="parameter x: its annotation Clock cannot"):
            await tasks["takes"].enqueue(1)

    lines = [line for line in caplog.messages if "is not run by this worker" in line]
    assert len(lines) == 1
    assert "task takes" in lines[0]


async def test_messages_of_a_task_that_cannot_run_become_dead_letters_that_say_why() -> None:
    elsewhere, app = new_app(), new_app(grace=1.0, unknown_ttl=0.0)
    elsewhere = App(str(app.url))
    seen_by_checkers.make_tasks(app)

    @elsewhere.task(name="takes")
    async def takes(x: int) -> int:
        return x

    async with app.worker(), elsewhere:
        result = await takes.enqueue(1)
        await until_status(result, Status.FAILED)
        with pytest.raises(TaskFailed, match="UnusableTask"):
            await result.get(timeout=PATIENCE)
        broker = app.client.broker
        assert isinstance(broker, MemoryBroker)
        [letter] = await broker.dead_letters("default")

    assert "parameter x: its annotation Clock cannot be resolved" in letter.reason


def unnamed(function: Callable[..., Any]) -> Callable[..., Any]:
    """A decorator that forgets what it decorates."""

    async def call(*args: Any, **kwargs: Any) -> Any:
        return await function(*args, **kwargs)

    return call


async def test_decorators_that_forget_the_name_are_told_how_to_keep_it(app: App) -> None:
    first = app.task(unnamed(add))

    with pytest.raises(
        ConfigurationError, match=r"two tasks named .*unnamed.<locals>.call: .*functools\.wraps"
    ):
        app.task(unnamed(only_by_place))

    async with app.worker():
        assert await (await first.enqueue(4)).get(timeout=PATIENCE) == 5


@pytest.mark.parametrize(
    ("make", "instead"),
    [(stream, r"\[each async for each in \.\.\.\]"), (generate, r"list\(\.\.\.\)")],
)
async def test_what_returns_a_generator_is_told_to_make_it_a_list(
    app: App, make: Callable[[], Any], instead: str
) -> None:
    @app.task
    async def give() -> Any:
        return make()

    async with app.worker():
        with pytest.raises(TaskFailed, match=f"make it a list, with {instead}"):
            await (await give.enqueue()).get(timeout=PATIENCE)


NAMES = ["self", "id", "queue", "ctx", "args", "kwargs", "function", "task", "name", "threads"]


async def test_a_parameter_may_have_any_name(app: App) -> None:
    @app.task
    async def coroutine(  # noqa: PLR0917
        self: int, id: int, queue: int, ctx: int, args: int, kwargs: int,
        function: int, task: int, name: int, threads: int,
    ) -> int:  # fmt: skip
        return sum((self, id, queue, ctx, args, kwargs, function, task, name, threads))

    @app.task
    def thread(  # noqa: PLR0917
        self: int, id: int, queue: int, ctx: int, args: int, kwargs: int,
        function: int, task: int, name: int, threads: int,
    ) -> int:  # fmt: skip
        return sum((self, id, queue, ctx, args, kwargs, function, task, name, threads))

    given = dict.fromkeys(NAMES, 1)
    async with app.worker():
        for each in (coroutine, thread):
            untyped: Any = each
            assert await (await untyped.enqueue(**given)).get(timeout=PATIENCE) == 10
            again = await untyped.options(priority=1).enqueue(**given)
            assert await again.get(timeout=PATIENCE) == 10
            assert untyped.s(**given).kwargs == given
            assert untyped.options(priority=1).s(**given).kwargs == given
    assert await coroutine(**given) == 10
