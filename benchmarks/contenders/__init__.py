"""Who is measured: one line per contender, and nothing imported until it is asked for."""

from dataclasses import dataclass
from importlib import import_module
from typing import Literal

from benchmarks.contenders.interface import Contender

Store = Literal["redis", "sqlite", "rabbitmq"]


@dataclass(frozen=True)
class Entry:
    """Where a contender is found, and what it is in the comparison."""

    module: str
    environment: str
    kind: Literal["ours", "peer", "floor"] = "peer"
    store: Store = "redis"  # of its messages; beside RabbitMQ, results are in Redis
    is_async: bool = True  # runs coroutines, so that one worker can hold thousands of sleepers


CONTENDERS = {
    "asyncq-redis": Entry("asyncq", "asyncq", kind="ours"),
    "asyncq-sqlite": Entry("asyncq", "asyncq", kind="ours", store="sqlite"),
    "floor": Entry("floor", "floor", kind="floor"),
    "taskiq": Entry("taskiq", "taskiq"),
    "streaq": Entry("streaq", "streaq"),
    "saq": Entry("saq", "saq"),
    "arq": Entry("arq", "arq"),
    "dramatiq": Entry("dramatiq", "dramatiq", is_async=False),
    "huey": Entry("huey", "huey", is_async=False),
    "celery-threads": Entry("celery", "celery", is_async=False),
    "celery-prefork": Entry("celery", "celery", is_async=False),
    "asyncq-rabbitmq": Entry("asyncq", "asyncq", kind="ours", store="rabbitmq"),
    "bare-aio-pika": Entry("bare_aio_pika", "bare-aio-pika", kind="floor", store="rabbitmq"),
    "taskiq-rabbitmq": Entry("taskiq", "taskiq", store="rabbitmq"),
    "dramatiq-rabbitmq": Entry("dramatiq", "dramatiq", store="rabbitmq", is_async=False),
    "celery-rabbitmq-threads": Entry("celery", "celery", store="rabbitmq", is_async=False),
    "celery-rabbitmq-prefork": Entry("celery", "celery", store="rabbitmq", is_async=False),
}


def on(*stores: Store) -> list[str]:
    """The names of those whose messages are in one of these."""
    return [name for name, entry in CONTENDERS.items() if entry.store in stores]


def load_contender(name: str) -> Contender:
    """Import one adapter; only its own environment can."""
    module = import_module(f"benchmarks.contenders.{CONTENDERS[name].module}")
    contender: Contender = module.contender
    return contender
