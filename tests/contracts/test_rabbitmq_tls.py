"""RabbitMQ behind TLS: who is trusted, and who is not."""

import re
from pathlib import Path
from typing import NamedTuple

import pytest

from asyncq.clock import SystemClock
from asyncq.config import Url
from asyncq.drivers.rabbitmq.broker import RabbitBroker
from asyncq.errors import ConfigurationError
from asyncq.language.envelope import Envelope
from asyncq.language.message import new_id
from asyncq.seams.broker import Ack, Lease, QueueSpec
from asyncq.testing.contracts import BrokerContract
from asyncq.testing.contracts.given import take
from tests.contracts.test_rabbitmq import InRabbit
from tests.servers import RabbitServer, free_port
from tests.servers.certificates import write_certificates

NAMES = ["127.0.0.1"]


class Door(NamedTuple):
    """A port that takes TLS alone, and who has signed for it."""

    url: str
    authority: Path


def open_door(server: RabbitServer, vhost_url: str, directory: Path, *names: str) -> Door:
    """Let the node listen with a certificate for these names, signed by an authority of our own."""
    chain, key, authority = write_certificates(directory, *names)
    port = free_port()
    server.evaluate(
        "{ok, _} = application:ensure_all_started(ssl),"
        f'ok = rabbit_networking:start_ssl_listener({{"127.0.0.1", {port}}},'
        f' [{{certfile, "{chain}"}}, {{keyfile, "{key}"}}], 1)'
    )
    return Door(re.sub(r"^amqp://(.*):\d+/", rf"amqps://\1:{port}/", vhost_url), authority)


@pytest.fixture
def door(rabbitmq_server: RabbitServer, rabbitmq_url: str, tmp_path: Path) -> Door:
    return open_door(rabbitmq_server, rabbitmq_url, tmp_path, *NAMES)


async def carry(url: str) -> None:
    """Send one message, and take and settle it."""
    queue = QueueSpec("mail", prefetch=1)
    async with RabbitBroker(Url(url), SystemClock()) as broker:
        await broker.publish([Envelope(id="1", queue="mail", body=b"sealed")])
        async with broker.consume(queue, Lease(new_id(), 15.0)) as consumer:
            [delivery] = await take(consumer, 1)
            assert not await consumer.settle([Ack(delivery)])
    assert delivery.envelope.body == b"sealed"


async def test_messages_travel_encrypted_where_the_authority_is_named(door: Door) -> None:
    await carry(f"{door.url}?cafile={door.authority}")


async def test_a_certificate_of_an_unknown_authority_is_refused(door: Door) -> None:
    with pytest.raises(
        ConfigurationError, match=r"do not trust.*name its authority with \?cafile="
    ):
        await carry(door.url)


async def test_a_certificate_for_another_host_is_refused(
    rabbitmq_server: RabbitServer, rabbitmq_url: str, tmp_path: Path
) -> None:
    door = open_door(rabbitmq_server, rabbitmq_url, tmp_path, "elsewhere.example")

    with pytest.raises(ConfigurationError, match=r"not valid for '127\.0\.0\.1'"):
        await carry(f"{door.url}?cafile={door.authority}")


async def test_any_certificate_is_taken_by_who_asks_for_that(door: Door) -> None:
    await carry(f"{door.url}?verify=no")


async def test_an_authority_that_cannot_be_read_is_named() -> None:
    with pytest.raises(ConfigurationError, match="certificates cannot be read"):
        RabbitBroker(Url("amqps://localhost?cafile=/nowhere.pem"), SystemClock())


class TestBroker(InRabbit, BrokerContract):
    scheme = "amqps"

    @pytest.fixture
    def url(self, door: Door) -> Url:
        return Url(f"{door.url}?cafile={door.authority}&prefetch=1500")
