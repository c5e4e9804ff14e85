"""Tasks that wait for others lend their slot: parents and children never wait for each other."""

import asyncio
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import pytest

from asyncq.app import App
from asyncq.client.context import Context, find_context
from asyncq.client.gathering import as_completed, gather
from asyncq.client.result import Result
from asyncq.config import Config
from asyncq.language.message import new_id
from tests.client.given import PATIENCE, Gate, until

STORES = ["memory", "sqlite", "redis", "rabbitmq"]


@pytest.fixture
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    match request.param:
        case "sqlite":
            return f"sqlite:///{tmp_path}/waiting.db"
        case "redis":
            return f"{request.getfixturevalue('redis_url')}?prefix={new_id()}"
        case "rabbitmq":
            return str(request.getfixturevalue("rabbitmq_url"))
        case _:
            return f"memory://{new_id()}"


def new(url: str, **settings: Any) -> App:
    backend = f"memory://{new_id()}" if url.startswith("amqp") else None
    return App(url, backend=backend, config=Config(grace=1.0, **settings))


def family(app: App) -> Any:
    """A task with a child in the same queue, which has one, and so on."""
    queue = f"family-{new_id()}"

    @app.task(name="generation", queue=queue)
    async def generation(depth: int) -> int:
        if not depth:
            return 0
        return 1 + await (await generation.enqueue(depth - 1))

    return generation


@pytest.mark.parametrize("url", STORES, indirect=True)
@pytest.mark.parametrize(("slots", "depth"), [(1, 1), (2, 3)])
async def test_parents_wait_for_children_of_their_queue(url: str, slots: int, depth: int) -> None:
    app = new(url)
    generation = family(app)

    async with app.worker(concurrency=slots):
        results = [await generation.enqueue(depth) for _ in range(3)]
        values = await gather(*results, timeout=PATIENCE)

    assert values == [depth] * 3


@pytest.mark.parametrize("url", STORES, indirect=True)
async def test_a_hundred_parents_gather_three_children_each(url: str) -> None:
    app = new(url, max_waiting=100)
    queue = f"many-{new_id()}"

    @app.task(queue=queue)
    async def child(n: int) -> int:
        return n

    @app.task(queue=queue)
    async def parent() -> int:
        children = await app.enqueue_many(child.s(n) for n in range(3))
        return sum(await gather(*children))

    async with app.worker(concurrency=4):
        results = await app.enqueue_many(parent.s() for _ in range(100))
        assert await gather(*results, timeout=2 * PATIENCE) == [3] * 100


@pytest.mark.parametrize("url", STORES, indirect=True)
async def test_a_plain_function_waits_by_the_sync_client(url: str) -> None:
    app = new(url)
    if url.startswith(("memory", "amqp")):
        pytest.skip("its client is in another loop, and the store or the outcomes are not there")
    queue = f"plain-{new_id()}"

    @app.task(queue=queue)
    def child(n: int) -> int:
        return n + 1

    @app.task(queue=queue)
    def parent(n: int) -> int:
        with app.sync() as client:
            return client.enqueue(child.s(n)).get(timeout=PATIENCE)

    async with app.worker(concurrency=1):
        assert await (await parent.enqueue(1)).get(timeout=PATIENCE) == 2


async def test_a_burst_runs_children_that_its_parents_wait_for(app: App) -> None:
    generation = family(app)

    async with app:
        result = await generation.enqueue(3)
        with anyio.fail_after(PATIENCE):
            await app.make_worker(concurrency=1, burst=True).run()
        assert await result.get(timeout=PATIENCE) == 3


class Held:
    """Children that end when they are told, and how many slots are free meanwhile."""

    def __init__(self, app: App) -> None:
        self.gates: dict[str, Gate] = {}
        self.free: Callable[[], int] = lambda: 0

        @app.task(name="held", queue="held")
        async def held(name: str) -> str:
            await self.gates.setdefault(name, Gate()).pass_through()
            return name

        self.task = held

    def open(self, name: str) -> None:
        self.gates.setdefault(name, Gate()).open()


async def test_an_attempt_lends_one_slot_until_its_last_wait_is_over(app: App) -> None:
    held = Held(app)
    over: list[str] = []

    @app.task(queue="parents")
    async def parent() -> None:
        async def wait_for(name: str) -> None:
            await (await held.task.enqueue(name))
            over.append(name)

        async with asyncio.TaskGroup() as group:
            group.create_task(wait_for("a"))
            group.create_task(wait_for("b"))

    async with app.worker(queues=["parents", "held"], concurrency=5) as worker:
        slots = worker.slots
        result = await parent.enqueue()
        await until(lambda: len(held.gates) == 2)
        await until(lambda: slots.lent == 1)
        held.open("a")
        await until(lambda: over == ["a"])
        assert slots.lent == 1
        held.open("b")
        await result.get(timeout=PATIENCE)
        assert slots.lent == 0
        assert slots.threads.limiter.total_tokens == 5


async def test_nested_iteration_lends_once(app: App) -> None:
    held = Held(app)

    @app.task(queue="parents")
    async def parent() -> list[str]:
        values: list[str] = []
        async for done in as_completed([await held.task.enqueue("a")]):
            values.append(await done)
            inner: list[Result[str]] = [await held.task.enqueue("b")]
            values.extend([await again async for again in as_completed(inner)])
        return values

    async with app.worker(queues=["parents", "held"], concurrency=3) as worker:
        result = await parent.enqueue()
        for name in "ab":
            await until(lambda name=name: name in held.gates)
            await until(lambda: worker.slots.lent == 1)
            held.open(name)
        assert await result.get(timeout=PATIENCE) == ["a", "b"]
        assert worker.slots.lent == 0


async def test_beyond_the_bound_a_wait_keeps_its_slot_and_the_log_names_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    app = new(f"memory://{new_id()}", max_waiting=1)
    held = Held(app)

    @app.task(queue="parents")
    async def parent(name: str) -> str:
        return await (await held.task.enqueue(name))

    async with app.worker(queues=["parents", "held"], concurrency=4) as worker:
        first = await parent.enqueue("a")
        await until(lambda: worker.slots.lent == 1)
        second = await parent.enqueue("b")
        await until(lambda: "b" in held.gates)
        await until(lambda: any("max_waiting" in line for line in caplog.messages))
        assert worker.slots.lent == 1
        held.open("a")
        assert await first.get(timeout=PATIENCE) == "a"
        await until(lambda: worker.slots.lent == 1)  # now the other may
        held.open("b")
        assert await second.get(timeout=PATIENCE) == "b"

    [line] = [line for line in caplog.messages if "max_waiting" in line]
    assert second.id in line
    assert parent.name in line


async def test_who_comes_back_goes_on_at_once_and_more_do_not_start_meanwhile(app: App) -> None:
    held, gate = Held(app), Gate()
    running: list[str] = []

    @app.task(queue="parents")
    async def parent() -> None:
        await (await held.task.enqueue("child"))
        running.append("parent")
        await gate.pass_through()

    @app.task(queue="parents")
    async def other(n: int) -> None:
        running.append(f"other {n}")
        await gate.pass_through()

    async with app.worker(queues=["parents", "held"], concurrency=2) as worker:
        first = await parent.enqueue()
        await until(lambda: "child" in held.gates)
        others = [await other.enqueue(n) for n in range(3)]
        await until(lambda: "other 0" in running)
        held.open("child")
        await until(lambda: "parent" in running)
        assert worker.slots.free <= 0
        gate.open()
        await gather(first, *others, timeout=PATIENCE)
        await until(lambda: worker.slots.free == 2)


async def test_a_wait_in_another_thread_and_loop_lends_too(app: App) -> None:
    held = Held(app)

    @app.task(queue="parents")
    def parent() -> bool:
        context = find_context()
        assert context is not None
        seen = threading.Event()

        async def wait() -> None:
            from asyncq.client.context import waiting_for

            with waiting_for("something"):
                await anyio.to_thread.run_sync(seen.wait)

        timer = threading.Timer(0.2, seen.set)
        timer.start()
        asyncio.run(wait())
        return True

    async with app.worker(queues=["parents", "held"], concurrency=1) as worker:
        held.open("x")
        result = await parent.enqueue()
        await until(lambda: worker.slots.lent == 1)
        assert await result.get(timeout=PATIENCE)
        await until(lambda: worker.slots.lent == 0)


async def test_a_wait_that_times_out_has_its_slot_again(app: App) -> None:
    held = Held(app)

    @app.task(queue="parents")
    async def parent(ctx: Context) -> str:
        try:
            return await (await held.task.enqueue(ctx.id)).get(timeout=0.01)
        except TimeoutError:
            return "too late"

    async with app.worker(queues=["parents", "held"], concurrency=2) as worker:
        result = await parent.enqueue()
        assert await result.get(timeout=PATIENCE) == "too late"
        assert worker.slots.lent == 0
        held.open(result.id)
