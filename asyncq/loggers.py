"""asyncq's loggers: the standard ones, which nothing outside can break or silence by accident.

What shows their records, and how, is the user's business; `asyncq.logs` has parts for that.
"""

import inspect
import logging
import sys
import traceback
from types import TracebackType
from typing import Any, cast

from asyncq.texts import indented

LOG_TASK = "asyncq_task"
LOG_ID = "asyncq_id"
"""Attributes of records: the task and the message that they are about; or empty."""
TRACEBACK = "asyncq_traceback"
"""In ``extra``: the text of a traceback that is known already."""
TRACEBACK_LIMIT = 16 * 1024  # characters
LINE_LIMIT = 2 * 1024  # bytes of one line of a traceback

_ExcInfo = tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None]


class AsyncqLogger(logging.Logger):
    """A logger of this package.

    - ``dictConfig`` and ``fileConfig`` disable what they do not name, by default, and so all of
      ours in a program that configures its own: that is not obeyed. A level, or
      ``propagate = False``, is; and so is ``disabled`` set by hand.
    - What a handler or a filter raises is reported as `logging.Handler.handleError` does, and ends
      no worker.
    - Tracebacks are bounded, escaped, and indented below their record, in whatever format.
    """

    _disabled = False

    @property
    def disabled(self) -> bool:
        """Whether it is silent; who sets it is looked at."""
        return self._disabled

    @disabled.setter
    def disabled(self, disabled: bool) -> None:  # pyright: ignore[reportIncompatibleVariableOverride]
        frame = inspect.currentframe()
        caller = frame and frame.f_back
        by_config = caller is not None and caller.f_globals.get("__name__") == "logging.config"
        self._disabled = disabled and not by_config

    def makeRecord(self, *args: Any, **kwargs: Any) -> logging.LogRecord:  # noqa: N802 - logging's
        try:
            record = super().makeRecord(*args, **kwargs)
        # The user's factory may raise anything; the record is made without it.
        except Exception:  # noqa: BLE001
            _report()
            record = logging.LogRecord(*args[:8])
        text = record.__dict__.pop(TRACEBACK, None)
        if text is None and record.exc_info and record.exc_info[0] is not None:
            text = _format(record.exc_info)
        if text:
            # Every formatter of `logging` takes it from here, and formats no exception itself.
            record.exc_text = indented(cast("str", text), LINE_LIMIT, TRACEBACK_LIMIT)
        return record

    def handle(self, record: logging.LogRecord) -> None:
        try:
            super().handle(record)
        # The user's handlers and filters may raise anything: a line that is lost is no reason to
        # lose the task that it is about.
        except Exception:  # noqa: BLE001
            _report()


def get_logger(name: str) -> logging.Logger:
    """The logger of one of our modules, to be kept in its ``log``."""
    before = logging.getLoggerClass()
    logging.setLoggerClass(AsyncqLogger)
    try:
        return logging.getLogger(name)
    finally:
        logging.setLoggerClass(before)


def _format(exc_info: _ExcInfo) -> str:
    try:
        return "".join(traceback.format_exception(*exc_info))
    # An exception of the user's may be as odd as it likes.
    except Exception:  # noqa: BLE001
        return f"{exc_info[0]!r}: its traceback cannot be had"


def _report() -> None:
    """Say on standard error what went wrong in somebody's logging, where that is wanted."""
    if logging.raiseExceptions and sys.stderr:
        print("--- asyncq: logging failed ---", file=sys.stderr)  # noqa: T201
        traceback.print_exc()
