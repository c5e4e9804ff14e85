"""What belongs to a scope ends when its owner is gone, and goes on as long as he is there."""

import asyncio
import logging
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import Any, cast

import anyio
import msgspec
import pytest

import asyncq
from asyncq.app import App
from asyncq.client.places import Opener, set_place
from asyncq.client.result import Result
from asyncq.clock import SystemClock
from asyncq.config import Config
from asyncq.errors import TaskCancelled
from asyncq.language.marks import Mark
from asyncq.language.message import new_id
from asyncq.language.scopes import (
    KEEP_SCOPE,
    KIND,
    LOOKS,
    SCOPE,
    STANDS,
    name_of,
    names_in,
    over,
    why_over,
)
from asyncq.seams.broker import Delivery
from asyncq.seams.registry import Entry, Registry
from asyncq.worker.scopes import Scopes
from tests.client.given import PATIENCE, until
from tests.worker.combinations import any_app

__all__ = ["any_app"]  # a fixture

LEASE = 1.2  # seconds
LOOK = LEASE / LOOKS
DAY = 86400.0


class Elsewhere:
    """In scopes that another process has begun."""

    depth = 1
    outer = None
    is_forsaken = False

    def __init__(self, *names: str) -> None:
        self._names = names

    async def names(self, client: Opener) -> tuple[str, ...]:
        return self._names

    def add(self, client: Opener, results: Sequence[Result[Any]]) -> None:
        pass

    def excuse(self, ids: Sequence[str]) -> None:
        pass


@contextmanager
def inside(*names: str) -> Generator[None]:
    token = set_place(Elsewhere(*names))
    try:
        yield
    finally:
        token.var.reset(token)


@pytest.fixture
def app(any_app: App) -> App:
    config = Config(grace=1.0, lease=LEASE)
    return App(any_app.url.reveal(), backend=any_app.backend_url.reveal(), config=config)


def registry_of(app: App) -> Registry:
    registry = app.client.backend.offers.registry
    assert registry is not None
    return registry


async def opened(app: App, owner: str, *, keep: float, task_id: str | None = None) -> str:
    """A scope, whose owner says for the last time that he is there."""
    name = name_of(task_id, owner, 1)
    await registry_of(app).put(KIND, name, STANDS, version=0, keep=KEEP_SCOPE)
    await registry_of(app).put(KIND, owner, STANDS, version=0, keep=keep)
    return name


async def test_what_runs_and_what_waits_ends_once_its_owner_is_gone(app: App) -> None:
    seen: list[str] = []

    @app.task(name="hold")
    async def hold(name: str) -> None:
        seen.append(name)
        await anyio.sleep_forever()

    async with app, app.worker(concurrency=1):
        name = await opened(app, new_id(), keep=3 * LOOK)
        began = time.monotonic()
        with inside(name):
            runs = await hold.enqueue("runs")
            waits = await hold.enqueue("waits")
            later = await hold.options(delay=LEASE).enqueue("is due later")
        await until(lambda: seen == ["runs"])
        for result in (runs, waits, later):
            with pytest.raises(TaskCancelled, match="who began its scope is gone"):
                await result.get(timeout=PATIENCE)
        assert time.monotonic() - began > 3 * LOOK
        assert seen == ["runs"]
        [entry] = await registry_of(app).get(KIND, [name])  # others need not look for him
        assert entry is not None
        assert why_over(entry.data) == "who began its scope is gone"


async def test_a_block_hears_that_others_have_cancelled_its_scope(app: App) -> None:
    other = App(app.url.reveal(), backend=app.backend_url.reveal())
    seen: list[str] = []

    @app.task(name="hold")
    async def hold(name: str) -> None:
        seen.append(name)
        if name == "parent":
            await hold.options(delay=DAY).enqueue("child")
        await anyio.sleep_forever()

    async def one_after_another() -> None:
        while True:
            await hold.enqueue("runs")
            await anyio.sleep(LOOK / 4)

    async with app, app.worker(), other:
        later, began = app.result(new_id()), 0.0
        with pytest.raises(ExceptionGroup) as caught:  # noqa: PT012 - it is raised by the block's end
            async with asyncq.scope() as scope:
                later = await hold.options(delay=DAY).enqueue("never")
                await hold.enqueue("parent")
                await until(lambda: seen == ["parent"])
                began = time.monotonic()
                await other.cancel(scope=scope.name, reason="the tenant left")
                with pytest.raises(RuntimeError, match="was cancelled: what is to go on without"):
                    await one_after_another()
                assert time.monotonic() - began < 2 * LOOK + 1.0
        assert time.monotonic() - began < 2 * LOOK + 2.0
        failures = caught.value.exceptions
        assert all(isinstance(each, TaskCancelled) for each in failures)
        assert {cast("TaskCancelled", each).reason for each in failures} == {"the tenant left"}
        assert later.id in {cast("TaskCancelled", each).task_id for each in failures}
        assert len(failures) >= 3  # the child as well
    assert "child" not in seen


class Returning:
    """A registry in which an owner is there again just when he was missed for the first time."""

    def __init__(self, registry: Registry, owner: str) -> None:
        self._registry = registry
        self._owner = owner
        self.missed = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._registry, name)

    async def get(self, kind: str, names: Sequence[str]) -> Sequence[Entry | None]:
        found = await self._registry.get(kind, names)
        if self._owner in names and found[list(names).index(self._owner)] is None:
            self.missed += 1
            await self._registry.put(kind, self._owner, STANDS, version=0, keep=PATIENCE)
        return found


async def test_an_owner_that_misses_one_look_is_not_taken_for_gone(app: App) -> None:
    ended: list[str] = []

    async def end(name: str, reason: str) -> None:
        ended.append(reason)

    def cancel(task: "asyncio.Task[Any]", delivery: Delivery, mark: Mark) -> None:
        ended.append(mark.reason)

    async with app:
        owner = new_id()
        name = await opened(app, owner, keep=0.01)
        await anyio.sleep(0.02)
        registry = Returning(registry_of(app), owner)
        now = SystemClock().now
        scopes = Scopes(cast("Registry", registry), lease=LEASE, now=now, end=end, cancel=cancel)
        assert await scopes.mark_of((name,)) is None
        assert registry.missed == 1
        assert ended == []


@pytest.mark.parametrize("is_told", [True, False], ids=["it is told", "nobody says so"])
async def test_what_belongs_to_a_scope_that_is_over_never_starts(app: App, is_told: bool) -> None:
    """Whatever has been forgotten meanwhile."""

    @app.task(name="work")
    async def work() -> str:
        return "done"

    async with app, app.worker():
        owner = new_id()
        name = await opened(app, owner, keep=PATIENCE)
        with inside(name):
            assert await (await work.enqueue()).get(timeout=PATIENCE) == "done"
        await registry_of(app).remove(KIND, name, version=None)
        if is_told:
            await registry_of(app).put(KIND, name, over("enough"), version=0, keep=PATIENCE)
        await anyio.sleep(1.5 * LOOK)  # what was seen a moment ago holds
        with inside(name):
            result = await work.enqueue()
        with pytest.raises(TaskCancelled, match="enough" if is_told else "its scope is over"):
            await result.get(timeout=PATIENCE)


async def test_a_task_that_runs_again_ends_what_its_earlier_run_began(app: App) -> None:
    seen: list[str] = []
    is_free = asyncio.Event()

    @app.task(name="work")
    async def work(name: str) -> str:
        seen.append(name)
        await is_free.wait()
        return name

    @app.task(name="own")
    async def own() -> str:
        return "done"

    async with app, app.worker():
        id, owner = new_id(), new_id()
        name = await opened(app, owner, keep=PATIENCE, task_id=id)
        other = await opened(app, owner, keep=PATIENCE, task_id=f"{id}~")
        with inside(name):
            earlier = await work.enqueue("of the earlier run")
        with inside(other):
            apart = await work.enqueue("of another task")
        await until(lambda: len(seen) == 2)
        # It comes as a message does whose worker has died.
        client = app.client
        envelope = client.follow_up(own.s(), id)[0].envelope
        await client.broker.publish([msgspec.structs.replace(envelope, again=True)])
        with pytest.raises(TaskCancelled, match="the task that began its scope runs again"):
            await earlier.get(timeout=PATIENCE)
        assert not is_free.is_set()
        is_free.set()
        assert await apart.get(timeout=PATIENCE) == "of another task"
        assert await app.result(id).get(timeout=PATIENCE) == "done"


async def test_a_copy_of_what_runs_waits_for_its_outcome_and_ends_no_scope_of_it(
    rabbitmq_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    """RabbitMQ knows no ids: when workers die, what they had in hand may be there several times."""
    caplog.set_level(logging.INFO, "asyncq")
    app = App(rabbitmq_url, backend=f"memory://{new_id()}", config=Config(grace=1.0, lease=LEASE))
    runs: list[str] = []
    is_free = asyncio.Event()

    @app.task(name="work")
    async def work() -> str:
        runs.append("work")
        await is_free.wait()
        return "done"

    @app.task(name="own")
    async def own() -> list[str]:
        runs.append("own")
        async with asyncq.scope(collect=True) as scope:
            await work.enqueue()
        return list(scope.outcomes)

    async with app, app.worker():
        client, id = app.client, new_id()
        envelope = client.follow_up(own.s(), id)[0].envelope
        await client.broker.publish([envelope])
        await until(lambda: runs == ["own", "work"])
        copy = msgspec.structs.replace(envelope, again=True)
        await client.broker.publish([copy, copy])
        await until(lambda: "another delivery of it runs here already" in caplog.text)
        is_free.set()
        assert await app.result(id).get(timeout=PATIENCE) == ["done"]
        await until(lambda: caplog.text.count("has an outcome already") == 2)
    assert runs == ["own", "work"]


async def test_an_owner_says_that_he_is_there_as_long_as_a_scope_is_open(app: App) -> None:
    @app.task(name="work")
    async def work(seconds: float) -> float:
        await anyio.sleep(seconds)
        return seconds

    async with app, app.worker():
        async with asyncq.scope(collect=True) as scope:
            await work.enqueue(2 * LEASE)
        assert scope.outcomes == [2 * LEASE]


async def test_names_that_other_hands_wrote_are_no_scopes(app: App) -> None:
    @app.task(name="work")
    async def work() -> str:
        return "done"

    odd: list[Any] = ["x", 7, [], ["a b"], [f"{new_id()} 1"] * 9, [b"\xff"], [[["deep"]]], None]
    async with app, app.worker():
        client = app.client
        for names in odd:
            assert names_in({SCOPE: names}) == ()
            envelope = client.follow_up(work.s(), new_id())[0].envelope
            headers = {SCOPE: names, "asyncq-begun": names}
            await client.broker.publish([msgspec.structs.replace(envelope, headers=headers)])
            assert await app.result(envelope.id).get(timeout=PATIENCE) == "done"
