"""A broker that can be watched, reached by URL like any other."""

import pytest

from asyncq.app import App
from asyncq.drivers import table as drivers
from asyncq.language.message import new_id
from tests.client.given import new_app


@pytest.fixture
def app() -> App:
    return new_app(grace=1.0)


@pytest.fixture
def watched_app(monkeypatch: pytest.MonkeyPatch) -> App:
    """An app on ``watched://``, its outcomes in the memory store of the same name."""
    monkeypatch.setitem(drivers.BROKERS, "watched", "tests.client.given:WatchedBroker")
    name = new_id()
    return App(f"watched://{name}", backend=f"memory://{name}")
