"""One run from inside a contender's own environment.

    python -m benchmarks.inside throughput taskiq '{"tasks": 2000}' DIRECTORY

It is started by `benchmarks.rounds`, reads the ``BENCH_`` variables set there, and leaves what it
found in ``DIRECTORY/measured.json``.
"""

import asyncio
import json
import platform
import sys
from dataclasses import asdict
from importlib import import_module, metadata
from pathlib import Path

from benchmarks.contenders import CONTENDERS, load_contender
from benchmarks.environments import ENVIRONMENTS, distribution
from benchmarks.trial import Measured, Trial

LIBRARIES = (
    "redis",
    "hiredis",
    "aio-pika",
    "pika",
    "amqp",
    "uvloop",
    "msgspec",
)  # of interest wherever they are installed


def main() -> None:
    """Measure, and write down the figures with the settings and versions they depend on."""
    question, name, options, directory = sys.argv[1:]
    contender = load_contender(name)
    trial = Trial(contender, json.loads(options), Path(directory))
    measured, loop = _run(trial, question)
    found = asdict(measured) | {
        "settings": dict(contender.settings) | {"client loop": loop},
        "versions": versions(CONTENDERS[name].environment),
    }
    (trial.directory / "measured.json").write_text(json.dumps(found))


def _run(trial: Trial, question: str) -> tuple[Measured, str]:
    measure = import_module(f"benchmarks.{question}").measure
    try:
        import uvloop  # not every contender's environment has it
    except ImportError:
        return asyncio.run(measure(trial)), "asyncio"
    return uvloop.run(measure(trial)), "uvloop"


def versions(environment: str) -> dict[str, str]:
    """What is installed here, of what this environment was made for and what is of interest."""
    versions = {"python": platform.python_version()}
    required = [distribution(requirement) for requirement in ENVIRONMENTS[environment]]
    for name in dict.fromkeys((environment, *required, *LIBRARIES)):
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions


if __name__ == "__main__":
    main()
