"""Slots: never more run than there are, and no queue starves another."""

import math
from typing import Any

import anyio
import pytest
from anyio import fail_after

from asyncq.app import App
from asyncq.client.gathering import gather
from asyncq.errors import ConfigurationError
from asyncq.worker.pool import Slots
from asyncq.worker.queues import parse_queues, show_queues
from tests.client.given import PATIENCE, Gate, until
from tests.worker.virtual import on_virtual_time, virtual_app


class Most:
    """How many run at a time, at most."""

    def __init__(self) -> None:
        self.now = 0
        self.most = 0

    def __enter__(self) -> None:
        self.now += 1
        self.most = max(self.most, self.now)

    def __exit__(self, *_: object) -> None:
        self.now -= 1


@pytest.mark.parametrize("concurrency", [1, 2, 7])
async def test_never_more_run_than_there_are_slots(app: App, concurrency: int) -> None:
    running = Most()

    async def work(n: int) -> int:
        with running:
            for _ in range(n % 4):
                await anyio.lowlevel.checkpoint()
        return n

    tasks = [app.task(name=f"work-{name}", queue=name)(work) for name in "abc"]
    async with app.worker(concurrency=concurrency):
        results = await app.enqueue_many(tasks[n % 3].s(n) for n in range(300))
        assert await gather(*results, timeout=PATIENCE) == list(range(300))

    assert 0 < running.most <= concurrency


@pytest.mark.parametrize("in_thread", [False, True])
async def test_all_slots_are_used(app: App, *, in_thread: bool) -> None:
    gate = Gate()
    running = Most()

    @app.task
    async def wait() -> None:
        with running:
            await gate.pass_through()

    @app.task
    def wait_plainly() -> None:
        anyio.from_thread.run(wait)

    async with app.worker(concurrency=9):
        task = wait_plainly if in_thread else wait
        results = await app.enqueue_many(task.s() for _ in range(30))
        await until(lambda: running.now == 9)
        gate.open()
        await gather(*results, timeout=PATIENCE)

    assert running.most == 9


@on_virtual_time
async def test_an_idle_queue_does_not_starve_a_busy_one() -> None:
    app = virtual_app()

    @app.task(queue="busy")
    async def work(n: int) -> int:
        return n

    async with app.worker(queues=["idle-1", "busy", "idle-2"], concurrency=1):
        with fail_after(1.0):  # less than an idle consumer waits
            for n in range(50):
                assert await (await work.enqueue(n)) == n


async def test_a_busy_queue_does_not_starve_another(app: App) -> None:
    order: list[str] = []

    async def work(name: str) -> None:
        order.append(name)
        await anyio.lowlevel.checkpoint()

    busy = app.task(name="busy", queue="busy")(work)
    rare = app.task(name="rare", queue="rare")(work)
    async with app:
        await app.enqueue_many(busy.s("busy") for _ in range(300))
        await app.enqueue_many(rare.s("rare") for _ in range(3))
        with fail_after(PATIENCE):
            await app.make_worker(queues=["busy", "rare"], concurrency=1, burst=True).run()

    assert order.index("rare") < 10
    assert order.count("rare") == 3
    assert max(n for n, name in enumerate(order) if name == "rare") < 50


async def test_a_delayed_message_waits_in_no_slot(app: App) -> None:
    @app.task
    async def work(n: int) -> int:
        return n

    async with app.worker(concurrency=1):
        await app.enqueue_many(work.options(delay=3600).s(n) for n in range(5))

        assert await (await work.enqueue(1)).get(timeout=PATIENCE) == 1


async def test_slots_taken_are_given_back() -> None:
    slots = Slots(3, {}, repr)

    assert slots.take(5) == 3
    assert slots.take(1) == 0
    slots.give(2)
    with fail_after(PATIENCE):
        await slots.wait_for_room()
    assert slots.take(5) == 2


async def test_a_queue_may_have_a_bound_beside_the_workers_own(app: App) -> None:
    running = {"mail": Most(), "other": Most()}
    gate = Gate()

    async def work(queue: str) -> None:
        with running[queue]:
            await gate.pass_through()

    tasks = [app.task(name=name, queue=name)(work) for name in running]
    async with app.worker(queues={"mail": 2, "other": None}, concurrency=6):
        results = await app.enqueue_many(task.s(task.name) for task in tasks for _ in range(20))
        await until(lambda: (running["mail"].now, running["other"].now) == (2, 4))
        gate.open()
        await gather(*results, timeout=PATIENCE)

    assert (running["mail"].most, running["other"].most <= 6) == (2, True)


async def test_who_waits_takes_no_slot_of_its_queue_either(app: App) -> None:
    @app.task(queue="family")
    async def generation(depth: int) -> int:
        return 1 + await (await generation.enqueue(depth - 1)) if depth else 0

    async with app.worker(queues={"family": 1, "default": None}, concurrency=8):
        results = [await generation.enqueue(3) for _ in range(5)]
        assert await gather(*results, timeout=PATIENCE) == [3] * 5


async def test_a_bound_above_the_workers_own_is_no_bound(app: App) -> None:
    @app.task(queue="mail")
    async def work() -> int:
        return 1

    async with app.worker(queues={"mail": 1000}, concurrency=2):
        results = await app.enqueue_many(work.s() for _ in range(50))
        assert await gather(*results, timeout=PATIENCE) == [1] * 50


@pytest.mark.parametrize("bound", [0, -1, "10", 1.5, True, math.nan])
async def test_a_bound_that_cannot_be_is_refused_by_its_queue(app: App, bound: Any) -> None:
    with pytest.raises(ConfigurationError, match="slots of queue mail is from 1"):
        async with app.worker(queues={"mail": bound}):
            pass


@pytest.mark.parametrize("queues", ["mail", [7], ["a b"], {"": 1}])
async def test_queues_that_cannot_be_are_refused(app: App, queues: Any) -> None:
    with pytest.raises(ConfigurationError, match="queue"):
        async with app.worker(queues=queues):
            pass


def test_queues_are_written_with_their_slots() -> None:
    queues = parse_queues(["mail:10", "default", "slow:1", "mail:3"])

    assert queues == {"mail": 3, "default": None, "slow": 1}
    assert show_queues(queues) == "mail:3, default, slow:1"


@pytest.mark.parametrize("text", ["mail:", "mail:0", "mail:-1", "mail:x", "mail:1:2", "mail:٣"])
def test_slots_that_cannot_be_written_say_what_can(text: str) -> None:
    with pytest.raises(ConfigurationError, match="as in --queue mail:10"):
        parse_queues([text])
