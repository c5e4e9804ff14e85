"""The RabbitMQ driver keeps the contracts, as far as RabbitMQ can."""

import pytest

from asyncq.config import Url
from asyncq.testing.contracts import BrokerContract, ConsumerContract, DriverFixtures


class InRabbit(DriverFixtures):
    knows_ids = False
    has_priorities = False  # of a quorum queue
    gives_back_to_the_head = False
    hands_out_what_is_asked_for = False

    @pytest.fixture
    def url(self, rabbitmq_url: str) -> Url:
        return Url(f"{rabbitmq_url}?prefetch=1500")


class TestBroker(InRabbit, BrokerContract):
    pass


class TestConsumer(InRabbit, ConsumerContract):
    pass
