"""How long the experiments are: quick for every change, or in full."""

import os
from typing import TypeVar

VARIABLE = "ASYNCQ_FAULTS"  # "all": in full
T = TypeVar("T")


def scaled(quick: T, full: T) -> T:
    return full if os.environ.get(VARIABLE) == "all" else quick
