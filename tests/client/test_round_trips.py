"""What is sent is what arrives; what would arrive as something else is refused at the caller."""

import collections
import enum
import fractions
import functools
import ipaddress
import math
import pathlib
import re
import typing
import uuid
import zoneinfo
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import InitVar, dataclass, field
from datetime import UTC, date, datetime
from typing import Annotated, Any, Generic, Literal, NamedTuple, NotRequired, TypedDict, TypeVar

import msgspec
import pydantic
import pydantic.dataclasses
import pytest
from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, RootModel, SecretStr

from asyncq.app import App
from asyncq.client.values.shapes import shape_of
from asyncq.errors import ConfigurationError, TaskFailed
from tests.client.given import PATIENCE
from tests.client.points import Point, Point3

T = TypeVar("T")


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Rights(enum.Flag):
    READ = 1
    WRITE = 2


class Text(str):
    __slots__ = ()


class Number(int):
    pass


class Moment(datetime):
    pass


class Aliased(BaseModel):
    amount: int = Field(0, alias="total")
    both: str = Field("", validation_alias="inwards", serialization_alias="outwards")


class Strict(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")

    at: datetime = Field(alias="when")
    colour: Colour
    secret: SecretStr
    numbers: set[int]
    pair: tuple[int, ...]
    by_place: dict[tuple[int, str], bytes]
    id: uuid.UUID

    @pydantic.computed_field
    @property
    def count(self) -> int:
        return len(self.numbers)


class Base(BaseModel):
    a: int


class Sub(Base):
    b: int


class Holder(BaseModel):
    held: Base


class Hidden(BaseModel):
    a: int
    hidden: int = Field(0, exclude=True)
    _private: int = PrivateAttr(0)

    def keep(self, value: int) -> None:
        self._private = value


class Patch(BaseModel):
    a: int | None = None
    b: int | None = None


class Open(BaseModel):
    model_config = ConfigDict(extra="allow")


class Cat(BaseModel):
    kind: Literal["cat"] = "cat"


class Dog(BaseModel):
    kind: Literal["dog"] = "dog"


class Hashed(BaseModel):
    word: str

    @pydantic.field_validator("word")
    @classmethod
    def hash_it(cls, word: str) -> str:
        return f"hash of {word}"


class Formatted(BaseModel):
    at: datetime

    @pydantic.field_serializer("at")
    def format_it(self, at: datetime) -> str:
        return at.strftime("%d.%m.%Y")


class Boxed(BaseModel, Generic[T]):
    inside: T


Table = RootModel[dict[str, list[int]]]


@pydantic.dataclasses.dataclass
class Checked:
    x: int = Field(gt=0)


@dataclass
class Derived:
    x: int
    twice: int = field(init=False)

    def __post_init__(self) -> None:
        self.twice = 2 * self.x


@dataclass(frozen=True, slots=True, kw_only=True)
class Frozen:
    x: int


@dataclass
class Shifted:
    x: int
    by: InitVar[int]

    def __post_init__(self, by: int) -> None:
        self.x += by


@dataclass
class Explosive:
    x: int

    def __post_init__(self) -> None:
        if self.x < 0:
            raise KeyError(self.x)


class Line(msgspec.Struct, rename="camel", tag="line", forbid_unknown_fields=True):
    from_here: int
    model: Base | None = None
    path: pathlib.Path | None = None


class Series(msgspec.Struct, array_like=True, omit_defaults=True, gc=False):
    a: int = 1
    b: int = 2


class Options(TypedDict):
    x: int
    y: NotRequired[str]


class Pair(NamedTuple):
    a: int
    b: str = "b"


def strict_model() -> Strict:
    return Strict(
        when=datetime(2024, 2, 29, tzinfo=UTC),
        colour=Colour.RED,
        secret=SecretStr("s3cret"),
        numbers={1},
        pair=(1, 2),
        by_place={(1, "a"): b"\xff"},
        id=uuid.UUID(int=1),
    )


def derived(twice: int) -> Derived:
    made = Derived(1)
    made.twice = twice
    return made


def with_private(value: int) -> Hidden:
    made = Hidden(a=1, hidden=0)
    made.keep(value)
    return made


def shown(value: Any) -> str:
    """The same in every process: without addresses."""
    return re.sub(r" at 0x\w+", "", repr(value))


ARRIVES: list[tuple[Any, Any]] = [
    (Aliased, Aliased.model_validate({"total": 42, "inwards": "x"})),
    (Strict, strict_model()),
    (list[Strict], [strict_model()]),
    (Sub, Sub(a=1, b=2)),
    (Holder, Holder(held=Base(a=1))),
    (Hidden, Hidden.model_validate({"a": 1})),
    (Patch, Patch(b=None)),
    (dict[str, Patch], {"x": Patch(a=1)}),
    (Open, Open.model_validate({"at": date(2024, 2, 29), "of": {1, 2}})),
    (Cat | Dog, Dog(kind="dog")),
    (Annotated[Cat | Dog, Field(discriminator="kind")], Dog(kind="dog")),
    (Boxed[date], Boxed[date](inside=date(2024, 2, 29))),
    (Table, Table({"a": [1]})),
    (Checked, Checked(1)),
    (SecretStr, SecretStr("s3cret")),
    (pydantic.HttpUrl, pydantic.HttpUrl("https://example.org/")),
    (Derived, Derived(1)),
    (Frozen, Frozen(x=1)),
    (Point3, Point3(1, 2)),
    (Line, Line(1, Base(a=1), pathlib.Path("/x"))),
    (Series, Series(5)),
    (Options, {"x": 1}),
    (Pair, Pair(1)),
    (Rights, Rights.READ | Rights.WRITE),
    (dict[Colour, int], {Colour.RED: 1}),
    (int | str | datetime, datetime(2024, 2, 29, tzinfo=UTC)),
    (int | str | datetime, "2024-02-29T00:00:00Z"),
    (str | bytes, b"x"),
    (str | uuid.UUID, uuid.UUID(int=1)),
    (pathlib.Path, pathlib.Path("/a/b")),
    (Iterable[int], [1]),
    (Sequence[Point], [Point(1)]),
    (Mapping[str, int], {"a": 1}),
    (collections.Counter[str], collections.Counter("aab")),
    (collections.deque[Point], collections.deque([Point(1)])),
    (collections.OrderedDict[str, int], collections.OrderedDict(a=1)),
    (collections.defaultdict[str, list[int]], collections.defaultdict(list, a=[1])),
    (ipaddress.IPv6Address, ipaddress.IPv6Address("::1")),
    (ipaddress.IPv4Network, ipaddress.IPv4Network("10.0.0.0/8")),
    (re.Pattern[str], re.compile("a+")),
    (zoneinfo.ZoneInfo, zoneinfo.ZoneInfo("UTC")),
    (fractions.Fraction, fractions.Fraction(1, 3)),
    (complex, 1 + 2j),
    (Annotated[int, Field(gt=0)], 5),
    (typing.NewType("UserId", int), 5),
    (object, 5),
    (T, 5),
    (float, -math.inf),
]


@pytest.mark.parametrize(("annotation", "value"), ARRIVES, ids=shown)
async def test_what_is_sent_is_what_arrives(app: App, annotation: Any, value: Any) -> None:
    arrived: list[Any] = []

    async def keep(x: Any) -> Any:
        arrived.append(x)
        return x

    keep.__annotations__ = {"x": annotation, "return": annotation}
    task = app.task(keep)
    async with app.worker():
        returned = await (await task.enqueue(value)).get(timeout=PATIENCE)

    assert arrived == [value]
    assert returned == value
    assert type(arrived[0]) is type(returned) is type(value)
    assert getattr(arrived[0], "model_fields_set", None) == getattr(value, "model_fields_set", None)


REFUSED: list[tuple[Any, Any, str]] = [
    (Base, Sub(a=1, b=2), "arrives as `Base` instead of `Sub`"),
    (Holder, Holder(held=Sub(a=1, b=2)), "held arrives as `Base` instead of `Sub`"),
    (Hidden, Hidden(a=1, hidden=5), "hidden arrives as another `int`"),
    (Hidden, with_private(5), "_private arrives as another `int`"),
    (Hashed, Hashed(word="x"), "word arrives as another `str`"),
    (Formatted, Formatted(at=datetime(2024, 2, 29, tzinfo=UTC)), "validators have to take"),
    (Shifted, Shifted(1, 2), "by: Field required"),
    (Derived, derived(7), "twice arrives as another `int`"),
    (Point, Point3(1, 2), "arrives as `Point` instead of `Point3`"),
    (list[Point], [Point3(1, 2)], r"\[0\] arrives as `Point`"),
    (dict[str, int], Point(1), "arrives as `dict` instead of `Point`"),
    (Options, {"x": 1, "zzz": 2}, r"\['zzz'\] does not arrive"),
    (Explosive, {"x": -1}, "KeyError was raised"),
    (str, uuid.UUID(int=1), "arrives as `str` instead of `UUID`"),
    (list[str], [Colour.RED], "arrives as `str` instead of `Colour`"),
    (float, 2**60 + 1, "arrives as `float` instead of `int`"),
    (int, True, "Expected `int`, got `bool`"),
    (int, 2**64, "send it as text"),
    (Annotated[int, Field(gt=0)], -5, "greater than 0"),
    (list[Annotated[int, Field(gt=0)]], [1, -5], "greater than 0"),
    (Annotated[int, msgspec.Meta(gt=0)], -5, ">= 1"),
    (Checked, {"x": -5}, "greater than 0"),
    (re.Pattern[str], re.compile("a", re.IGNORECASE), r"\(\?i\)"),
    (Iterable[int], range(3), r"with list\(\.\.\.\)"),
    (Iterable[int], (n for n in range(3)), r"with list\(\.\.\.\)"),
]


@pytest.mark.parametrize(("annotation", "value", "why"), REFUSED, ids=shown)
def test_what_would_not_arrive_as_it_is_is_refused_at_the_caller(
    app: App, annotation: Any, value: Any, why: str
) -> None:
    async def take(x: Any) -> None: ...

    take.__annotations__ = {"x": annotation}
    task = app.task(name="take")(take)

    with pytest.raises(TypeError, match=f"task take: argument x: .*{why}"):
        # What is of the right type, and too large, shows when it is encoded.
        task.parameters.encode(task.s(value).args, {})


GOES_AS: list[tuple[Any, Any, Any]] = [
    (str, Text("a"), "a"),
    (list[str], [Text("a")], ["a"]),
    (dict[str, Any], {Text("a"): Text("b")}, {"a": "b"}),
    (int, Number(5), 5),
    (Any, [Text("a"), Number(5)], ["a", 5]),
    (datetime, Moment(2024, 2, 29, tzinfo=UTC), datetime(2024, 2, 29, tzinfo=UTC)),
    (float, 5, 5.0),
    (Aliased, {"total": 42}, Aliased.model_validate({"total": 42})),
    (pathlib.Path, "/a", pathlib.Path("/a")),
]


@pytest.mark.parametrize(("annotation", "value", "as_what"), GOES_AS, ids=shown)
def test_subclasses_go_as_their_base_and_text_is_parsed(
    annotation: Any, value: Any, as_what: Any
) -> None:
    shape = shape_of(annotation)

    shape.check(value)
    arrived = shape.decode(shape.encode(value))

    assert arrived == as_what
    assert type(arrived) is type(as_what)


@pytest.mark.parametrize(
    "annotation",
    [type[int], Callable[[int], int], typing.Iterator[int], functools.partial, typing.Self],
    ids=str,
)
def test_types_of_what_is_no_data_are_refused_where_the_task_is_declared(
    app: App, annotation: Any
) -> None:
    async def take(x: Any) -> None: ...

    take.__annotations__ = {"x": annotation}

    with pytest.raises(ConfigurationError, match="task take, parameter x: "):
        app.task(name="take")(take)


class Odd:
    """Its methods raise."""

    def __eq__(self, other: object) -> bool:
        raise SystemExit

    __hash__ = None  # type: ignore[assignment]

    def __bool__(self) -> bool:
        raise GeneratorExit

    def __len__(self) -> int:
        raise RuntimeError

    def __repr__(self) -> str:
        raise ValueError


class OddModel(BaseModel):
    x: int = 0

    @pydantic.model_serializer
    def explode(self) -> Any:
        raise SystemExit


@pytest.mark.parametrize("odd", [Odd, OddModel])
async def test_values_whose_methods_raise_are_refused_here_and_there(
    app: App, odd: Callable[[], Any]
) -> None:
    @app.task
    async def take(x: Any) -> Any:
        return odd()

    async with app.worker():
        with pytest.raises(TypeError, match="argument x: a value of Odd"):
            await take.enqueue(odd())
        with pytest.raises(TypeError, match="header 'x': a value of Odd"):
            take.options(headers={"x": odd()})
        with pytest.raises(TaskFailed) as caught:
            await (await take.enqueue(1)).get(timeout=PATIENCE)

    assert caught.value.type == "ResultNotEncodable"


async def test_a_result_that_would_be_read_as_less_is_a_failure(app: App) -> None:
    @app.task
    async def give() -> Base:
        return Sub(a=1, b=2)

    async with app.worker():
        with pytest.raises(TaskFailed, match="`Base` instead of `Sub`") as caught:
            await (await give.enqueue()).get(timeout=PATIENCE)

    assert caught.value.type == "ResultNotEncodable"


def test_headers_are_plain_data(app: App) -> None:
    @app.task
    async def take() -> None: ...

    call = take.options(headers={"a": Text("b"), "c": (1, 2)}).s()

    assert call.options.headers == {"a": "b", "c": [1, 2]}
    with pytest.raises(TypeError, match="text for names"):
        take.options(headers={1: "a"})  # pyright: ignore[reportArgumentType] - wrong
