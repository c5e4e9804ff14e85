"""Limits of an operator: what goes over one waits or is refused, and is told as what it is."""

from urllib.parse import urlsplit

import pytest

from asyncq.clock import SystemClock
from asyncq.config import Url
from asyncq.drivers.rabbitmq.broker import RabbitBroker
from asyncq.errors import BrokerUnavailable, QueueUnavailable
from tests.contracts.rabbit_given import broker, envelope
from tests.servers import RabbitServer

__all__ = ["broker"]  # a fixture


class Limits:
    """Those of a vhost, as a test sets them."""

    def __init__(self, server: RabbitServer, url: str) -> None:
        self._server = server
        self._vhost = urlsplit(url).path[1:]

    def set(self, limits: str) -> None:
        self._server.evaluate(
            f'rabbit_vhost_limit:parse_set(<<"{self._vhost}">>, <<"{limits}">>, <<"tests">>)'
        )


@pytest.fixture
def limits(rabbitmq_url: str, rabbitmq_server: RabbitServer) -> Limits:
    return Limits(rabbitmq_server, rabbitmq_url)


async def test_a_limit_of_connections_is_waited_for_and_said_to_be_one(
    rabbitmq_url: str, limits: Limits
) -> None:
    limits.set('{\\"max-connections\\": 0}')

    with pytest.raises(BrokerUnavailable, match=r"limit .0. is reached.*set_vhost_limits") as no:
        async with RabbitBroker(Url(rabbitmq_url), SystemClock()):
            pass

    assert "set_permissions" not in str(no.value)
    limits.set('{\\"max-connections\\": -1}')
    async with RabbitBroker(Url(rabbitmq_url), SystemClock()):
        pass


async def test_a_limit_of_queues_costs_the_queue_that_is_too_many_alone(
    broker: RabbitBroker, limits: Limits
) -> None:
    await broker.publish([envelope(queue="mail")])
    limits.set('{\\"max-queues\\": 3}')

    with pytest.raises(QueueUnavailable, match=r"queue other cannot be made.*is reached") as no:
        await broker.publish([envelope(queue="other")])
    await broker.publish([envelope(queue="mail")])

    assert "otherwise" not in str(no.value)
    limits.set('{\\"max-queues\\": -1}')
    await broker.publish([envelope(queue="other")])
    assert (await broker.depth("other")).ready == 1
