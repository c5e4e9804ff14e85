"""An app on each combination of a broker and a backend that keeps outcomes."""

from pathlib import Path

import pytest

from asyncq.app import App
from asyncq.config import Config
from asyncq.language.message import new_id

ONE_STORE = ("memory", "sqlite", "redis")
APART = ("sqlite+memory", "redis+redis", "rabbitmq+memory", "rabbitmq+sqlite", "rabbitmq+redis")


@pytest.fixture(params=[*ONE_STORE, *APART])
def any_app(request: pytest.FixtureRequest, tmp_path: Path) -> App:
    def url(kind: str, place: str) -> str:
        match kind:
            case "memory":
                return f"memory://{new_id()}"
            case "sqlite":
                return f"sqlite:///{tmp_path}/{place}.db"
            case "redis":
                return f"{request.getfixturevalue('redis_url')}?prefix={place}-{new_id()}"
            case _:
                return request.getfixturevalue("rabbitmq_url")

    broker, _, backend = request.param.partition("+")
    first = url(broker, "tasks")
    return App(
        first, backend=url(backend, "outcomes") if backend else first, config=Config(grace=1.0)
    )


def sees_all(app: App) -> bool:
    """Whether its broker can say what it has."""
    return not app.url.scheme.startswith("amqp")
