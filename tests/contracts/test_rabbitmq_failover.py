"""Two RabbitMQs behind one app whose outcomes are told through them, and the first goes away."""

from contextlib import suppress

import anyio
import pytest
from anyio import fail_after

from asyncq import App, BrokerUnavailable, UnknownResult
from asyncq.clock import SystemClock
from asyncq.config import Url
from asyncq.drivers.hosts import Hosts
from asyncq.drivers.rabbitmq.broker import RabbitBroker
from asyncq.drivers.table import make_broker
from asyncq.language.envelope import Envelope
from asyncq.language.topology import Binding, Exchange, Queue
from tests.client.given import Gate, until
from tests.contracts.rabbit_given import PATIENCE, envelope
from tests.faults.lab.proxy import Blackhole, Cut, start_proxy
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
                    waiting = app.client.waiters._waiting  # pyright: ignore[reportPrivateUsage]
                    await until(lambda: in_flight.id in waiting)
                    proxy.switch(Cut())

                    while not values:  # what ends before the second is listened to is lost, too
                        with suppress(UnknownResult):
                            values.append(await (await double.enqueue(3)).get(timeout=PATIENCE))
        assert values == [6]
        assert "what was told meanwhile is lost" in str(told[0])


@pytest.mark.parametrize("mode", [Cut(), Blackhole()])
async def test_what_is_bound_in_the_first_is_bound_in_the_second_as_well(
    rabbitmq_server: RabbitServer, rabbitmq_url: str, mode: Cut | Blackhole
) -> None:
    news = Exchange("news", "fanout")
    vhost = rabbitmq_url.rpartition("/")[2]
    with rabbitmq_server.new_vhost() as second, start_proxy(rabbitmq_server.port) as proxy:
        urls = [Url(rabbitmq_server.url_of(vhost, proxy.port)), Url(second)]
        async with make_broker(Hosts(urls), SystemClock()) as broker:
            assert isinstance(broker, RabbitBroker)
            await broker.declare([Queue("mail", bindings=[Binding(news)])])
            await broker.publish([envelope(queue="", exchange="news")])
            await broker.publish([envelope(queue="other", eta=1.0)])
            proxy.switch(mode)

            with fail_after(PATIENCE):
                await _until_it_is_there(broker, envelope(queue="", exchange="news"))
                await _until_it_is_there(broker, envelope(queue="other"))

            assert (await broker.depth("mail")).ready == 1
            assert (await broker.depth("other")).ready == 1


async def _until_it_is_there(broker: RabbitBroker, sent: Envelope) -> None:
    while True:
        with suppress(BrokerUnavailable):
            await broker.publish([sent])
            return
        await anyio.sleep(0.05)
