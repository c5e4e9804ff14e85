"""A lease that ends each time before it was of use: the next one comes later and later."""

import itertools
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import anyio
import pytest

from asyncq.drivers.memory.broker import MemoryBroker
from asyncq.errors import LeaseLost
from asyncq.seams.broker import Consumer, Lease, QueueSpec
from tests.worker.virtual import on_virtual_time, virtual_app


@on_virtual_time
async def test_what_ends_every_lease_at_once_is_not_tried_without_pause() -> None:
    app, leases = virtual_app(), list[float]()

    @app.task
    async def task() -> None: ...

    @asynccontextmanager
    async def consume(
        broker: MemoryBroker, queue: QueueSpec, lease: Lease
    ) -> AsyncGenerator[Consumer]:
        leases.append(anyio.current_time())
        await anyio.sleep(0.001)
        raise LeaseLost(lease.incarnation, "by what came in")
        yield

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MemoryBroker, "consume", consume)
        async with app, anyio.create_task_group() as group:
            group.start_soon(app.make_worker().run)
            await anyio.sleep(60.0)
            group.cancel_scope.cancel()

    pauses = [later - sooner for sooner, later in itertools.pairwise(leases)]
    assert 6 <= len(leases) <= 12
    assert pauses[0] < 0.2  # once is no reason to wait
    assert pauses[-1] > 10.0
