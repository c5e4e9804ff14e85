"""The environments that the contenders run in: one each, so that nobody's pins bind another.

    python -m benchmarks.environments              # create or update all of them
    python -m benchmarks.environments taskiq saq   # only these

They get the newest releases and live in ``.bench/``, or in ``$ASYNCQ_BENCH_HOME``.
"""

import argparse
import os
import re
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).parent.parent
HOME = Path(os.environ.get("ASYNCQ_BENCH_HOME") or ROOT / ".bench").absolute()

ENVIRONMENTS = {
    "asyncq": ("asyncq[redis,rabbitmq]",),
    "floor": ("redis", "hiredis", "msgspec", "uvloop"),
    "bare-aio-pika": ("aio-pika", "uvloop"),
    "taskiq": (
        "taskiq",
        "taskiq-redis",
        "taskiq-aio-pika",
        "redis",
        "hiredis",
        "orjson",
        "uvloop",
    ),
    "streaq": ("streaq", "hiredis", "uvloop"),
    # saq imports typing-extensions without asking for it.
    "saq": ("saq[redis]", "hiredis", "orjson", "typing-extensions", "uvloop"),
    "arq": ("arq", "redis", "hiredis", "uvloop"),
    "dramatiq": ("dramatiq[redis,rabbitmq]", "redis", "hiredis"),
    "huey": ("huey", "redis", "hiredis"),
    "celery": ("celery[redis]", "redis", "hiredis"),
}


class EnvironmentMissing(Exception):
    """A contender has nowhere to run yet."""

    def __init__(self, name: str) -> None:
        super().__init__(f"no environment: run `python -m benchmarks.environments {name}`")


def distribution(requirement: str) -> str:
    """The name of what a requirement asks for, without its extras."""
    return re.split(r"[\[<>=~!]", requirement)[0]


def interpreter(name: str) -> str:
    """The Python of an environment. For asyncq's own, this one will do if asyncq runs in it.

    Raises:
        EnvironmentMissing: it was never created.
    """
    python = HOME / name / "bin" / "python"
    if python.exists():
        return str(python)
    if name == "asyncq" and _runs_asyncq(sys.executable):
        return sys.executable
    raise EnvironmentMissing(name)


def main() -> None:
    """Create or update environments, and say what is in them."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="name", help=", ".join(ENVIRONMENTS))
    names = parser.parse_args().names or list(ENVIRONMENTS)
    if unknown := set(names) - set(ENVIRONMENTS):
        parser.error(f"unknown: {', '.join(sorted(unknown))}")
    for name in names:
        _update(name)
        print(f"{name}: {', '.join(_versions(name))}", flush=True)


def _update(name: str) -> None:
    directory = HOME / name
    if not directory.exists():
        venv.create(directory, with_pip=True)
    requirements: list[str] = []
    for requirement in ENVIRONMENTS[name]:
        if distribution(requirement) == "asyncq":
            requirements += ["--editable", requirement.replace("asyncq", str(ROOT), 1)]
        else:
            requirements.append(requirement)
    _pip(name, "install", "--quiet", "--upgrade", *requirements)


def _versions(name: str) -> list[str]:
    return _pip(name, "freeze", "--exclude-editable").split()


def _pip(name: str, *arguments: str) -> str:
    python = HOME / name / "bin" / "python"
    command = [str(python), "-m", "pip", "--disable-pip-version-check", *arguments]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def _runs_asyncq(python: str) -> bool:
    command = [python, "-c", "import asyncq, redis"]
    return subprocess.run(command, check=False, capture_output=True, cwd=ROOT).returncode == 0


if __name__ == "__main__":
    main()
