"""The fault experiments, one JSON object for each.

python -m tests.faults.run                      quick
python -m tests.faults.run --all                in full
python -m tests.faults.run --all -k network     some of them; what follows goes to pytest
"""

import os
import sys
from typing import Any

import msgspec
import pytest

from tests.faults.lab.scale import VARIABLE


class Printer:
    """Prints what each experiment found, when it has ended."""

    def __init__(self, full: bool) -> None:
        self._full = full

    @pytest.hookimpl
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call" or report.outcome != "passed":
            figures: Any = dict(report.user_properties).get("figures", {})
            result = {
                "experiment": report.nodeid.partition("::")[2],
                "outcome": report.outcome,
                "full": self._full,
                "seconds": round(report.duration, 1),
                **figures,
            }
            if report.failed:
                result["why"] = report.longreprtext
            print(msgspec.json.encode(result).decode(), flush=True)


def main() -> int:
    arguments = [argument for argument in sys.argv[1:] if argument != "--all"]
    full = len(arguments) < len(sys.argv) - 1
    if full:
        os.environ[VARIABLE] = "all"
    quiet = ["-p", "no:terminal", "-p", "no:cacheprovider", "-o", "addopts=--strict-markers"]
    return pytest.main([*quiet, os.path.dirname(__file__), *arguments], [Printer(full)])


if __name__ == "__main__":
    sys.exit(main())
