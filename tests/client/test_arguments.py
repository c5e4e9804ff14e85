"""Arguments are compared with the task's parameters where it is called: nothing wrong is sent."""

from typing import Any, cast

import pytest

from asyncq import testing
from asyncq.app import App
from asyncq.client.context import Context
from asyncq.client.task import Task
from asyncq.errors import ConfigurationError, MessageTooLarge
from asyncq.language.message import new_id

Untyped = Task[..., Any]


def make_tasks(app: App) -> dict[str, Untyped]:
    @app.task(name="plain")
    async def plain(a: int, b: int = 2) -> None: ...

    @app.task(name="only_positional")
    async def only_positional(a: int, /, b: int = 2) -> None: ...

    @app.task(name="only_keyword")
    async def only_keyword(a: int, *, b: int, c: int = 3) -> None: ...

    @app.task(name="variable")
    async def variable(a: int, *rest: int, **more: int) -> None: ...

    @app.task(name="both")
    async def both(a: int, /, **more: int) -> None: ...

    @app.task(name="context_first")
    async def context_first(ctx: Context, a: int, **more: int) -> None: ...

    @app.task(name="context_keyword")
    async def context_keyword(a: int, *, ctx: Context, **more: int) -> None: ...

    @app.task(name="nothing")
    async def nothing() -> None: ...

    return dict(app.tasks)


Case = tuple[str, tuple[int, ...], dict[str, int]]

RIGHT: list[Case] = [
    ("plain", (1,), {}),
    ("plain", (1, 2), {}),
    ("plain", (), {"a": 1}),
    ("plain", (1,), {"b": 2}),
    ("only_positional", (1,), {"b": 2}),
    ("only_keyword", (1,), {"b": 2}),
    ("only_keyword", (), {"a": 1, "b": 2, "c": 3}),
    ("variable", (1, 2, 3), {"x": 4}),
    ("variable", (), {"a": 1, "x": 2}),
    ("variable", (1,), {"rest": 1, "more": 2}),
    ("both", (1,), {"a": 2}),
    ("context_first", (1,), {"x": 2}),
    ("context_keyword", (1,), {"x": 2}),
    ("nothing", (), {}),
]
WRONG: list[tuple[str, tuple[int, ...], dict[str, int], str]] = [
    ("plain", (), {}, "missing argument 'a'"),
    ("plain", (), {"b": 1}, "missing argument 'a'"),
    ("plain", (1, 2, 3), {}, "takes 2 positional arguments, 3 given"),
    ("plain", (1,), {"a": 1}, "argument 'a' given twice"),
    ("plain", (1,), {"z": 1}, "unexpected argument 'z'"),
    ("only_positional", (), {"a": 1}, "unexpected argument 'a'"),
    ("only_keyword", (1, 2), {}, "takes 1 positional argument, 2 given"),
    ("only_keyword", (1,), {}, "missing argument 'b'"),
    ("variable", (), {"x": 1}, "missing argument 'a'"),
    ("variable", (1, 2), {"a": 1}, "argument 'a' given twice"),
    ("both", (), {"a": 1}, "missing argument 'a'"),
    ("context_first", (), {}, "missing argument 'a'"),
    ("context_first", (1,), {"ctx": 2}, "unexpected argument 'ctx'"),
    ("context_keyword", (1,), {"ctx": 2}, "unexpected argument 'ctx'"),
    ("nothing", (1,), {}, "takes 0 positional arguments, 1 given"),
]


@pytest.mark.parametrize(("name", "args", "kwargs"), RIGHT)
def test_arguments_that_fit_make_a_signature(
    app: App, name: str, args: tuple[int, ...], kwargs: dict[str, int]
) -> None:
    task = make_tasks(app)[name]

    signature = task.s(*args, **kwargs)

    assert (signature.task, signature.args, signature.kwargs) == (name, args, kwargs)


@pytest.mark.parametrize(("name", "args", "kwargs", "complaint"), WRONG)
async def test_arguments_that_do_not_fit_are_the_callers_error_and_nothing_is_sent(
    app: App, name: str, args: tuple[int, ...], kwargs: dict[str, int], complaint: str
) -> None:
    task = make_tasks(app)[name]

    async with testing.run(app, worker=False) as run:
        with pytest.raises(TypeError, match=f"task {name}: {complaint}"):
            await task.enqueue(*args, **kwargs)
        with pytest.raises(TypeError, match=complaint):
            await task.options(priority=1).enqueue(*args, **kwargs)
        with pytest.raises(TypeError, match=complaint):
            task.s(*args, **kwargs)

        assert run.enqueued == []


@pytest.mark.parametrize(
    "value",
    [
        ...,
        {"nested": [...]},
        print,
        2**64,
        -(2**63) - 1,
        "lone surrogate \ud800",
        {"\udcff": 1},
    ],
    ids=str,
)
async def test_what_has_no_representation_is_a_type_error_and_nothing_is_sent(
    app: App, value: Any
) -> None:
    @app.task
    async def take(value: Any) -> None: ...

    untyped = cast(Untyped, take)  # to a type checker, a first parameter of any type has no name
    async with testing.run(app, worker=False) as run:
        with pytest.raises(TypeError, match="cannot be sent"):
            await take.enqueue(value)
        with pytest.raises(TypeError, match="cannot be sent"):
            await untyped.enqueue(value=value)

        assert run.enqueued == []


async def test_a_value_that_holds_itself_is_a_type_error(app: App) -> None:
    @app.task
    async def take(value: Any) -> None: ...

    ring: list[Any] = []
    ring.append(ring)
    async with testing.run(app, worker=False) as run:
        with pytest.raises(TypeError, match="nested too deeply"):
            await take.enqueue(ring)

        assert run.enqueued == []


async def test_a_message_that_is_too_large_is_refused_at_the_caller(app: App) -> None:
    @app.task(name="take")
    async def take(value: bytes) -> None: ...

    limit = app.config.max_message_size
    async with testing.run(app, worker=False) as run:
        with pytest.raises(MessageTooLarge, match="task take has 1048") as caught:
            await take.enqueue(b"x" * limit)

        assert (caught.value.limit, caught.value.size > limit) == (limit, True)
        assert run.enqueued == []


async def test_a_signature_of_a_task_that_the_app_does_not_have_is_refused(app: App) -> None:
    stranger = App(f"memory://{new_id()}")

    @stranger.task(name="strange")
    async def strange() -> None: ...

    async with app:
        with pytest.raises(ConfigurationError, match="no task 'strange'"):
            await app.enqueue(strange.s())


def test_a_context_in_the_middle_is_refused_where_the_task_is_defined(app: App) -> None:
    async def middle(a: int, ctx: Context) -> None: ...

    with pytest.raises(ConfigurationError, match="put the Context parameter 'ctx' first"):
        app.task(middle)


def test_two_tasks_of_one_name_are_refused(app: App) -> None:
    @app.task(name="same")
    async def first() -> None: ...

    async def second() -> None: ...

    with pytest.raises(ConfigurationError, match="two tasks named same"):
        app.task(name="same")(second)


async def test_a_task_that_is_called_is_the_function_itself(app: App) -> None:
    @app.task
    async def add(x: int, y: int) -> int:
        """Add."""
        return x + y

    @app.task
    def plain(x: int) -> int:
        return -x

    assert await add(1, 2) == 3
    assert plain(1) == -1
    assert add.__doc__ == "Add."


async def test_an_app_that_is_not_connected_says_what_to_write(app: App) -> None:
    @app.task
    async def take() -> None: ...

    with pytest.raises(ConfigurationError, match="async with app:"):
        await take.enqueue()
