"""Shared tasks: of libraries that have no app."""

from collections.abc import Callable

import pytest
from anyio import to_thread

import asyncq
from asyncq.app import App
from asyncq.client.shared import SharedTasks
from asyncq.client.task import TaskDecorator
from asyncq.errors import ConfigurationError
from asyncq.language.message import new_id
from tests.client.given import PATIENCE


@pytest.fixture
def shared(monkeypatch: pytest.MonkeyPatch) -> TaskDecorator:
    """`asyncq.shared_task` of a process that has no other apps and tasks."""
    registry = SharedTasks()
    monkeypatch.setattr("asyncq.app.shared_tasks", registry)
    return TaskDecorator(registry.register, {})


@pytest.fixture
def make_app(shared: TaskDecorator) -> Callable[[], App]:
    return lambda: App(f"memory://{new_id()}")


@pytest.mark.parametrize("made", ["before", "after"])
async def test_an_app_made_before_or_after_runs_a_shared_task(
    shared: TaskDecorator, make_app: Callable[[], App], made: str
) -> None:
    app = make_app() if made == "before" else None

    @shared(queue="sums")
    async def add(x: int, y: int) -> int:
        return x + y

    app = app or make_app()
    async with app, app.worker():
        result = await add.enqueue(1, 2)
        again = add.result(result.id)

        assert await result.get(timeout=PATIENCE) == 3
        assert await again.get(timeout=PATIENCE) == 3
    assert "sums" in app.queues.declared


async def test_the_app_that_is_connected_sends_it(
    shared: TaskDecorator, make_app: Callable[[], App]
) -> None:
    @shared
    async def add(x: int, y: int) -> int:
        return x + y

    _idle, app = make_app(), make_app()

    async with app, app.worker():
        assert await (await add.enqueue(1, 2)).get(timeout=PATIENCE) == 3


async def test_between_two_connected_apps_the_caller_has_to_choose(
    shared: TaskDecorator, make_app: Callable[[], App]
) -> None:
    @shared
    async def add(x: int, y: int) -> int:
        return x + y

    one, two = make_app(), make_app()

    async with one, two, two.worker():
        with pytest.raises(ConfigurationError, match=r"await app\.enqueue\(task\.s\("):
            await add.enqueue(1, 2)
        result = await two.enqueue(add.s(1, 2))

        assert await result.get(timeout=PATIENCE) == 3


async def test_inside_of_a_task_it_is_the_app_whose_worker_runs_it(
    shared: TaskDecorator, make_app: Callable[[], App]
) -> None:
    @shared
    async def inner() -> str:
        return asyncq.current_context().queue

    async def outer() -> str:
        return await (await inner.enqueue()).get(timeout=PATIENCE)

    one, two = make_app(), make_app()
    calls = [app.task(name="outer")(outer) for app in (one, two)]

    async with one, two, one.worker(), two.worker():
        results = [await call.enqueue() for call in calls]

        assert await asyncq.gather(*results, timeout=PATIENCE) == ["default", "default"]


async def test_without_an_app_it_says_so(shared: TaskDecorator) -> None:
    @shared
    async def add(x: int) -> int:
        return x

    with pytest.raises(ConfigurationError, match="there is no app"):
        await add.enqueue(1)


async def test_the_only_app_of_the_process_says_that_it_is_not_connected(
    shared: TaskDecorator, make_app: Callable[[], App]
) -> None:
    @shared
    async def add(x: int) -> int:
        return x

    _app = make_app()

    with pytest.raises(ConfigurationError, match="not connected"):
        await add.enqueue(1)


async def test_the_routes_of_an_app_apply_by_its_name(shared: TaskDecorator) -> None:
    @shared(name="lib.add")
    async def add(x: int) -> str:
        return asyncq.current_context().queue

    app = App(f"memory://{new_id()}", routes={"lib.*": "libraries"})

    async with app, app.worker():
        assert await (await add.enqueue(1)).get(timeout=PATIENCE) == "libraries"


async def test_a_client_without_a_loop_sends_it(
    shared: TaskDecorator, make_app: Callable[[], App]
) -> None:
    @shared
    def add(x: int, y: int) -> int:
        return x + y

    app = make_app()

    def send() -> int:
        with app.sync() as client:
            return client.enqueue(add.s(1, 2)).get(timeout=PATIENCE)

    async with app, app.worker():
        assert await to_thread.run_sync(send) == 3


def test_two_tasks_cannot_share_a_name(shared: TaskDecorator, make_app: Callable[[], App]) -> None:
    async def one() -> None: ...
    async def two() -> None: ...

    app = make_app()
    shared(name="one")(one)
    app.task(name="two")(two)

    with pytest.raises(ConfigurationError, match="two tasks named one"):
        app.task(name="one")(two)
    with pytest.raises(ConfigurationError, match="two tasks named two"):
        shared(name="two")(one)
    with pytest.raises(ConfigurationError, match="two tasks named one"):
        shared(name="one")(two)

    assert set(make_app().tasks) == {"one"}
