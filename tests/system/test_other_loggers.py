"""structlog and loguru in the code of users: nothing is lost or doubled, and tasks are named.

Skipped where they are not installed.
"""

import io
import json
from typing import Any

import pytest

from asyncq import logs, testing
from asyncq.app import App
from tests.client.given import PATIENCE
from tests.system.commands import Shell
from tests.system.test_worker_logs import those_with

TASKS = """
import logging
import sys

import asyncq

{set_up}

app = asyncq.App("sqlite:///queue.db")


@app.task(name="work")
async def work() -> None:
    log.info("working")
    logging.getLogger("shop.plain").warning("careful")
    raise ValueError("no way")
"""
STRUCTLOG = """
import structlog
import asyncq.logs
structlog.configure(processors=[
    asyncq.logs.add_to_event, structlog.processors.add_log_level, structlog.dev.ConsoleRenderer(),
], logger_factory=structlog.PrintLoggerFactory(sys.stderr))
log = structlog.get_logger()
"""
STRUCTLOG_ON_LOGGING = """
import structlog
structlog.configure(
    processors=[
        structlog.stdlib.filter_by_level, structlog.stdlib.add_log_level,
        structlog.processors.KeyValueRenderer(),
    ],
    logger_factory=structlog.stdlib.LoggerFactory(), wrapper_class=structlog.stdlib.BoundLogger,
)
log = structlog.get_logger("shop")
"""
STRUCTLOG_FORMATS_ALL = """
import structlog
structlog.configure(
    processors=[
        structlog.stdlib.add_log_level, structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
    ],
    logger_factory=structlog.stdlib.LoggerFactory(), wrapper_class=structlog.stdlib.BoundLogger,
)
handler = logging.StreamHandler()
handler.setFormatter(structlog.stdlib.ProcessorFormatter(
    foreign_pre_chain=[asyncq.logs.add_to_event, structlog.stdlib.add_log_level],
    processors=[
        structlog.stdlib.ProcessorFormatter.remove_processors_meta,
        structlog.processors.format_exc_info, structlog.processors.JSONRenderer(),
    ],
))
logging.basicConfig(handlers=[handler], level="INFO")
log = structlog.get_logger("shop")
"""
LOGURU = """
from loguru import logger as log
import asyncq.logs
log.remove()
log.add(sys.stderr, format="{level} {message} {extra}")
log.configure(patcher=asyncq.logs.add_to_record)
"""
LOGURU_TAKES_ALL = """
from loguru import logger as log
import asyncq.logs
log.remove()
log.add(sys.stderr, format="LOGURU {level} {message} {extra}")
log.configure(patcher=asyncq.logs.add_to_record)

class Intercept(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        log.opt(exception=record.exc_info).log(record.levelname, record.getMessage())

logging.basicConfig(handlers=[Intercept()], level="INFO", force=True)
"""
LOGURU_INTO_LOGGING = """
from loguru import logger as log

class Propagate(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        logging.getLogger(record.name).handle(record)

log.remove()
log.add(Propagate(), format="{message}")
"""


async def nothing() -> None: ...


def work(shell: Shell, set_up: str, *options: str) -> tuple[str, list[str]]:
    """The id of a task that logs and fails, and what its worker logs."""
    (shell.directory / "shop.py").write_text(TASKS.replace("{set_up}", set_up))
    app = App(f"sqlite:///{shell.directory / 'queue.db'}")
    with app.sync() as client:
        id = client.enqueue(app.task(name="work")(nothing).s()).id
    ended = shell.asyncq("worker", "shop:app", "--burst", *options)
    assert ended.code == 0, ended.err
    assert "Traceback" not in ended.err.partition("no way")[0], ended.err
    return id, ended.err.splitlines()


@pytest.mark.parametrize(
    ("library", "set_up"),
    [
        ("structlog", STRUCTLOG),
        ("structlog", STRUCTLOG_ON_LOGGING),
        ("structlog", STRUCTLOG_FORMATS_ALL),
        ("loguru", LOGURU),
        ("loguru", LOGURU_TAKES_ALL),
        ("loguru", LOGURU_INTO_LOGGING),
    ],
    ids=[
        "structlog", "structlog on logging", "structlog formats all",
        "loguru", "loguru takes all", "loguru into logging",
    ],
)  # fmt: skip
def test_every_line_is_there_once_and_names_its_task(
    shell: Shell, library: str, set_up: str
) -> None:
    pytest.importorskip(library)

    id, lines = work(shell, set_up)

    [working], [careful] = those_with("working", lines), those_with("careful", lines)
    assert id in careful
    assert id in working or set_up is STRUCTLOG_FORMATS_ALL  # where `log` itself has no processor
    assert len(those_with("failed in attempt 1 of 1: ValueError: no way", lines)) == 1
    assert len(those_with(" consumes default", lines)) == 1


@pytest.mark.parametrize(
    ("library", "set_up"),
    [("structlog", STRUCTLOG_ON_LOGGING), ("loguru", LOGURU_INTO_LOGGING)],
)
def test_what_comes_through_logging_is_json_where_that_is_asked_for(
    shell: Shell, library: str, set_up: str
) -> None:
    pytest.importorskip(library)

    id, lines = work(shell, set_up, "--log-format", "json")

    objects: list[dict[str, Any]] = [json.loads(line) for line in lines]
    [working] = [each for each in objects if "working" in each["message"]]
    assert (working["task"], working["id"], working["level"]) == ("work", id, "info")


async def test_an_event_of_structlog_has_the_task_that_it_is_from() -> None:
    structlog: Any = pytest.importorskip("structlog")
    app, stream = App("memory://"), io.StringIO()
    processors = [logs.add_to_event, structlog.processors.JSONRenderer()]
    log = structlog.wrap_logger(structlog.PrintLogger(stream), processors=processors)

    @app.task(name="work")
    async def work() -> None:
        log.info("inside", x=1)
        log.info("kept", task="mine")

    async with testing.run(app):
        log.info("outside")
        result = await work.enqueue()
        await result.get(timeout=PATIENCE)

    assert [json.loads(line) for line in stream.getvalue().splitlines()] == [
        {"event": "outside"},
        {"event": "inside", "x": 1, "task": "work", "id": result.id},
        {"event": "kept", "task": "mine", "id": result.id},
    ]


async def test_a_record_of_loguru_has_the_task_that_it_is_from() -> None:
    loguru: Any = pytest.importorskip("loguru")
    app = App("memory://")
    extras: list[dict[str, Any]] = []

    def keep(message: Any) -> None:
        extras.append(message.record["extra"])

    sink = loguru.logger.add(keep)
    log = loguru.logger.patch(logs.add_to_record)

    @app.task(name="work")
    async def work() -> None:
        log.bind(x=1).info("inside")

    try:
        async with testing.run(app):
            log.info("outside")
            result = await work.enqueue()
            await result.get(timeout=PATIENCE)
    finally:
        loguru.logger.remove(sink)

    assert extras == [{}, {"x": 1, "task": "work", "id": result.id}]
