"""The Redis drivers keep the contracts over a Unix socket, too: ``unix://``."""

from collections.abc import Iterator

import pytest

from asyncq.config import Url
from asyncq.language.message import new_id
from asyncq.testing.contracts import BackendContract, BrokerContract, DriverFixtures
from tests.servers import ServerMissing, start_redis
from tests.servers.required import give_up


@pytest.fixture(scope="module")
def socket_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a Redis that listens at a file as well."""
    directory = tmp_path_factory.mktemp("redis")
    try:
        with start_redis(directory, "--unixsocket", "redis.sock"):
            yield f"unix://{directory}/redis.sock"
    except ServerMissing as missing:
        give_up("redis", missing)


class OverASocket(DriverFixtures):
    scheme = "unix"

    @pytest.fixture
    def url(self, socket_url: str) -> Url:
        return Url(f"{socket_url}?db=0&prefix={new_id()}")


class TestBroker(OverASocket, BrokerContract):
    pass


class TestBackend(OverASocket, BackendContract):
    pass
