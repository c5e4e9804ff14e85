"""Parts for the log of a program that runs tasks; ``asyncq worker`` uses them itself.

`TaskFilter` tells which task a line is from: added to a handler, it gives every record the
attributes ``asyncq_task`` and ``asyncq_id``, which are empty outside of tasks. For a worker inside
a program of yours, under uvicorn say (which sets up its own loggers and no others), that is::

    handler = logging.StreamHandler()
    handler.addFilter(asyncq.logs.TaskFilter())
    logging.basicConfig(
        level="INFO",
        handlers=[handler],
        format="%(asctime)s %(levelname)s %(name)s [%(asyncq_task)s %(asyncq_id)s] %(message)s",
    )

or with ``dictConfig`` (``uvicorn --log-config``)::

    {
        "version": 1,
        "disable_existing_loggers": false,
        "filters": {"task": {"()": "asyncq.logs.TaskFilter"}},
        "formatters": {"json": {"()": "asyncq.logs.JsonFormatter"}},
        "handlers": {
            "err": {"class": "logging.StreamHandler", "filters": ["task"], "formatter": "json"}
        },
        "root": {"level": "INFO", "handlers": ["err"]},
    }

structlog and loguru, where they do not log through `logging`, get the same by `add_to_event` (a
processor) and `add_to_record` (a patcher)::

    structlog.configure(processors=[asyncq.logs.add_to_event, ...])
    loguru.logger.configure(patcher=asyncq.logs.add_to_record)

asyncq's own loggers are below ``asyncq``: ``logging.getLogger("asyncq").setLevel("WARNING")``
leaves out what is no trouble, ``"DEBUG"`` adds a line for each task that is received and that
succeeds.
"""

import json
import logging
from collections.abc import Mapping
from datetime import UTC, datetime
from textwrap import dedent
from typing import Any

from asyncq.client.context import find_context
from asyncq.loggers import LINE_LIMIT, LOG_ID, LOG_TASK, TRACEBACK_LIMIT
from asyncq.texts import NAME_LIMIT, clipped, indented, shown

MESSAGE_LIMIT = 8 * 1024  # bytes of a line of text; of a message in JSON
EXTRA_LIMIT = 1024  # bytes of what a record was given in ``extra``, each
MOST_EXTRAS = 50

_STANDARD = {*vars(logging.makeLogRecord({})), "message", "asctime", "taskName", LOG_TASK, LOG_ID}


class TaskFilter(logging.Filter):
    """Says in ``asyncq_task`` and ``asyncq_id`` which task and message a record comes from.

    It lets all records through. A handler that passes records on to another thread (`QueueHandler`)
    needs it itself: in the other thread no task runs.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        if LOG_ID not in record.__dict__:
            running = _running()
            record.__dict__[LOG_TASK] = running.get("task", "")
            record.__dict__[LOG_ID] = running.get("id", "")
        return True


def add_to_event(logger: Any, method: str, event: Any) -> Any:
    """A processor of structlog's: adds the running task as ``task``, its message's id as ``id``.

    What the event says itself under these names stays.
    """
    event.update({name: value for name, value in _running().items() if name not in event})
    return event


def add_to_record(record: Any) -> None:
    """A patcher of loguru's: adds the same to the record's ``extra``."""
    add_to_event(None, "", record["extra"])


def _running() -> dict[str, str]:
    context = find_context()
    if context is None:
        return {}
    return {"task": shown(context.task, NAME_LIMIT), "id": shown(context.id, NAME_LIMIT)}


class LineFormatter(logging.Formatter):
    """A line for each record: local time, level, process, logger, and which task logged it.

    What would end the line or steer a terminal is escaped, and the line is cut at 8 KiB. Tracebacks
    follow below, set in by four spaces.
    """

    def format(self, record: logging.LogRecord) -> str:
        task, id = _whose(record)
        # Our own lines name their task themselves.
        ours = record.name.startswith("asyncq.")
        whose = f"[{task} {id}] " if id and not ours else ""
        head = f"{self.formatTime(record)} {record.levelname:<8} {record.process} {record.name}: "
        line = shown(f"{head}{whose}{record.getMessage()}", MESSAGE_LIMIT)
        return "\n".join([line, *_below(self, record)])


class JsonFormatter(logging.Formatter):
    """A JSON object on one line for each record, in ASCII.

    ``time`` (ISO 8601, UTC), ``level``, ``logger``, ``message``, ``process`` (its number), ``task``
    and ``id`` (null outside of tasks), ``exception`` (the text of a traceback, where there is one),
    ``extra`` (what the record was given of its own).
    """

    def format(self, record: logging.LogRecord) -> str:
        task, id = _whose(record)
        moment = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        fields: dict[str, Any] = {
            "time": moment.replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": clipped(record.getMessage(), MESSAGE_LIMIT),
            "process": record.process,
            "task": task or None,
            "id": id or None,
        }
        if below := _below(self, record):
            fields["exception"] = dedent("\n".join(below))
        if extra := _extra(record.__dict__):
            fields["extra"] = extra
        return json.dumps(fields)


def _whose(record: logging.LogRecord) -> tuple[str, str]:
    attributes = record.__dict__
    return attributes.get(LOG_TASK, ""), attributes.get(LOG_ID, "")


def _below(formatter: logging.Formatter, record: logging.LogRecord) -> list[str]:
    """Traceback and stack of a record, as lines that are set in."""
    texts: list[str] = []
    if record.exc_text:  # of a logger of ours, or of a formatter before us
        texts.append(record.exc_text)
    elif record.exc_info and record.exc_info[0] is not None:
        texts.append(formatter.formatException(record.exc_info))
    if record.stack_info:
        texts.append(formatter.formatStack(record.stack_info))
    return [indented(dedent(text), LINE_LIMIT, TRACEBACK_LIMIT) for text in texts]


def _extra(attributes: Mapping[str, Any]) -> dict[str, Any]:
    own = [(name, value) for name, value in attributes.items() if name not in _STANDARD]
    return {clipped(name, NAME_LIMIT): _as_json(value) for name, value in own[:MOST_EXTRAS]}


def _as_json(value: object) -> object:
    if value is None or isinstance(value, bool | int):
        return value
    return clipped(value if isinstance(value, str) else repr(value), EXTRA_LIMIT)
