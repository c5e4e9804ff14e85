"""Where a task failed is told as Python tells it, and cheaply where it was told before."""

import gc
import linecache
import traceback
import weakref
from collections.abc import Callable
from typing import Any

import pytest

from asyncq.worker.failures import MOST_PLACES, describe


def fail(depth: int) -> None:
    if depth:
        fail(depth - 1)
    raise ValueError("no")


def raised(function: Callable[[], None]) -> BaseException:
    with pytest.raises(Exception) as caught:  # noqa: PT011 - whatever it is
        function()
    return caught.value


def as_python_tells(error: BaseException) -> str:
    frames = traceback.StackSummary.extract(traceback.walk_tb(error.__traceback__)).format()
    said = traceback.format_exception_only(error)
    return "".join(["Traceback (most recent call last):\n", *frames, *said])


@pytest.mark.parametrize("depth", [0, 1, 2, 3, 4, 5, 30])
def test_a_traceback_is_what_python_writes(depth: int) -> None:
    error = raised(lambda: fail(depth))
    expected = as_python_tells(error)

    assert describe(error).traceback == expected


def test_a_line_that_was_told_is_told_again_without_a_look_at_its_file(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def go_wrong() -> None:
        fail(3)

    first = describe(raised(go_wrong)).traceback
    looks: list[object] = []
    monkeypatch.setattr(linecache, "checkcache", looks.append)
    error = raised(go_wrong)
    expected = as_python_tells(error)
    looks.clear()
    second = describe(error).traceback

    assert 'raise ValueError("no")' in first
    # Only the line that called it, here, is another one.
    assert second == expected
    assert first.splitlines()[3:] == second.splitlines()[3:]
    assert looks == []


def test_code_that_is_made_as_the_program_runs_fills_no_memory() -> None:
    alive: list[weakref.ref[Any]] = []
    for number in range(MOST_PLACES + 100):
        space: dict[str, Any] = {}
        text = f"def made_{number}():\n    raise ValueError({number})"
        exec(compile(text, f"<{number}>", "exec"), space)
        made = space[f"made_{number}"]
        alive.append(weakref.ref(made.__code__))
        told = describe(raised(made)).traceback

        assert f'File "<{number}>", line 2, in made_{number}' in told
    gc.collect()
    assert sum(code() is not None for code in alive) <= MOST_PLACES


def test_a_loader_that_raises_costs_the_text_of_its_lines_and_nothing_else() -> None:
    class Loader:
        def get_source(self, name: str) -> str:
            raise ZeroDivisionError(name)

    space: dict[str, Any] = {"__name__": "odd", "__loader__": Loader()}
    exec(compile("def fail():\n    raise ValueError('no')", "<odd>", "exec"), space)

    told = describe(raised(space["fail"])).traceback

    assert 'File "<odd>", line 2, in fail\n' in told
    assert told.endswith("ValueError: no\n")
