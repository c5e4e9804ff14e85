"""Suspects that wait for suspects: the parent lends its place in quarantine, as its slot."""

from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from anyio import to_thread

from asyncq.app import App
from asyncq.config import Config
from asyncq.language.message import new_id
from asyncq.seams.broker import Lease, QueueSpec
from asyncq.seams.quarantine import Quarantine
from asyncq.worker import loans
from tests.client.given import PATIENCE

STORES = ["memory", "sqlite", "redis"]  # on RabbitMQ no worker is lost without its connection


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loans, "QUARANTINE_PATIENCE", 0.05)


@pytest.fixture(params=STORES)
def app(request: pytest.FixtureRequest, tmp_path: Path) -> App:
    urls = {
        "memory": lambda: f"memory://{new_id()}",
        "sqlite": lambda: f"sqlite:///{tmp_path}/q.db",
    }
    url = urls.get(
        request.param, lambda: f"{request.getfixturevalue('redis_url')}?prefix={new_id()}"
    )()
    return App(url, config=Config(grace=1.0, max_crashes=3))


async def outlive(app: App, workers: int, *queues: str) -> None:
    """Have so many workers die that hold all there is in these queues."""
    store: Any = app.client.broker
    leased = app.client.broker.offers.leases
    assert leased is not None
    renewer = leased.renewer()
    for _ in range(workers):
        lease = Lease(new_id(), 15.0, Quarantine(alone_from=100))
        async with AsyncExitStack() as stack:
            for queue in queues:
                consumer = await stack.enter_async_context(
                    store.consume(QueueSpec(queue, 10), lease)
                )
                assert await consumer.receive(10)
            await to_thread.run_sync(renewer.release, lease.incarnation, queues)
    renewer.close()


@pytest.mark.parametrize("queue", ["family", "other"])
async def test_a_parent_at_its_last_chance_waits_for_a_child_at_its_last_chance(
    app: App, queue: str
) -> None:
    @app.task(name="child", queue=queue)
    async def child() -> int:
        return 7

    @app.task(name="parent", queue="family")
    async def parent() -> int:
        return await child.result("the-child")

    async with app:
        result = await parent.enqueue()
        await child.options(id="the-child").enqueue()
        await outlive(app, 2, *dict.fromkeys(["family", queue]))

        async with app.worker():
            assert await result.get(timeout=PATIENCE) == 7
