"""Outcomes as messages: who sent a task hears of it, and nobody else."""

import pytest

from asyncq import App, Status, TaskFailed, gather
from asyncq.backends.rpc import RpcBackend
from asyncq.clock import SystemClock
from asyncq.config import Url
from asyncq.message import new_id
from asyncq.testing.contracts.given import hear, record


@pytest.fixture
async def backend(rabbitmq_url: str) -> RpcBackend:
    return RpcBackend(Url(rabbitmq_url), SystemClock())


async def test_the_sender_of_a_task_hears_of_its_outcome(rabbitmq_url: str) -> None:
    app = App(rabbitmq_url)

    @app.task
    async def double(number: int) -> int:
        return number * 2

    @app.task
    async def fail() -> None:
        raise ValueError("no")

    async with app, app.worker():
        results = await app.enqueue_many(double.s(n) for n in range(200))
        assert await gather(*results, timeout=20) == [n * 2 for n in range(200)]
        with pytest.raises(TaskFailed, match="ValueError: no"):
            await (await fail.enqueue()).get(timeout=20)


async def test_who_did_not_send_it_knows_nothing(rabbitmq_url: str) -> None:
    async with App(rabbitmq_url) as app:
        assert await app.result(new_id()).status() is Status.UNKNOWN


async def test_records_are_pushed_to_the_address_they_are_for(backend: RpcBackend) -> None:
    mine = [record(new_id(), number, reply_to="me") for number in range(500)]
    async with backend, backend.watch("me") as watch, backend.watch("you") as other:
        await backend.store_records([*mine, record(new_id(), reply_to="you"), record(new_id())])

        assert await hear(watch, 500) == mine
        assert len(await hear(other, 1)) == 1


async def test_what_comes_while_a_client_is_cut_off_is_there_when_it_is_back(
    backend: RpcBackend,
) -> None:
    kept = record(new_id(), reply_to="me")
    async with backend:
        async with backend.watch("me"):
            pass
        await backend.store_records([kept])
        async with backend.watch("me") as watch:
            assert await hear(watch, 1) == [kept]


async def test_a_client_that_is_gone_keeps_nobody_from_storing(backend: RpcBackend) -> None:
    async with backend:
        await backend.store_records([record(new_id(), reply_to="nobody")])
