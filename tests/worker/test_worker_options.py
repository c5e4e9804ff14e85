"""Options of a worker that cannot be are told before anything is asked of a broker."""

from collections.abc import Mapping
from typing import Any

import pytest
from anyio import fail_after

from asyncq.app import App
from asyncq.errors import ConfigurationError
from tests.client.given import PATIENCE
from tests.servers import free_port

ODD: list[tuple[Mapping[str, Any], str]] = [
    ({"concurrency": 0}, "concurrency"),
    ({"concurrency": "5"}, "concurrency"),
    ({"max_waiting": -1}, "max_waiting"),
    ({"grace": -1}, "grace"),
    ({"queues": {"mail": 0}}, "mail"),
    ({"concurency": 5}, "concurrency"),
]


@pytest.fixture
def app() -> App:
    """One whose broker is not there."""
    return App(f"redis://127.0.0.1:{free_port()}")


@pytest.mark.parametrize(("options", "named"), ODD)
async def test_a_worker_in_this_loop_complains_before_it_connects(
    app: App, options: Mapping[str, Any], named: str
) -> None:
    with fail_after(PATIENCE), pytest.raises(ConfigurationError, match=named):
        async with app.worker(**options):
            pass


@pytest.mark.parametrize(("options", "named"), ODD)
async def test_a_worker_of_its_own_complains_and_waits_for_no_broker(
    app: App, options: Mapping[str, Any], named: str
) -> None:
    with fail_after(PATIENCE), pytest.raises(ConfigurationError, match=named):
        await app.run_worker(**options)
