"""What a task raises may be as odd as it likes: it is a failure of its own type, by its policy."""

import asyncio
import contextlib
import time
import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asyncq.app import App
from asyncq.drivers.memory.broker import MemoryBroker
from asyncq.errors import TaskFailed
from asyncq.language.policies import Retry
from asyncq.naming import NAME_LIMIT
from asyncq.worker.failures import MESSAGE_LIMIT, TRACEBACK_LIMIT, describe
from tests.client.given import PATIENCE, new_app

MIB = 1024 * 1024
ONCE_MORE = Retry(times=1, base=0.0)


@dataclass(frozen=True)
class Frozen(Exception):
    code: int


class Raising(Exception):
    """Raises whatever is asked of it."""

    def __getattribute__(self, name: str) -> Any:
        raise RuntimeError(name)

    def __str__(self) -> str:
        raise SystemExit(1)

    __repr__ = __str__

    def __eq__(self, other: object) -> bool:
        raise OSError

    def __hash__(self) -> int:
        raise OSError

    def __bool__(self) -> bool:
        raise OSError


class NoText(Exception):
    def __str__(self) -> Any:
        return 7  # noqa: PLE0307 - that is what is odd about it


class OddText(str):
    __slots__ = ()

    def __getitem__(self, _: object) -> Any:
        raise LookupError

    def encode(self, *_: object, **__: object) -> Any:
        return 7


class OddlyTold(Exception):
    def __str__(self) -> str:
        return OddText("odd \udcff")


class Liar(Exception):
    __class__ = property(lambda self: 1 / 0)  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType, reportIncompatibleMethodOverride] - that is what is odd about it


class Meta(type):
    def __getattribute__(cls, name: str) -> Any:
        if name in {"__qualname__", "__name__", "__module__", "__mro__"}:
            raise RuntimeError(name)
        return super().__getattribute__(name)

    def __instancecheck__(cls, instance: object) -> bool:
        raise RuntimeError

    def __eq__(cls, other: object) -> bool:
        raise RuntimeError

    __hash__ = type.__hash__


class OfMeta(Exception, metaclass=Meta):
    pass


class Shadowed(Exception):
    """Has other ideas of what Python keeps of it."""

    __cause__ = __context__ = __traceback__ = property(lambda self: 1 / 0)  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType] - the same
    __notes__ = property(lambda self: 1 / 0)  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]


class Endless(ExceptionGroup[Exception]):
    @property
    def exceptions(self) -> Any:
        return (self,)


def in_a_circle() -> Exception:
    first, second = ValueError("first"), KeyError("second")
    first.__cause__, second.__cause__ = second, first
    group = ExceptionGroup("group", [first])
    first.__context__ = group
    return group


def deep() -> Exception:
    error: Exception = ValueError("the first")
    for n in range(10_000):
        later = ValueError(str(n))
        later.__cause__ = error
        error = later
    return error


def heavy() -> Exception:
    error: Exception = ValueError("x" * 10 * MIB)
    for _ in range(30):
        later = ValueError("y" * 10 * MIB)
        later.__context__ = error
        error = later
    return error


def nested() -> Exception:
    error: Any = ValueError("inmost")
    for _ in range(500):
        error = ExceptionGroup("more", [error])
    return error


def noted() -> Exception:
    error = ValueError("noted")
    for _ in range(10_000):
        error.add_note("n" * 10_000)
    error.__notes__.append(7)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType] - any list will do for Python
    return error


def unnamed() -> Exception:
    return type("a\nb" + "c" * 1000, (Exception,), {"__module__": 7})("unnamed")


HERE = __name__
ODD: dict[str, tuple[Callable[[], BaseException], str]] = {
    "frozen": (lambda: Frozen(51), f"{HERE}.Frozen"),
    "raising": (Raising, f"{HERE}.Raising"),
    "no text": (NoText, f"{HERE}.NoText"),
    "odd text": (OddlyTold, f"{HERE}.OddlyTold"),
    "a lying class": (Liar, f"{HERE}.Liar"),
    "a metaclass": (OfMeta, f"{HERE}.OfMeta"),
    "shadowed": (Shadowed, f"{HERE}.Shadowed"),
    "endless": (lambda: Endless("e", [ValueError("in")]), f"{HERE}.Endless"),
    "in a circle": (in_a_circle, "ExceptionGroup"),
    "deep": (deep, "ValueError"),
    "heavy": (heavy, "ValueError"),
    "nested": (nested, "ExceptionGroup"),
    "noted": (noted, "ValueError"),
    "unnamed": (unnamed, "a\\nb" + "c" * (NAME_LIMIT - 3)),
}


@pytest.mark.parametrize("in_thread", [False, True])
@pytest.mark.parametrize("limit", [None, 60.0])
@pytest.mark.parametrize(("make", "type_name"), ODD.values(), ids=list(ODD))
async def test_an_odd_exception_is_a_failure_of_its_own_type_by_its_policy(
    app: App,
    make: Callable[[], BaseException],
    type_name: str,
    limit: float | None,
    *,
    in_thread: bool,
) -> None:
    runs: list[int] = []

    async def work() -> None:
        runs.append(1)
        raise make()

    def work_plainly() -> None:
        runs.append(1)
        raise make()

    task = app.task(name="odd", retry=ONCE_MORE, time_limit=limit)(
        work_plainly if in_thread else work
    )
    async with app.worker():
        with pytest.raises(TaskFailed) as caught:
            await (await task.enqueue()).get(timeout=PATIENCE)
        assert isinstance(app.client.broker, MemoryBroker)
        reasons = [dead.reason for dead in await app.client.broker.dead_letters("default")]

    assert caught.value.type[:60] == type_name[:60]
    assert len(runs) == 2
    assert not any("ExecutorFailed" in reason for reason in reasons)


async def test_it_comes_through_scopes_of_the_task_as_it_is(app: App) -> None:
    @app.task(time_limit=60.0)
    async def work() -> None:
        async with contextlib.AsyncExitStack(), asyncio.timeout(60):
            await asyncio.sleep(0)
            raise Frozen(51)

    async with app.worker():
        with pytest.raises(TaskFailed, match="51") as caught:
            await (await work.enqueue()).get(timeout=PATIENCE)

    assert caught.value.type == f"{HERE}.Frozen"


@pytest.mark.parametrize("make", [make for make, _ in ODD.values()], ids=list(ODD))
def test_it_is_told_in_bounded_time_and_memory(make: Callable[[], BaseException]) -> None:
    error = make()
    tracemalloc.start()
    began = time.perf_counter()
    try:
        failure = describe(error)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()

    assert time.perf_counter() - began < 5.0
    assert peak < 4 * MIB
    assert len(failure.message) <= MESSAGE_LIMIT * 10
    assert len(failure.traceback) <= TRACEBACK_LIMIT


def test_causes_groups_and_notes_are_told() -> None:
    def fail() -> None:
        try:
            {}["inner"]
        except KeyError as error:
            error.add_note("look at the key")
            raise ExceptionGroup("outer", [ValueError("one"), OSError("two")]) from error

    with pytest.raises(ExceptionGroup) as caught:
        fail()
    told = describe(caught.value).traceback

    for part in ("KeyError: 'inner'", "look at the key", "direct cause", "ExceptionGroup: outer"):
        assert part in told
    assert "  | ValueError: one" in told
    assert "  | OSError: two" in told
    assert told.index("inner") < told.index("outer")


async def test_a_policy_that_names_an_odd_class_decides_as_except_would(app: App) -> None:
    runs: list[str] = []

    @app.task(retry=Retry(times=1, base=0.0, on=(OfMeta,)))
    async def work(kind: str) -> None:
        runs.append(kind)
        raise OfMeta if kind == "odd" else ValueError(kind)

    async with app.worker():
        for kind in ("odd", "other"):
            with pytest.raises(TaskFailed):
                await (await work.enqueue(kind)).get(timeout=PATIENCE)

    assert runs == ["odd", "odd", "other"]


class Once:
    """Raises what it is given; as a class's attribute, wherever that is looked at."""

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def __get__(self, *_: object) -> Any:
        raise self.error

    def __call__(self, *_: object, **__: object) -> Any:
        raise self.error


NAMES = [
    "__str__", "__repr__", "__eq__", "__hash__", "__bool__", "__getattribute__", "__setattr__",
    "__delattr__", "__notes__", "__cause__", "__context__", "__traceback__", "__class__",
    "__suppress_context__", "__dict__", "args", "with_traceback", "__reduce__", "__len__",
    "__iter__", "__format__", "exceptions", "split", "derive", "__dir__", "add_note",
]  # fmt: skip
BASES: list[Any] = [Exception, ValueError, KeyError, OSError, SyntaxError,
         ImportError, BaseException, ExceptionGroup]  # fmt: skip


ERRORS = [RuntimeError("r"), SystemExit(2), GeneratorExit(), MemoryError()]


def odd_text(*_: Any) -> str:
    return "\udcff"


def no_text(*_: Any) -> int:
    return 7


ODD_VALUES: list[Any] = [*map(Once, ERRORS), None, 7, "text", b"bytes", (), no_text, odd_text]


@st.composite
def hostile(draw: st.DrawFn) -> BaseException:
    base = draw(st.sampled_from(BASES))
    odd = draw(st.lists(st.sampled_from(NAMES), unique=True, max_size=8))
    fields = {name: draw(st.sampled_from(ODD_VALUES)) for name in odd}
    if "__eq__" in fields:
        fields.setdefault("__hash__", None)
    name = draw(st.text(st.characters(exclude_characters="\0"), min_size=1, max_size=300))
    with contextlib.suppress(TypeError, ValueError, UnicodeError):
        kind: Any = type(name, (base,), fields)
        args = ("group", [ValueError("in")]) if base is ExceptionGroup else (draw(st.text()),)
        return kind.__new__(kind, *args)
    return ValueError("cannot be made")


@given(hostile())
@settings(max_examples=100)
def test_any_exception_can_be_told(error: BaseException) -> None:
    failure = describe(error)

    assert 0 < len(failure.type) <= NAME_LIMIT
    assert failure.type.isprintable()
    assert failure.traceback
    for text in (failure.type, failure.message, failure.traceback):
        assert type(text) is str
        text.encode()


@given(st.lists(hostile(), min_size=1, max_size=10))
@settings(max_examples=15)
def test_any_exceptions_have_one_end_each(errors: list[BaseException]) -> None:
    runs: list[int] = []

    async def main() -> None:
        app = new_app(grace=1.0)

        @app.task(time_limit=60.0)
        async def work(n: int) -> None:
            runs.append(n)
            raise errors[n]

        async with app.worker():
            results = [await work.enqueue(n) for n in range(len(errors))]
            for result in results:
                with pytest.raises(TaskFailed) as caught:
                    await result.get(timeout=PATIENCE)
                assert caught.value.type not in {"ExecutorFailed", ""}

    asyncio.run(main())
    assert sorted(runs) == list(range(len(errors)))
