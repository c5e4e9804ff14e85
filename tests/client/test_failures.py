"""What a failure is called, and how a program asks for it."""

import ast
import inspect
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

import asyncq
from asyncq import FailureType, TaskFailed, errors
from asyncq.naming import exception_name, qualified_name
from asyncq.worker.failures import describe

PACKAGE = Path(asyncq.__file__).parent


class Declined(LookupError):
    class Inner(Exception):
        pass


def failed(type_name: str) -> TaskFailed:
    return TaskFailed("id", type_name, "no")


def test_every_error_of_ours_is_exported_and_named_as_it_is_exported() -> None:
    ours = [each for each in vars(errors).values() if inspect.isclass(each)]
    ours = [each for each in ours if issubclass(each, asyncq.AsyncqError)]

    assert len(ours) > 20
    for each in ours:
        assert getattr(asyncq, each.__name__) is each
        assert exception_name(each) == f"asyncq.{each.__name__}"
        assert each.__name__ in inspect.getdoc(errors).split()  # pyright: ignore[reportOptionalMemberAccess]


def test_every_failure_that_no_exception_names_is_a_documented_word() -> None:
    """`Failure` is made of a word, of an exception, or of another failure."""
    made = list(first_arguments("Failure"))
    documented = inspect.getsource(FailureType)

    assert len(made) >= 6
    for place, first in made:
        is_word = "FailureType." in first or first == "kind.value"
        assert is_word or first == "type_name(error)", f"{place}: Failure({first}, ...)"
    for word in FailureType:
        assert f'{word.name} = "{word.value}"\n    """' in documented
    assert "`FailureType`" in str(TaskFailed.__doc__)


def first_arguments(called: str) -> Iterator[tuple[str, str]]:
    for path in PACKAGE.rglob("*.py"):
        if "contracts" in path.parts:
            continue  # tests, of what a backend keeps
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == called and node.args:
                yield path.relative_to(PACKAGE).as_posix(), ast.unparse(node.args[0])


@pytest.mark.parametrize(
    ("told", "kind"),
    [
        ("asyncq.TimeLimitExceeded", asyncq.TimeLimitExceeded),
        ("asyncq.TimeLimitExceeded", asyncq.AsyncqError),
        ("asyncq.TimeLimitExceeded", TimeoutError),
        ("asyncq.TimeLimitExceeded", Exception),
        ("asyncq.TimeLimitExceeded", "asyncq.TimeLimitExceeded"),
        ("BadArguments", asyncq.BadArguments),
        ("asyncq.BadArguments", FailureType.BAD_ARGUMENTS),
        ("MessageTooLarge", asyncq.MessageTooLarge),
        ("NewerVersion", asyncq.Undecodable),
        ("WorkerCrashed", FailureType.WORKER_CRASHED),
        ("KeyError", LookupError),
        ("CancelledError", BaseException),
        ("tests.client.test_failures.Declined", Declined),
        ("tests.client.test_failures.Declined", LookupError),
        ("tests.client.test_failures.Declined.Inner", Declined.Inner),
    ],
)
def test_a_failure_is_of_a_class_and_of_those_above_it(
    told: str, kind: type[BaseException] | str
) -> None:
    assert failed(told).is_a(kind)


@pytest.mark.parametrize(
    ("told", "kind"),
    [
        ("LookupError", KeyError),
        ("shop.KeyError", KeyError),
        ("shop.TimeLimitExceeded", asyncq.TimeLimitExceeded),
        ("WorkerCrashed", Exception),
        ("shop.Unheard", Exception),  # not known here
        ("ValueError", "Value"),
    ],
)
def test_a_failure_is_of_no_other(told: str, kind: type[BaseException] | str) -> None:
    assert not failed(told).is_a(kind)


def test_what_is_no_class_is_refused() -> None:
    with pytest.raises(TypeError, match=r"takes an exception's class or its name, not \[1\]"):
        failed("ValueError").is_a([1])  # pyright: ignore[reportArgumentType]


def test_an_exception_of_a_program_is_called_as_its_importers_call_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    program = ModuleType("__main__")
    program.__file__ = "/srv/shop.py"
    monkeypatch.setitem(sys.modules, "__main__", program)
    here = type("Declined", (Exception,), {"__module__": "__main__"})
    there = type("Declined", (Exception,), {"__module__": "shop"})

    assert describe(here()).type == describe(there()).type == "shop.Declined"
    assert qualified_name(here) == "shop.Declined"
    assert failed("shop.Declined").is_a(here)
