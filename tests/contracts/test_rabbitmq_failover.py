"""Two RabbitMQs behind one app whose outcomes are told through them, and the first goes away."""

from contextlib import suppress

import anyio
import pytest
from anyio import fail_after

from asyncq import App, UnknownResult
from tests.client.given import Gate, until
from tests.contracts.rabbit_given import PATIENCE
from tests.faults.lab.proxy import Cut, start_proxy
from tests.servers import RabbitServer


async def test_who_waits_for_an_outcome_of_the_first_hears_that_it_is_out_of_reach(
    rabbitmq_server: RabbitServer, rabbitmq_url: str
) -> None:
    gate = Gate()
    vhost = rabbitmq_url.rpartition("/")[2]
    with rabbitmq_server.new_vhost() as second, start_proxy(rabbitmq_server.port) as proxy:
        app = App([rabbitmq_server.url_of(vhost, proxy.port), second])

        @app.task
        async def wait() -> int:
            await gate.pass_through()
            return 1

        @app.task
        async def double(n: int) -> int:
            return 2 * n

        told, values = list[UnknownResult](), list[int]()

        async def hear(result_of: str) -> None:
            with pytest.raises(UnknownResult) as caught:
                await app.result(result_of)
            told.append(caught.value)

        with fail_after(3 * PATIENCE):
            async with app, app.worker(grace=0.1):
                assert await (await double.enqueue(2)).get(timeout=PATIENCE) == 4
                in_flight = await wait.enqueue()
                await gate.until_reached()
                async with anyio.create_task_group() as group:
                    group.start_soon(hear, in_flight.id)
                    waiting = app.client._waiters._waiting  # pyright: ignore[reportPrivateUsage]
                    await until(lambda: in_flight.id in waiting)
                    proxy.switch(Cut())

                    while not values:  # what ends before the second is listened to is lost, too
                        with suppress(UnknownResult):
                            values.append(await (await double.enqueue(3)).get(timeout=PATIENCE))
        assert values == [6]
        assert "what was told meanwhile is lost" in str(told[0])
