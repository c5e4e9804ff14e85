"""What tests need from outside: servers, found or started, or a reason why there is none.

ASYNCQ_TEST_REDIS_URL      a server to use, instead of starting one
ASYNCQ_TEST_RABBITMQ_URL   likewise: a vhost that the tests may fill
ASYNCQ_TEST_REQUIRE        names what must be there ("redis,rabbitmq"): missing, its tests fail
"""

import os
import signal
from collections.abc import Iterator

import pytest
from hypothesis import settings

from tests.servers import RabbitServer, ServerMissing, start_rabbitmq, start_redis
from tests.servers.required import give_up

pytest.register_assert_rewrite("asyncq.testing.contracts")

# What an example takes says how busy the machine is, and nothing of us.
settings.register_profile("asyncq", deadline=None)
settings.load_profile("asyncq")

# A job in a shell's background ignores Ctrl-C, and so would every process that a test starts.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a Redis server that all tests share: each takes a prefix of its own."""
    given = os.environ.get("ASYNCQ_TEST_REDIS_URL")
    if given:
        yield given
        return
    try:
        running = start_redis(tmp_path_factory.mktemp("redis"), "--appendonly", "no")
        with running as server:
            yield server.url
    except ServerMissing as missing:
        give_up("redis", missing)


@pytest.fixture(scope="session")
def rabbitmq_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RabbitServer]:
    """A RabbitMQ node that all tests share: nobody ends it, each takes a vhost of its own."""
    try:
        with start_rabbitmq(tmp_path_factory.mktemp("rabbitmq")) as server:
            yield server
    except ServerMissing as missing:
        give_up("rabbitmq", missing)


@pytest.fixture
def rabbitmq_url(request: pytest.FixtureRequest) -> Iterator[str]:
    """The URL of an empty vhost. Of a server elsewhere, all tests get the one that was named."""
    given = os.environ.get("ASYNCQ_TEST_RABBITMQ_URL")
    if given:
        yield given
        return
    server: RabbitServer = request.getfixturevalue("rabbitmq_server")
    with server.new_vhost() as url:
        yield url
