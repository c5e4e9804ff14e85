"""One app, several brokers: each queue has one, and a worker serves them all."""

import logging
from pathlib import Path

import anyio
import pytest
from anyio import fail_after

from asyncq.app import App
from asyncq.client.context import Context
from asyncq.client.gathering import gather
from asyncq.config import Config
from asyncq.drivers.redis.backend import RedisBackend
from asyncq.errors import BrokerUnavailable, TaskFailed
from asyncq.language.message import Status, new_id
from asyncq.language.topology import Binding, Exchange, Queue
from tests.client.given import PATIENCE, Gate
from tests.servers import start_redis

NEWS = Exchange("news", "fanout")
EU = Queue("eu", broker="file", bindings=[Binding(NEWS)])
HERE = Queue("here", bindings=[Binding(NEWS)])


@pytest.fixture
def app(redis_url: str, tmp_path: Path) -> App:
    """Redis by default, SQLite for the queue named eu; outcomes in Redis."""
    brokers = {"default": f"{redis_url}?prefix={new_id()}", "file": f"sqlite:///{tmp_path}/q.db"}
    return App(brokers=brokers, queues=[HERE, EU], config=Config(grace=1.0))


async def test_a_worker_runs_what_all_its_brokers_have(app: App) -> None:
    @app.task(queue="eu")
    async def there(n: int) -> int:
        return n

    @app.task
    async def here(n: int) -> int:
        return -n

    @app.task(queue="eu")
    async def fail() -> None:
        raise ValueError("there")

    async with app, app.worker():
        calls = [task.s(n) for n in range(200) for task in (there, here)]
        results = await app.enqueue_many(calls)
        values = await gather(*results, timeout=PATIENCE)
        with pytest.raises(TaskFailed, match="there"):
            await (await fail.enqueue()).get(timeout=PATIENCE)
        again = await app.result(results[0].id).get(timeout=PATIENCE)

    assert values == [n * sign for n in range(200) for sign in (1, -1)]
    assert again == 0


async def test_messages_are_where_their_queue_is_and_are_found_there(app: App) -> None:
    @app.task
    async def task() -> None: ...

    async with app:
        here = await task.enqueue()
        there = await task.options(queue="eu").enqueue()
        others, queues = app.client.brokers, app.queues

        assert await here.status() is await there.status() is Status.QUEUED
        assert isinstance(app.client.backend, RedisBackend)
        assert (await queues.depth("eu")).ready == (await queues.depth("default")).ready == 1
        assert list(await queues.list()) == ["default", "eu"]
        assert app.client.broker is others["default"]
        assert await queues.purge("eu") == 1
        assert await there.status() is Status.UNKNOWN


async def test_a_fanout_reaches_the_queues_of_every_broker(app: App) -> None:
    seen: list[str] = []

    @app.task(exchange="news")
    async def read(ctx: Context) -> str:
        seen.append(ctx.queue)
        return ctx.id

    async with app, app.worker():
        result = await read.enqueue()
        assert await result.get(timeout=PATIENCE) == result.id
        copy = app.result(f"{result.id}@eu")
        assert await copy.get(timeout=PATIENCE) == copy.id

    assert sorted(seen) == ["eu", "here"]


async def test_a_burst_ends_when_no_broker_has_anything_left(app: App) -> None:
    ran: list[str] = []

    @app.task
    async def run(ctx: Context) -> None:
        ran.append(ctx.queue)

    async with app:
        for queue in ("eu", "here", "default"):
            await app.enqueue_many(run.options(queue=queue).s() for _ in range(150))
        with fail_after(PATIENCE):
            await app.make_worker(burst=True).run()

    assert sorted(ran) == ["default"] * 150 + ["eu"] * 150 + ["here"] * 150


async def test_all_brokers_share_the_slots(app: App) -> None:
    running, most = 0, 0

    async def work() -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        for _ in range(5):
            await anyio.lowlevel.checkpoint()
        running -= 1

    tasks = [app.task(name=queue, queue=queue)(work) for queue in ("here", "eu")]
    async with app, app.worker(concurrency=3):
        results = await app.enqueue_many(tasks[n % 2].s() for n in range(200))
        await gather(*results, timeout=PATIENCE)

    assert 0 < most <= 3


async def test_a_worker_consumes_only_the_queues_it_is_told(app: App) -> None:
    @app.task
    async def task() -> None: ...

    async with app, app.worker(queues=["eu"]):
        await (await task.options(queue="eu").enqueue()).get(timeout=PATIENCE)
        waiting = await task.enqueue()

        assert await waiting.status() is Status.QUEUED


async def test_one_broker_that_is_away_holds_nobody_up_in_the_others(
    redis_url: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    gate = Gate()
    with start_redis(tmp_path) as server:
        app = App(
            brokers={"default": f"{redis_url}?prefix={new_id()}", "away": server.url},
            queues=[Queue("away", broker="away")],
            config=Config(grace=1.0, lease=0.9, publish_timeout=0.2),
        )

        @app.task
        async def wait() -> str:
            await gate.pass_through()
            return "ran through"

        @app.task
        async def echo(n: int) -> int:
            return n

        async with app, app.worker():
            slow = await wait.enqueue()
            await gate.until_reached()
            server.kill()
            with pytest.raises(BrokerUnavailable):
                await echo.options(queue="away").enqueue(1)
            results = await app.enqueue_many(echo.s(n) for n in range(50))
            assert await gather(*results, timeout=PATIENCE) == list(range(50))

            server.start()  # with nothing in it: the lease there is lost
            result = None
            with fail_after(PATIENCE):
                while result is None:
                    try:
                        result = await echo.options(queue="away").enqueue(2)
                    except BrokerUnavailable:
                        continue
                assert await result == 2
            gate.open()
            assert await slow.get(timeout=PATIENCE) == "ran through"

    assert caplog.text.count("lost its lease: restarting under a new one") == 1
