"""Apps for the tests of workers, and brokers that are not always there."""

import pytest

from asyncq.app import App
from asyncq.drivers import table as drivers
from tests.client.given import new_app


@pytest.fixture
def app() -> App:
    return new_app(grace=1.0)


@pytest.fixture
def faulty_drivers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make ``faulty://`` a scheme for brokers and backends."""
    monkeypatch.setitem(drivers.BROKERS, "faulty", "tests.worker.faulty:FaultyBroker")
    monkeypatch.setitem(drivers.BACKENDS, "faulty", "tests.worker.faulty:FaultyBackend")
