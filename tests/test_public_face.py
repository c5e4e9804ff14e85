"""What ``import asyncq`` gives, and what it leaves alone."""

import ast
import importlib
import inspect
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import asyncq
from asyncq import errors, testing
from asyncq.clock import SystemClock
from asyncq.config import Url
from asyncq.drivers import table as drivers
from asyncq.errors import ConfigurationError

LEFT_ALONE = [
    "aio_pika",
    "hiredis",
    "matplotlib",
    "psutil",
    "pydantic",
    "redis",
    "rich",
    "sqlite3",
    "typer",
    "uvloop",
    "watchfiles",
    "asyncq.cli",
    "asyncq.drivers.subscriptions",
    "asyncq.drivers.wakeup",
    "asyncq.testing",
]
DRIVERS = sorted(
    {entry.partition(":")[0] for entry in [*drivers.BROKERS.values(), *drivers.BACKENDS.values()]}
)


def in_a_fresh_interpreter(code: str) -> str:
    """What ``code`` prints where nothing was imported before."""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_importing_asyncq_loads_no_driver_and_nothing_optional() -> None:
    loaded = in_a_fresh_interpreter("import asyncq, sys; print('\\n'.join(sys.modules))")

    assert "asyncq.app" in loaded.split()
    assert not set(loaded.split()) & {*LEFT_ALONE, *DRIVERS}


def test_an_app_loads_the_driver_of_its_url_and_no_other() -> None:
    loaded = in_a_fresh_interpreter(
        "import asyncio, asyncq, sys\n"
        "async def main():\n"
        "    async with asyncq.App('memory://x'): pass\n"
        "asyncio.run(main())\n"
        "print('\\n'.join(sys.modules))"
    )

    assert {"asyncq.drivers.memory.broker", "asyncq.drivers.memory.backend"} <= set(loaded.split())
    assert not set(loaded.split()) & {
        "redis",
        "sqlite3",
        "aio_pika",
        "asyncq.drivers.redis.connection",
    }


def test_the_public_names_are_there_sorted_and_no_others() -> None:
    public = {
        name
        for name, value in vars(asyncq).items()
        if not name.startswith("_") and not isinstance(value, type(sys))
    }

    assert public == set(asyncq.__all__)
    assert sorted(asyncq.__all__) == asyncq.__all__
    assert all(getattr(asyncq, name).__doc__ for name in asyncq.__all__)


def shown_to_readers() -> str:
    """What the README and the examples say."""
    root = Path(__file__).parent.parent
    pages = [root / "README.md", *sorted((root / "examples").rglob("*.py"))]
    return "\n".join(page.read_text() for page in pages)


def has_example(thing: Any) -> bool:
    """Whether its docstring has a line of code that calls something."""
    return re.search(r"``[^`]*\w\(.*?``", inspect.getdoc(thing) or "", re.DOTALL) is not None


@pytest.mark.parametrize("module", [asyncq, testing], ids=["asyncq", "testing"])
def test_every_public_name_is_shown_where_a_reader_looks_for_it(module: ModuleType) -> None:
    # The tree of all errors says of each when it is raised.
    text = shown_to_readers() + (errors.__doc__ or "")

    names: list[str] = module.__all__
    unseen = [name for name in names if not re.search(rf"\b{name}\b", text)]

    assert [name for name in unseen if not has_example(getattr(module, name))] == []


DIRECTIVES = (asyncq.RetryLater, asyncq.Snooze, asyncq.Reject, asyncq.Ignore)


def test_every_public_error_is_one_of_ours() -> None:
    errors = [value for value in vars(asyncq).values() if isinstance(value, type)]

    for error in errors:
        if issubclass(error, Exception) and error not in DIRECTIVES:
            assert issubclass(error, asyncq.AsyncqError)
    assert not any(issubclass(directive, asyncq.AsyncqError) for directive in DIRECTIVES)


@pytest.mark.parametrize("scheme", sorted(drivers.EXTRAS))
def test_a_missing_extra_is_named_with_the_command_that_installs_it(
    scheme: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(name: str) -> object:
        raise ModuleNotFoundError("No module named 'redis'", name="redis")

    monkeypatch.setattr(drivers, "import_module", missing)

    with pytest.raises(
        ConfigurationError, match=rf"pip install 'asyncq\[{drivers.EXTRAS[scheme]}\]'"
    ):
        drivers.make_broker(Url(f"{scheme}://host"), SystemClock())


def test_a_bug_in_a_driver_is_not_taken_for_a_missing_extra(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def broken(name: str) -> object:
        raise ModuleNotFoundError("No module named 'asyncq.nothing'", name="asyncq.nothing")

    monkeypatch.setattr(drivers, "import_module", broken)

    with pytest.raises(ModuleNotFoundError):
        drivers.make_backend(Url("redis://host"), SystemClock())


@pytest.mark.parametrize("module", DRIVERS)
def test_every_driver_of_the_tables_is_there(module: str) -> None:
    pytest.importorskip(module, exc_type=ModuleNotFoundError)

    assert importlib.import_module(module).__doc__


def test_nothing_in_the_package_can_turn_data_into_code() -> None:
    """No pickle and its kind; no eval, exec or compile; imports by name from four places only."""
    package = Path(asyncq.__file__).parent
    # A table of ours; the command line, whose app is the operator's; uvloop; what App(include=...)
    # names.
    by_name = {"drivers/table.py", "cli/apps.py", "worker/signals.py", "client/modules.py"}

    for path in package.rglob("*.py"):
        place = path.relative_to(package).as_posix()
        names = set(names_in(ast.parse(path.read_text())))
        assert not names & FORBIDDEN, place
        assert place in by_name or "import_module" not in names, place


FORBIDDEN = {
    *("pickle", "cPickle", "dill", "cloudpickle", "marshal", "shelve", "yaml"),
    *("eval", "exec", "compile", "__import__"),
}


def names_in(tree: ast.AST) -> Iterator[str]:
    """Every module imported and every plain name used."""
    for node in ast.walk(tree):
        match node:
            case ast.Import(names=names):
                yield from (alias.name.partition(".")[0] for alias in names)
            case ast.ImportFrom(module=str(module), names=names):
                yield module.partition(".")[0]
                yield from (alias.name for alias in names)
            case ast.Name(id=name):
                yield name
            case _:
                pass
