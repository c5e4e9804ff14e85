"""Arguments arrive in the types of the task's parameters, results in that of its return value."""

import enum
import math
import re
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Annotated, Any, Literal, NamedTuple, TypedDict
from zoneinfo import ZoneInfo

import msgspec
import pydantic
import pytest

from asyncq import testing
from asyncq.app import App
from asyncq.client.task import Task
from asyncq.errors import ConfigurationError, TaskFailed
from asyncq.language.signature import Signature
from tests.client import deferred
from tests.client.given import PATIENCE


@dataclass
class Point:
    x: int
    y: int = 0


class Order(msgspec.Struct):
    id: uuid.UUID
    lines: list["Line"]
    paid: Decimal | None = None


class Line(msgspec.Struct, tag="line"):
    what: str
    at: Point


class Gift(msgspec.Struct, tag="gift"):
    to: str


class Customer(pydantic.BaseModel):
    name: str
    born: date
    address: "Address | None" = None


class Address(pydantic.BaseModel):
    city: str


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Level(enum.IntEnum):
    LOW = 1


class Pair(NamedTuple):
    left: int
    right: str


class Options(TypedDict):
    verbose: bool


Small = Annotated[int, msgspec.Meta(ge=0, le=9)]

VALUES: list[tuple[Any, Any]] = [
    (int, -5),
    (int, 2**63),
    (float, 1.5),
    (float, math.inf),
    (str, "naïve \N{SNOWMAN} \0"),
    (bytes, b"\x00\xff"),
    (bytearray, bytearray(b"abc")),
    (bool, True),
    (None, None),
    (int | None, None),
    (int | str, "a"),
    (Line | Gift, Gift("you")),
    (datetime, datetime(2024, 2, 29, 12, 30, 1, 5, tzinfo=UTC)),
    (datetime, datetime(2024, 2, 29)),  # noqa: DTZ001 - naive ones arrive naive
    (date, date(2024, 2, 29)),
    (timedelta, timedelta(days=1, microseconds=5)),
    (uuid.UUID, uuid.UUID(int=5)),
    (Decimal, Decimal("0.10")),
    (Colour, Colour.BLUE),
    (Level, Level.LOW),
    (Literal["a", "b"], "b"),
    (Point, Point(1, 2)),
    (Order, Order(uuid.UUID(int=1), [Line("tea", Point(1))], Decimal("9.99"))),
    (Customer, Customer(name="Ada", born=date(1815, 12, 10), address=Address(city="London"))),
    (list[Customer], [Customer(name="Ada", born=date(1815, 12, 10))]),
    (dict[str, list[Point | None]], {"a": [Point(1), None]}),
    (dict[int, str], {1: "a"}),
    (dict[uuid.UUID, Decimal], {uuid.UUID(int=2): Decimal(1)}),
    (tuple[int, str], (1, "a")),
    (tuple[Point, ...], (Point(1), Point(2))),
    (set[int], {1, 2}),
    (frozenset[str], frozenset({"a"})),
    (Pair, Pair(1, "a")),
    (Options, {"verbose": True}),
    (Small, 9),
    (Any, {"a": [1, "b", None]}),
]


def unchecked(task: Task[..., Any], *args: Any, **kwargs: Any) -> Signature[Any]:
    """A call as a client of another version sends it."""
    return Signature(task.name, args, kwargs)


def echo_task(app: App, annotation: Any) -> Any:
    """A task that says what arrived and returns it, all of one type."""

    async def echo(value: Any, *, named: Any) -> Any:
        assert type(value) is type(named)
        assert value == named
        return value

    echo.__annotations__ = {"value": annotation, "named": annotation, "return": annotation}
    return app.task(echo)


@pytest.mark.parametrize(("annotation", "value"), VALUES, ids=repr)
async def test_a_value_arrives_and_comes_back_as_it_was(
    app: App, annotation: Any, value: Any
) -> None:
    echo = echo_task(app, annotation)

    async with app.worker():
        result = await echo.enqueue(value, named=value)
        came_back = await result.get(timeout=PATIENCE)

    assert came_back == value
    assert type(came_back) is type(value)


@pytest.mark.parametrize("fold", [0, 1])
async def test_the_hour_that_comes_twice_arrives_as_the_moment_it_is(app: App, fold: int) -> None:
    # Python has such a datetime equal to none of another time zone, the same moment included.
    moment = datetime(2024, 10, 27, 2, 30, tzinfo=ZoneInfo("Europe/Berlin"), fold=fold)
    echo = echo_task(app, datetime)

    async with app.worker():
        came_back = await (await echo.enqueue(moment, named=moment)).get(timeout=PATIENCE)

    assert came_back == datetime(2024, 10, 27, fold, 30, tzinfo=UTC)


async def test_without_an_annotation_values_are_plain_data(app: App) -> None:
    @app.task
    async def types_of(a, b, *, c):  # pyright: ignore[reportMissingParameterType, reportUnknownParameterType] - the point
        return [type(value).__name__ for value in (a, b, c)]  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]

    async with app.worker():
        untyped: Any = types_of  # pyright: ignore[reportUnknownVariableType]
        result = await untyped.enqueue(Point(1), (1, 2), c=Colour.RED)

        assert await result.get(timeout=PATIENCE) == ["dict", "list", "str"]


async def test_defaults_and_variable_arguments_arrive(app: App) -> None:
    @app.task
    async def gather_up(a: int, b: Point = Point(7), *rest: Point, **more: Colour) -> list[Any]:  # noqa: B008 - a default like any
        return [a, type(b).__name__, [p.x for p in rest], {k: v.name for k, v in more.items()}]

    async with app.worker():
        short = await gather_up.enqueue(1)
        long = await gather_up.enqueue(1, Point(2), Point(3), Point(4), z=Colour.RED)

        assert await short.get(timeout=PATIENCE) == [1, "Point", [], {}]
        assert await long.get(timeout=PATIENCE) == [1, "Point", [3, 4], {"z": "RED"}]


async def test_more_than_fifteen_arguments_arrive_in_their_types(app: App) -> None:
    @app.task
    async def total(*points: Point) -> int:
        return sum(point.x for point in points)

    async with app.worker():
        result = await total.enqueue(*[Point(n) for n in range(100)])

        assert await result.get(timeout=PATIENCE) == 4950


async def test_annotations_that_are_strings_are_resolved(app: App) -> None:
    tasks = deferred.make_tasks(app)

    async with app.worker():
        for name in tasks:
            result = await tasks[name].enqueue(deferred.Thing(5))
            thing = await result.get(timeout=PATIENCE)
            assert thing == deferred.Thing(6), name


async def test_a_model_may_be_complete_only_below_its_task() -> None:
    box = deferred.Box(inside=deferred.Inside(size=5))

    async with deferred.EARLY, deferred.EARLY.worker():
        result = await deferred.early.enqueue(box)

        assert await result.get(timeout=PATIENCE) == 5


async def test_a_string_annotation_for_the_context_is_recognised(app: App) -> None:
    task = deferred.make_context_task(app)

    async with app.worker():
        result = await task.enqueue(deferred.Thing(5))

        assert await result.get(timeout=PATIENCE) == result.id


MISFITS: list[tuple[Any, Any, str]] = [
    (int, "5", "Expected `int`, got `str`"),
    (int, 1.5, "Expected `int`, got `float`"),
    (str, b"bytes", "Expected `str`, got `bytes`"),
    (Point, {"x": "a"}, "Expected `int`, got `str` - at `$.x`"),
    (Point, {}, "missing required field `x`"),
    (Line | Gift, {"type": "loot", "to": "me"}, "Invalid value 'loot'"),
    (Colour, "green", "Invalid enum value 'green'"),
    (uuid.UUID, "no uuid", "Invalid UUID"),
    (datetime, "yesterday", "Invalid RFC3339"),
    (Small, 10, "<= 9"),
    (Customer, {"name": 5}, "2 validation errors for Customer"),
    (list[int], [1, None], "at `$[1]`"),
]


@pytest.mark.parametrize(("annotation", "value", "why"), MISFITS, ids=repr)
async def test_a_misfit_is_refused_where_it_is_called_and_names_task_and_argument(
    app: App, annotation: Any, value: Any, why: str
) -> None:
    echo = echo_task(app, annotation)

    async with testing.run(app, worker=False) as run:
        with pytest.raises(
            TypeError, match=f"task {re.escape(echo.name)}: argument value: "
        ) as one:
            await echo.enqueue(value, named=None)
        with pytest.raises(TypeError) as other:
            echo.s(value, named=None)

        assert run.enqueued == []
    assert why in str(one.value)
    assert str(other.value) == str(one.value)


@pytest.mark.parametrize(("annotation", "value", "why"), MISFITS, ids=repr)
async def test_a_misfit_from_elsewhere_fails_its_own_task_and_names_the_argument(
    app: App, annotation: Any, value: Any, why: str
) -> None:
    echo = echo_task(app, annotation)

    async with app.worker():
        bad = await app.enqueue(unchecked(echo, value, named=None))
        with pytest.raises(TaskFailed) as caught:
            await bad.get(timeout=PATIENCE)

    assert caught.value.type == "BadArguments"
    assert "argument value" in caught.value.message
    assert why in caught.value.message


async def test_after_a_misfit_the_worker_goes_on(app: App) -> None:
    @app.task
    async def double(x: int) -> int:
        return 2 * x

    async with app.worker(concurrency=1):
        bad = await app.enqueue(unchecked(double, "no number"))
        good = await double.enqueue(4)
        with pytest.raises(TaskFailed, match="argument x"):
            await bad.get(timeout=PATIENCE)

        assert await good.get(timeout=PATIENCE) == 8


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (object, "a value of object cannot be sent"),
        (lambda: [{1, object()}], "a value of object cannot be sent"),
        (lambda: 2**64, "a value of int cannot be sent"),
        (lambda: "\ud800", "surrogates not allowed"),
        (lambda: (n for n in range(3)), "a value of generator cannot be sent"),
    ],
)
async def test_a_return_value_without_representation_fails_the_task(
    app: App, make: Callable[[], Any], why: str
) -> None:
    @app.task
    async def give() -> Any:
        return make()

    async with app.worker():
        result = await give.enqueue()
        with pytest.raises(TaskFailed) as caught:
            await result.get(timeout=PATIENCE)

    assert caught.value.type == "ResultNotEncodable"
    assert why in caught.value.message


async def test_a_return_value_that_is_too_large_fails_the_task(app: App) -> None:
    @app.task
    async def give(size: int) -> bytes:
        return bytes(size)

    async with app.worker():
        result = await give.enqueue(app.config.max_result_size + 1)
        with pytest.raises(TaskFailed, match="the limit is 1048576") as caught:
            await result.get(timeout=PATIENCE)

    assert caught.value.type == "ResultTooLarge"


def test_a_parameter_of_an_unknown_class_is_refused_where_the_task_is_declared(app: App) -> None:
    class Strange:
        pass

    async def strange(a: Strange) -> None: ...

    with pytest.raises(ConfigurationError, match=r"task strange, parameter a: .*Strange.* use a"):
        app.task(name="strange")(strange)

    assert not app.tasks
