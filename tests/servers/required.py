"""A server that is not there: its tests are skipped, or fail where it was promised."""

import os
from typing import NoReturn

import pytest

from tests.servers.process import ServerMissing

VARIABLE = "ASYNCQ_TEST_REQUIRE"  # names, with commas between them


def give_up(server: str, missing: ServerMissing) -> NoReturn:
    """Skip the test that needs this server, or fail it if the server is required."""
    if server in os.environ.get(VARIABLE, "").split(","):
        pytest.fail(f"{server} is required ({VARIABLE}): {missing}")
    pytest.skip(
        f"{server}: {missing}; set ASYNCQ_TEST_{server.upper()}_URL to use a server elsewhere"
    )
