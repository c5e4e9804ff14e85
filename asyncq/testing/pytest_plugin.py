"""Fixtures for pytest, for tests that run under pytest-asyncio or anyio, in whatever loop.

A project defines ``asyncq_app`` (in conftest.py) to return its app; a test takes ``asyncq_run``.
The worker belongs to the test's own coroutine and ends with it: it does not matter whose loop that
is.
``@pytest.mark.asyncq(eager=True)`` gives the options of `asyncq.testing.run`.
"""

import functools
import inspect
from collections.abc import Generator
from typing import Any

import pytest

from asyncq.app import App
from asyncq.testing.run import Run

MARK = "asyncq"
FIXTURE = "asyncq_run"


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", f"{MARK}(**options): options of asyncq.testing.run")


@pytest.fixture
def asyncq_app() -> App:
    """The app under test: override it."""
    pytest.fail(
        "define a fixture named asyncq_app that returns your asyncq.App, in conftest.py",
        pytrace=False,
    )


@pytest.fixture
def asyncq_run(request: pytest.FixtureRequest, asyncq_app: App) -> Generator[Run]:
    """The app in memory, with a worker for as long as the test runs: see `asyncq.testing.run`."""
    node: pytest.Item = request.node
    mark = node.get_closest_marker(MARK)
    options: dict[str, Any] = {} if mark is None else dict(mark.kwargs)
    run = Run(asyncq_app, **options)
    with run.installed():
        yield run


@pytest.hookimpl(hookwrapper=True, tryfirst=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None]:
    """Run the worker around the test, in the task and the loop that the test gets."""
    function: Any = getattr(item, "obj", None)
    run: Any = getattr(item, "funcargs", {}).get(FIXTURE)
    if run is None or not inspect.iscoroutinefunction(function):
        yield
        return

    @functools.wraps(function)
    async def test(*args: Any, **kwargs: Any) -> None:
        async with run.running():
            await function(*args, **kwargs)

    item.obj = test  # type: ignore[attr-defined] # a function's item has it
    try:
        yield
    finally:
        item.obj = function  # type: ignore[attr-defined] # likewise
