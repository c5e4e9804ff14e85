"""What is too large for RabbitMQ: refused for its sender, with size, limit and remedy."""

from collections.abc import Iterator

import anyio
import pytest
from anyio import fail_after
from anyio.lowlevel import checkpoint

from asyncq import App, Binding, Config, Exchange, MessageTooLarge, Queue, Retry, TaskFailed, gather
from tests.contracts.rabbit_given import PATIENCE
from tests.servers import RabbitServer

LIMIT = 100_000  # bytes
LARGE = Config(max_message_size=10 * LIMIT, max_result_size=10 * LIMIT)


@pytest.fixture
def narrow_server(rabbitmq_server: RabbitServer) -> Iterator[RabbitServer]:
    """It takes messages of ``LIMIT`` bytes; those that are connected keep the limit they found."""
    before = rabbitmq_server.evaluate("application:get_env(rabbit, max_message_size, 134217728)")
    set_limit = "application:set_env(rabbit, max_message_size, {})"
    rabbitmq_server.evaluate(set_limit.format(LIMIT))
    yield rabbitmq_server
    rabbitmq_server.evaluate(set_limit.format("".join(filter(str.isdigit, before))))


async def test_a_message_too_large_for_rabbitmq_is_refused_and_its_neighbours_are_sent(
    narrow_server: RabbitServer, rabbitmq_url: str
) -> None:
    app = App(rabbitmq_url, config=LARGE)

    @app.task(queue="mail")
    async def measure(data: bytes) -> int:
        return len(data)

    large = bytes(2 * LIMIT)
    refusals = list[MessageTooLarge]()
    sizes = list[int]()

    async def send(data: bytes) -> None:
        try:
            sizes.append(await (await measure.enqueue(data)).get(timeout=PATIENCE))
        except MessageTooLarge as error:
            refusals.append(error)

    with fail_after(2 * PATIENCE):
        async with app, app.worker():
            async with anyio.create_task_group() as group:
                for size in (1, 2 * LIMIT, 2, 3 * LIMIT, 3):
                    group.start_soon(send, bytes(size))
            with pytest.raises(MessageTooLarge):
                await measure.enqueue(large)
            assert await (await measure.enqueue(b"4444")).get(timeout=PATIENCE) == 4

    assert sorted(sizes) == [1, 2, 3]
    assert sorted(each.size // LIMIT for each in refusals) == [2, 3]
    for refusal in refusals:
        assert refusal.limit == LIMIT
        assert f"bytes and the limit is {LIMIT}" in str(refusal)
        assert "raise RabbitMQ's max_message_size" in str(refusal)


async def test_outcomes_too_large_for_rabbitmq_fail_and_their_neighbours_are_told(
    narrow_server: RabbitServer, rabbitmq_url: str
) -> None:
    app = App(rabbitmq_url, config=LARGE)

    @app.task(queue="mail")
    async def make(size: int) -> bytes:
        return bytes(size)

    with fail_after(2 * PATIENCE):
        async with app, app.worker():
            # Each would do, and not all of them in one message.
            many = await app.enqueue_many(make.s(LIMIT // 2) for _ in range(20))
            large = await make.enqueue(2 * LIMIT)
            assert {len(each) for each in await gather(*many)} == {LIMIT // 2}
            with pytest.raises(TaskFailed, match=r"ResultTooLarge.*max_message_size in rabbitmq"):
                await large
            assert await (await make.enqueue(3)).get(timeout=PATIENCE) == bytes(3)


async def test_a_message_that_just_fits_fails_and_is_tried_again_like_any_other(
    narrow_server: RabbitServer, rabbitmq_url: str
) -> None:
    app = App(rabbitmq_url, config=LARGE)
    runs = list[int]()

    @app.task(queue="mail", retry=Retry(times=1, base=0.0))
    async def fail(data: bytes) -> None:
        runs.append(len(data))
        raise ValueError("no " * 200)

    with fail_after(2 * PATIENCE):
        async with app, app.worker():
            for spare in (200, 150):
                with pytest.raises(TaskFailed, match="ValueError: no no"):
                    await (await fail.enqueue(bytes(LIMIT - spare - len(fail.name)))).get()
            while (await app.queues.depth("mail")).dead < 2:
                await checkpoint()

    assert len(runs) == 4


async def test_headers_too_large_for_a_frame_are_refused_and_their_neighbours_are_sent(
    rabbitmq_url: str,
) -> None:
    queue = Queue("mail", bindings=[Binding(Exchange("events", "fanout"))])
    app = App(rabbitmq_url, queues=[queue])

    @app.task
    async def answer() -> int:
        return 42

    with fail_after(2 * PATIENCE):
        async with app, app.worker(queues=["mail"]), anyio.create_task_group() as group:

            async def fail() -> None:
                large = {"note": "x" * 140_000}
                with pytest.raises(MessageTooLarge, match=r"header table .* frame_max"):
                    await answer.options(exchange="events", headers=large).enqueue()

            async def succeed() -> None:
                assert (
                    await (await answer.options(exchange="events").enqueue()).get(timeout=PATIENCE)
                    == 42
                )

            for each in (succeed, fail, succeed):
                group.start_soon(each)
