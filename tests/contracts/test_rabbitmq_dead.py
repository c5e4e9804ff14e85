"""RabbitMQ's queues of dead letters: how they are bounded, and that old ones do no harm."""

import logging
from typing import Any

import pamqp.commands as amqp
import pytest

from asyncq.app import App
from asyncq.brokers.base import Lease, QueueSpec, Reject
from asyncq.brokers.dead import DeadLimits
from asyncq.brokers.rabbitmq import RabbitBroker, names
from asyncq.brokers.rabbitmq.post import Post
from asyncq.clock import SystemClock
from asyncq.config import Url
from asyncq.errors import ConfigurationError
from asyncq.message import new_id
from tests.contracts.rabbit_given import ask, envelope, letters_of, post, take

__all__ = ["post"]


async def test_dead_letters_that_are_bounded_otherwise_are_kept_as_they_are(
    rabbitmq_url: str, post: Post, caplog: pytest.LogCaptureFixture
) -> None:
    quorum: dict[str, Any] = {"x-queue-type": "quorum"}
    await ask(post, amqp.Queue.Declare(queue="mail:dead", durable=True, arguments=quorum))

    async with RabbitBroker(Url(rabbitmq_url), SystemClock(), DeadLimits(1, 60.0)) as broker:
        await broker.publish([envelope(), envelope()])
        async with broker.consume(QueueSpec("mail", 10), Lease(new_id(), 15.0)) as consumer:
            await consumer.settle([Reject(each, "bad") for each in await take(consumer, 2)])

        letters = await letters_of(broker, 2)

    assert len(letters) == 2
    [line] = [each for each in caplog.records if "keeps its bounds" in each.getMessage()]
    assert line.levelno == logging.WARNING
    assert "mail:dead" in line.getMessage()


def test_what_is_to_be_kept_for_longer_than_rabbitmq_can_count_has_no_end() -> None:
    month = names.dead_method("mail", DeadLimits(10, 30 * 86400.0)).arguments
    year = names.dead_method("mail", DeadLimits(10, 365 * 86400.0)).arguments

    assert (month["x-max-length"], month["x-message-ttl"]) == (10, 30 * 86400 * 1000)
    assert "x-message-ttl" not in year


async def test_rabbitmq_cannot_show_messages_without_taking_them(rabbitmq_url: str) -> None:
    async with App(rabbitmq_url) as app:
        with pytest.raises(ConfigurationError, match="cannot show messages without taking them"):
            await app.client.operator.peek("default")
