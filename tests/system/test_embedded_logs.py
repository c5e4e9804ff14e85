"""The log of a worker in a web process, under the real uvicorn, set up as `asyncq.logs` says."""

import json
import signal
import sys
import urllib.request
from collections.abc import Sequence
from typing import Any

from tests.servers import free_port
from tests.system.commands import Shell

WEB = """
import logging
from contextlib import asynccontextmanager

from fastapi import FastAPI

import asyncq
import asyncq.logs

{set_up}
jobs = asyncq.App("sqlite:///queue.db")
log = logging.getLogger("shop")


@jobs.task(name="mail")
async def mail(to: str) -> None:
    log.info("sending")
    raise ValueError(f"no {{to}}")


@asynccontextmanager
async def lifespan(web):
    async with jobs, jobs.worker():
        yield


web = FastAPI(lifespan=lifespan)


@web.get("/mail")
async def send() -> str:
    log.info("asked")
    result = await mail.enqueue("ann")
    try:
        await result.get(timeout=30)
    except asyncq.TaskFailed as error:
        return f"{{result.id}} {{error.message}}"
    return "?"
"""
THREE_LINES = """
handler = logging.StreamHandler()
handler.addFilter(asyncq.logs.TaskFilter())
logging.basicConfig(
    level="INFO",
    handlers=[handler],
    format="%(asctime)s %(levelname)s %(name)s [%(asyncq_task)s %(asyncq_id)s] %(message)s",
)
"""
LOG_CONFIG = {
    "version": 1,
    "disable_existing_loggers": False,  # uvicorn's
    "filters": {"task": {"()": "asyncq.logs.TaskFilter"}},
    "formatters": {"json": {"()": "asyncq.logs.JsonFormatter"}},
    "handlers": {
        "err": {"class": "logging.StreamHandler", "filters": ["task"], "formatter": "json"}
    },
    "root": {"level": "INFO", "handlers": ["err"]},
}


def serve(shell: Shell, set_up: str, *options: str) -> tuple[str, Sequence[str]]:
    """The id of the task that was sent, and what the server logged."""
    (shell.directory / "shop_web.py").write_text(WEB.format(set_up=set_up))
    port = str(free_port())
    command = (sys.executable, "-m", "uvicorn", "shop_web:web", "--port", port, *options)
    with shell.start(program=command) as server:
        server.wait_for("Uvicorn running on")
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/mail", timeout=60) as answer:
            id, text = json.loads(answer.read()).split(maxsplit=1)
        server.send(signal.SIGINT)
        server.wait()
    assert text == "no ann"
    return id, [line.rstrip("\n") for line in server.lines]


def one_with(text: str, lines: Sequence[str]) -> str:
    [line] = [line for line in lines if text in line]
    return line


def test_three_lines_show_whose_record_it_is_beside_uvicorns_own(shell: Shell) -> None:
    id, lines = serve(shell, THREE_LINES)

    assert one_with("sending", lines).endswith(f" INFO shop [mail {id}] sending")
    assert one_with("asked", lines).endswith(" INFO shop [ ] asked")
    failed = one_with("failed in attempt", lines)
    assert f"ERROR asyncq.worker.tasks [mail {id}] task mail[{id}] failed in attempt 1" in failed
    assert "    ValueError: no ann" in lines
    assert one_with("consumes", lines)


def test_a_log_config_of_uvicorn_makes_all_of_it_json(shell: Shell) -> None:
    (shell.directory / "log.json").write_text(json.dumps(LOG_CONFIG))

    id, lines = serve(shell, "", "--log-config", "log.json")

    records: list[dict[str, Any]] = [json.loads(line) for line in lines]
    by_text = {record["message"]: record for record in records}
    assert (by_text["sending"]["task"], by_text["sending"]["id"]) == ("mail", id)
    assert by_text["asked"]["id"] is None
    [failed] = [record for record in records if "failed in attempt" in record["message"]]
    assert (failed["task"], failed["id"]) == ("mail", id)
    assert failed["exception"].endswith("ValueError: no ann")
    assert any("Uvicorn running on" in text for text in by_text)


def test_without_any_set_up_failures_are_shown_all_the_same(shell: Shell) -> None:
    id, lines = serve(shell, "")

    assert one_with("failed in attempt", lines).startswith(f"task mail[{id}] failed in attempt 1")
