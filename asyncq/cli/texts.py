"""Errors on one line."""

import sys
import traceback

from asyncq.errors import AsyncqError, ConfigurationError, first_error
from asyncq.texts import plain


def complain(why: object) -> None:
    """One line to standard error."""
    print(f"asyncq: {plain(why)}", file=sys.stderr)


def explain(error: BaseException) -> tuple[str, int]:
    """What to complain of, and the exit code: 2 where the set-up is wrong, 1 where it failed."""
    reason = first_error(error)
    known = isinstance(reason, AsyncqError | TimeoutError)
    why = str(reason) if known else describe_error(reason)
    return why, 2 if isinstance(reason, ConfigurationError) else 1


def describe_error(error: BaseException) -> str:
    """What was raised, and where, on one line."""
    name, text = type(error).__name__, str(error)
    frames = traceback.extract_tb(error.__traceback__)
    where = f" ({frames[-1].filename}, line {frames[-1].lineno})" if frames else ""
    if isinstance(error, SyntaxError):
        name, text = type(error).__name__, error.msg
        where = f" ({error.filename}, line {error.lineno})"
    return f"{name}: {text}{where}" if text else f"{name}{where}"
