"""Errors on one line."""

import os
import sys
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from asyncq.errors import AsyncqError, ConfigurationError, first_error
from asyncq.texts import plain

OURS = str(Path(__file__).parents[1])  # the folder of asyncq


def complain(why: object) -> None:
    """One line to standard error, if that takes any."""
    with suppress(OSError):
        print(f"asyncq: {plain(why)}", file=sys.stderr)


def explain(error: BaseException) -> tuple[str, int]:
    """What to complain of, and the exit code: 2 where the set-up is wrong, 1 where it failed."""
    reason = first_error(error)
    known = isinstance(reason, AsyncqError | TimeoutError)
    why = str(reason) if known else describe_error(reason)
    return why, 2 if isinstance(reason, ConfigurationError) else 1


def outside_of_us(frame: traceback.FrameSummary) -> bool:
    """Whether it is code of the program: what our own refuses was written there."""
    return not frame.filename.startswith(f"{OURS}{os.sep}")


def describe_error(
    error: BaseException, is_of_interest: Callable[[traceback.FrameSummary], bool] | None = None
) -> str:
    """What was raised, and where, on one line: in the last place that is of interest."""
    name, text = type(error).__name__, str(error)
    frames: Sequence[traceback.FrameSummary] = traceback.extract_tb(error.__traceback__)
    frames = [*filter(is_of_interest, frames)] or frames
    where = f" ({frames[-1].filename}, line {frames[-1].lineno})" if frames else ""
    if isinstance(error, SyntaxError):
        name, text = type(error).__name__, error.msg
        where = f" ({error.filename}, line {error.lineno})"
    return f"{name}: {text}{where}" if text else f"{name}{where}"
