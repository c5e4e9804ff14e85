"""Who is measured: one line per contender, and nothing imported until it is asked for."""

from dataclasses import dataclass
from importlib import import_module
from typing import Literal

from benchmarks.contenders.interface import Contender


@dataclass(frozen=True)
class Entry:
    """Where a contender is found, and what it is in the comparison."""

    module: str
    environment: str
    kind: Literal["ours", "peer", "floor"] = "peer"
    store: Literal["redis", "sqlite"] = "redis"
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
}


def load_contender(name: str) -> Contender:
    """Import one adapter; only its own environment can."""
    module = import_module(f"benchmarks.contenders.{CONTENDERS[name].module}")
    contender: Contender = module.contender
    return contender
