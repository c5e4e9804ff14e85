"""The log of the processes of ``asyncq worker``, on standard error.

In those without user's code it is ours. In a worker process, what the app's module configures stays
as it is: ours is added only where nothing is shown otherwise.
"""

import logging
import sys
from enum import StrEnum
from typing import TextIO

from asyncq.loggers import get_logger
from asyncq.logs import JsonFormatter, LineFormatter, TaskFilter

log = get_logger(__name__)


class LogLevel(StrEnum):
    """From everything to the worst alone."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"
    CRITICAL = "critical"


class LogFormat(StrEnum):
    """How a record looks."""

    TEXT = "text"
    JSON = "json"


DEFAULT_LEVEL = LogLevel.INFO


def set_up_logs(level: LogLevel | None, form: LogFormat = LogFormat.TEXT) -> None:
    """Send every logger's events from ``level`` upwards to standard error."""
    logging.basicConfig(
        level=(level or DEFAULT_LEVEL).upper(), handlers=[_handler(form)], force=True
    )


class WorkerLogs:
    """The log of a process that is about to load the app, and to respect what that configures."""

    def __init__(self, level: LogLevel | None, form: LogFormat) -> None:
        self._level = level
        self._form = form
        self._handler = _handler(form)
        # Not at the root yet: there it would turn the app's `basicConfig` into nothing.
        logging.lastResort = self._handler

    def settle(self) -> None:
        """The app is loaded: add ours where it has set up no log of its own."""
        root, ours = logging.getLogger(), logging.getLogger("asyncq")
        if any(_shows(handler) for handler in root.handlers):
            if self._level is not None and ours.level == logging.NOTSET:
                ours.setLevel(self._level.upper())
            if self._form is not LogFormat.TEXT:
                log.warning(
                    "--log-format %s has no effect: the app configures its log itself; use "
                    "asyncq.logs.JsonFormatter there",
                    self._form,
                )
            return
        if self._level is not None or root.level == logging.WARNING:  # as Python begins
            root.setLevel((self._level or DEFAULT_LEVEL).upper())
        self._handler.addFilter(self._is_shown_by_no_other)
        root.addHandler(self._handler)

    def _is_shown_by_no_other(self, record: logging.LogRecord) -> bool:
        """Whether no other handler on the record's way up writes to this terminal."""
        logger: logging.Logger | None = logging.getLogger(record.name)
        while logger is not None:
            if any(h is not self._handler and _is_on_console(h) for h in logger.handlers):
                return False
            logger = logger.parent if logger.propagate else None
        return True


def _handler(form: LogFormat) -> logging.StreamHandler[TextIO]:
    handler = logging.StreamHandler()
    handler.setFormatter(JsonFormatter() if form is LogFormat.JSON else LineFormatter())
    handler.addFilter(TaskFilter())
    return handler


def _shows(handler: logging.Handler) -> bool:
    return not isinstance(handler, logging.NullHandler)


def _is_on_console(handler: logging.Handler) -> bool:
    """Whether it writes to standard output or error: by itself, or through rich."""
    stream = getattr(handler, "stream", None)
    ours = (sys.stdout, sys.stderr, sys.__stdout__, sys.__stderr__)
    return hasattr(handler, "console") or any(stream is each for each in ours if each)
