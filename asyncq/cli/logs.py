"""Logs as operators want them: one event per line, on standard error."""

import logging
from enum import StrEnum

from asyncq.texts import bounded, plain

LINE_LIMIT = 8 * 1024  # bytes
FORMAT = "%(asctime)s %(levelname)-8s %(name)s: %(message)s"


class LogLevel(StrEnum):
    """From everything to the worst alone."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"
    CRITICAL = "critical"


class OneLine(logging.Formatter):
    """Escapes what would end the line or steer the terminal, tracebacks included, and cuts."""

    def format(self, record: logging.LogRecord) -> str:
        return bounded(plain(super().format(record)), LINE_LIMIT)


def set_up_logs(level: LogLevel) -> None:
    """Send every logger's events from ``level`` upwards to standard error."""
    handler = logging.StreamHandler()
    handler.setFormatter(OneLine(FORMAT))
    # Whatever the app's module has set up, there is one log.
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
