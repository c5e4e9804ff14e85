"""Failures: what a task raised, as text that can travel."""

import traceback

from asyncq.message import Failure
from asyncq.texts import shown

TRACEBACK_LIMIT = 16 * 1024  # characters
MESSAGE_LIMIT = 4 * 1024  # characters of an exception's own text
NAME_LIMIT = 200  # characters of a name that comes from outside


def describe(error: BaseException) -> Failure:
    """An exception as text, without its local variables and without our own frames."""
    cls = type(error)
    name, text = _name(cls), _text(error)
    ours = error.__traceback__
    trace = traceback.format_exception(cls, error, ours.tb_next if ours is not None else None)
    # The traceback holds the frames, and these every local: let them go with the attempt.
    error.__traceback__ = None
    return Failure(
        _sendable(name[:NAME_LIMIT]),
        _sendable(text[:MESSAGE_LIMIT]),
        _sendable("".join(trace)[-TRACEBACK_LIMIT:]),
    )


def summarize(error: BaseException, size: int) -> str:
    """An exception's type and text on one line of at most ``size`` bytes."""
    name, text = shown(_name(type(error)), NAME_LIMIT), _text(error)
    return f"{name}: {shown(text, size)}" if text else name


def _name(cls: type[BaseException]) -> str:
    if cls.__module__ == "builtins":
        return cls.__qualname__
    return f"{cls.__module__}.{cls.__qualname__}"


def _text(error: BaseException) -> str:
    try:
        return str(error)
    except BaseException:  # noqa: BLE001 - the user's class, whose __str__ may do anything
        return "(its text cannot be had)"


def _sendable(text: str) -> str:
    """Text that UTF-8 can carry: the name of a file may hold what it cannot (lone surrogates)."""
    return text.encode(errors="backslashreplace").decode()
