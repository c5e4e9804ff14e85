"""Values that know more than their bytes: they arrive whole, or are refused, sent or returned."""

import enum
import fractions
import functools
from collections import OrderedDict, defaultdict, deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time
from decimal import Decimal
from typing import Annotated, Any, Generic, Literal, NamedTuple, TypedDict, TypeVar
from zoneinfo import ZoneInfo

import attrs
import msgspec
import pytest
from pydantic import BaseModel, Field, computed_field

from asyncq.app import App
from asyncq.client.values.shapes import shape_of
from asyncq.errors import TaskFailed
from asyncq.language.message import FailureType
from tests.client.given import PATIENCE
from tests.client.points import Point, Point3

T = TypeVar("T")
BERLIN = ZoneInfo("Europe/Berlin")


class Kind(enum.Enum):
    CAT = "cat"
    DOG = "dog"


@dataclass
class Named(Point):
    """No field more, and another class all the same."""


class Line(msgspec.Struct):
    x: int


class LongLine(Line):
    y: int = 0


class Loose(msgspec.Struct, dict=True):
    x: int


class Pair(NamedTuple):
    a: int


class OtherPair(Pair):
    pass


class Options(TypedDict):
    at: Point


class Model(BaseModel):
    a: int


class LongModel(Model):
    b: int = 0


class Cat(BaseModel):
    kind: Literal[Kind.CAT] = Kind.CAT
    name: str = "cat"


class Dog(BaseModel):
    kind: Literal[Kind.DOG] = Kind.DOG


class Owner(BaseModel):
    pet: Cat | Dog = Field(discriminator="kind")


class Cached(BaseModel):
    a: int

    @computed_field
    @functools.cached_property
    def twice(self) -> int:
        return 2 * self.a


@dataclass
class CachedPoint:
    a: int

    @functools.cached_property
    def twice(self) -> int:
        return 2 * self.a


@dataclass
class Locked:
    a: int

    def __post_init__(self) -> None:
        self.lock = object()


class Recent(BaseModel):
    days: deque[date]


@dataclass
class RecentPoints:
    points: deque[Point] = field(default_factory=lambda: deque(maxlen=3))


@dataclass
class Box(Generic[T]):
    inside: T


@dataclass(eq=False)
class Unequal:
    x: int


@attrs.define(eq=False)
class Plot:
    x: int


@attrs.define(eq=False)
class BigPlot(Plot):
    y: int = 0


def used(value: Any) -> Any:
    """After its cached property was asked for."""
    assert value.twice == 2
    return value


def loose(value: Any) -> Any:
    value.more = 5
    return value


def bounds(value: Any) -> Any:
    """How long every deque in it may be."""
    if isinstance(value, deque):
        each: deque[Any] = value  # pyright: ignore[reportUnknownVariableType] - of anything
        return each.maxlen, [bounds(item) for item in each]
    if isinstance(value, Recent):
        return bounds(value.days)
    return bounds(value.points) if isinstance(value, RecentPoints) else None


WHOLE: list[tuple[Any, Any]] = [
    (deque[int], deque([1, 2], maxlen=5)),
    (deque, deque([1], maxlen=1)),
    (Any, deque([1], maxlen=2)),
    (deque[deque[date]], deque([deque([date(2024, 2, 29)], maxlen=2)], maxlen=3)),
    (Recent, Recent(days=deque([date(2024, 2, 29)], maxlen=7))),
    (RecentPoints, RecentPoints()),
    (RecentPoints, RecentPoints(deque([Point(1)], maxlen=2))),
    (Cached, used(Cached(a=1))),
    (Owner, Owner(pet=Dog(kind=Kind.DOG))),
    (Owner, Owner(pet=Cat(kind=Kind.CAT, name="dog"))),
    (Literal[Kind.CAT], Kind.CAT),
    (Box[Point], Box(Point(1))),
    (CachedPoint, used(CachedPoint(1))),
    (Locked, Locked(1)),
    (Decimal, Decimal("1.10")),
    (set[Pair], {Pair(1)}),
    (time, time(1, tzinfo=UTC)),
]


def shown(value: Any) -> str:
    return type(value).__qualname__


@pytest.mark.parametrize(("annotation", "value"), WHOLE, ids=shown)
async def test_what_is_sent_and_returned_arrives_whole(
    app: App, annotation: Any, value: Any
) -> None:
    arrived: list[Any] = []

    async def keep(x: Any) -> Any:
        arrived.append(x)
        return x

    keep.__annotations__ = {"x": annotation, "return": annotation}
    task = app.task(keep)
    async with app.worker():
        returned = await (await task.enqueue(value)).get(timeout=PATIENCE)

    assert [arrived[0], returned] == [value, value]
    assert type(arrived[0]) is type(returned) is type(value)
    assert bounds(arrived[0]) == bounds(returned) == bounds(value)


@pytest.mark.parametrize(
    ("annotation", "value"),
    [
        (Unequal, Unequal(1)),
        (Plot, Plot(1)),
        (Decimal, Decimal("sNaN")),
        (list[float], [float("nan")]),
    ],
    ids=shown,
)
def test_what_equals_nothing_arrives_all_the_same(annotation: Any, value: Any) -> None:
    shape = shape_of(annotation)

    shape.check(value)

    assert repr(shape.decode(shape.encode(value))).partition(" at ")[0] in repr(value)


LOST: list[tuple[Any, Any, str]] = [
    (Point, Point3(1, 2), "it arrives as `Point` instead of `Point3`"),
    (Point, Named(1), "it arrives as `Point` instead of `Named`"),
    (list[Point], [Named(1)], "[0] arrives as `Point` instead of `Named`"),
    (Point | None, Point3(1), "it arrives as `Point` instead of `Point3`"),
    (dict[str, Point], {"a": Point3(1)}, "['a'] arrives as `Point` instead of `Point3`"),
    (Mapping[str, Point], {"a": Point3(1)}, "['a'] arrives as `Point` instead of `Point3`"),
    (Iterable[Point], [Point3(1)], "[0] arrives as `Point` instead of `Point3`"),
    (deque[Point], deque([Point3(1)]), "[0] arrives as `Point` instead of `Point3`"),
    (OrderedDict[str, Point], OrderedDict(a=Point3(1)), "['a'] arrives as `Point`"),
    (Options, {"at": Point3(1)}, "['at'] arrives as `Point` instead of `Point3`"),
    (Box[Point], Box(Point3(1)), "inside arrives as `Point` instead of `Point3`"),
    (Line, LongLine(1, 2), "it arrives as `Line` instead of `LongLine`"),
    (Model, LongModel(a=1, b=2), "it arrives as `Model` instead of `LongModel`"),
    (Plot, BigPlot(1, 2), "it arrives as `Plot` instead of `BigPlot`"),
    (Pair, OtherPair(1), "it arrives as `Pair` instead of `OtherPair`"),
    (set[Pair], {OtherPair(1)}, "arrives as `Pair` instead of `OtherPair`"),
    (Point, loose(Point(1)), "more does not arrive, as it is no field"),
    (Loose, loose(Loose(1)), "more does not arrive, as it is no field"),
    (Line, {"x": 1, "z": 2}, "Line has no field 'z'"),
    (defaultdict, defaultdict(int), "it arrives with another default_factory"),
    (defaultdict[str, int], defaultdict(lambda: 5), "defaultdict[str, list[int]]"),
    (time, time(1, tzinfo=BERLIN), "it arrives without its time zone"),
    (list[time], [time(1, tzinfo=BERLIN)], "[0] arrives without its time zone"),
    (list[int], deque([1], maxlen=2), "its type has to be in the annotation, as in deque[...]"),
    (str, Kind.CAT, "it arrives as `str` instead of `Kind`"),
    (int, "5", "Expected `int`, got `str`"),
    (Annotated[int, Field(gt=0)], -1, "greater than 0"),
]


@pytest.mark.parametrize(("annotation", "value", "why"), LOST, ids=shown)
async def test_what_would_not_is_refused_at_the_caller_and_fails_the_task_that_returns_it(
    app: App, annotation: Any, value: Any, why: str
) -> None:
    async def take(x: Any) -> None: ...

    async def give() -> Any:
        return value

    take.__annotations__ = {"x": annotation}
    give.__annotations__ = {"return": annotation}
    taker, giver = app.task(take), app.task(give)

    with pytest.raises(TypeError) as refused:
        taker.s(value)
    async with app.worker():
        with pytest.raises(TaskFailed) as failed:
            await (await giver.enqueue()).get(timeout=PATIENCE)

    assert why in str(refused.value)
    assert failed.value.is_a(FailureType.RESULT_NOT_ENCODABLE)
    assert why in failed.value.message


@pytest.mark.parametrize(
    ("annotation", "value", "as_what"),
    [
        (fractions.Fraction, 1, fractions.Fraction(1)),
        (complex, 1.5, 1.5 + 0j),
        (set[date], {"2024-02-29"}, {date(2024, 2, 29)}),
        (
            set[datetime],
            {datetime(2024, 10, 27, 2, 30, tzinfo=BERLIN, fold=1)},
            {datetime(2024, 10, 27, 1, 30, tzinfo=UTC)},
        ),
        (defaultdict[str, list[int]], {"a": [1]}, defaultdict(list, a=[1])),
    ],
    ids=shown,
)
def test_what_is_parsed_on_purpose_is_no_loss(annotation: Any, value: Any, as_what: Any) -> None:
    shape = shape_of(annotation)

    shape.check(value)
    arrived = shape.decode(shape.encode(value))

    assert arrived == as_what
    assert type(arrived) is type(as_what)


def test_what_is_too_large_to_be_sent_is_not_read_again() -> None:
    made: list[int] = []

    @dataclass
    class Counted:
        x: int

        def __post_init__(self) -> None:
            made.append(self.x)

    values = [Counted(n) for n in range(100)]
    encode = shape_of(list[Counted]).result_encoder(most=10)
    made.clear()

    assert len(memoryview(encode(values))) > 10
    assert made == []
