"""RabbitMQ from several event loops of one process: each has a connection of its own."""

import asyncio

import anyio
import anyio.to_thread
from anyio import fail_after

from asyncq.app import App
from asyncq.client.result import Result
from asyncq.language.message import new_id
from tests.client.given import PATIENCE


async def test_a_second_loop_works_beside_the_first(rabbitmq_url: str) -> None:
    app = App(rabbitmq_url)

    @app.task
    async def add(x: int) -> int:
        return x + 1

    async def ask() -> int:
        async with app:
            return await (await add.enqueue(1)).get(timeout=PATIENCE)

    with fail_after(3 * PATIENCE):
        async with app.worker():
            for _ in range(2):
                assert await anyio.to_thread.run_sync(asyncio.run, ask()) == 2
            assert await (await add.enqueue(2)).get(timeout=PATIENCE) == 3


async def test_a_handle_is_awaited_where_outcomes_are_kept(rabbitmq_url: str) -> None:
    app = App(rabbitmq_url, backend=f"memory://{new_id()}")

    @app.task
    async def one() -> int:
        return 1

    async def wait(result: Result[int]) -> int:
        async with app:
            return await result.get(timeout=PATIENCE)

    with fail_after(3 * PATIENCE):
        async with app.worker():
            result = await one.enqueue()
            assert await anyio.to_thread.run_sync(asyncio.run, wait(result)) == 1
