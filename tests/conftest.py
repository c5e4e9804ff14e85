"""What tests need from outside: a Redis, found or started, or a reason why there is none.

ASYNCQ_TEST_REDIS_URL   a server to use, instead of starting one
ASYNCQ_TEST_REQUIRE     names what must be there ("redis"): missing, its tests fail
"""

import os
from collections.abc import Iterator

import pytest

from tests.servers import ServerMissing, start_redis

pytest.register_assert_rewrite("asyncq.testing.contracts")


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
        if "redis" in os.environ.get("ASYNCQ_TEST_REQUIRE", "").split(","):
            pytest.fail(f"Redis is required (ASYNCQ_TEST_REQUIRE): {missing}")
        pytest.skip(f"Redis: {missing}; set ASYNCQ_TEST_REDIS_URL to use a server elsewhere")
