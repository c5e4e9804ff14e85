"""What a worker in a process of its own says as it drains, and how processes are handed over."""

import json
import re
import signal
import sys
import time
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest

from tests.servers import free_port
from tests.system.commands import TIMEOUT, Running, Shell, wait_until_there

RUN_WORKER = """
import asyncio, logging
from tasks import app

logging.basicConfig(level="INFO")
asyncio.run(app.run_worker())
"""

BLOCKING = """
import asyncq, time
from pathlib import Path

app = asyncq.App("sqlite:///blocking.db")


@app.task(name="block")
async def block(seconds: float) -> None:
    Path("blocking").touch()
    time.sleep(seconds)
"""
# A broker that has a queue for which it lets nobody in.
BARRED = """
import sys
from contextlib import asynccontextmanager

import asyncq
from asyncq.drivers import table
from asyncq.drivers.memory.broker import MemoryBroker


class Broker(MemoryBroker):
    @asynccontextmanager
    async def consume(self, queue, lease):
        if queue.name == "bad":
            raise {error}
        async with super().consume(queue, lease) as consumer:
            yield consumer


table.BROKERS["barring"] = "barred:Broker"
app = asyncq.App("barring://one", backend="memory://one")


@app.task(queue="{first}")
async def first() -> None: ...


@app.task(queue="bad")
async def second() -> None: ...
"""
WRONG = 'asyncq.ConfigurationError("queue bad was made otherwise")'
TAKEN = 'asyncq.QueueUnavailable("bad", "queue bad belongs to another")'


def told_and_said(worker: Running, text: str) -> tuple[str, float]:
    """The next line with this text after a SIGTERM, and how long that took."""
    told = time.monotonic()
    worker.send(signal.SIGTERM)
    return worker.wait_for(text), time.monotonic() - told


@pytest.mark.parametrize(
    ("program", "ready"),
    [
        (("-m", "asyncq", "worker", "tasks:app"), "is ready"),
        (("-c", RUN_WORKER), "consumes"),
    ],
    ids=["supervised", "not supervised"],
)
def test_told_to_stop_a_worker_names_what_it_waits_for_within_a_second(
    shell: Shell, program: tuple[str, ...], ready: str
) -> None:
    with shell.start(program=(sys.executable, *program)) as worker:
        worker.wait_for(ready)
        id = shell.asyncq("call", "tasks:app", "hold", '"a"').out.strip()
        wait_until_there(shell.directory / "a.begun")
        line, _ = told_and_said(worker, "is stopping and waits for")
        (shell.directory / "a.end").touch()
        assert worker.wait() == 0

    assert f"for 1 task: tasks.hold[{id}], up to " in line
    assert " s; told again (Ctrl-C, SIGTERM), it" in line
    # Of a grace of 30: within a second, and on a busy machine in a few.
    assert 25 <= int(line.partition("up to ")[2].partition(" s;")[0]) <= 30


def test_a_blocked_loop_cannot_hear_that_it_is_to_stop_and_the_supervisor_says_so(
    shell: Shell,
) -> None:
    (shell.directory / "blocking.py").write_text(BLOCKING)
    with shell.start("worker", "blocking:app", "--grace", "60") as worker:
        worker.wait_for("is ready")
        called = shell.asyncq("call", "blocking:app", "block", "4")
        assert called.code == 0, (called.err, worker.lines)
        id = called.out.strip()
        wait_until_there(shell.directory / "blocking")
        stall = worker.wait_for("has been blocked")
        line, took = told_and_said(worker, "has not heard that it is to end")
        assert worker.wait() == 0

    assert f" in task block[{id}]: it is to await" in stall
    assert f" in task block[{id}]; after 60 s it is killed" in line
    assert took < 3.5  # it is blocked for four


@pytest.mark.parametrize(
    ("error", "first"), [(WRONG, "good"), (TAKEN, "good"), (TAKEN, "bad")],
    ids=["declared otherwise", "taken", "the only one is taken"],
)  # fmt: skip
def test_a_queue_that_cannot_be_entered_keeps_no_process_from_being_replaced(
    shell: Shell, error: str, first: str
) -> None:
    (shell.directory / "barred.py").write_text(BARRED.format(error=error, first=first))
    port = free_port()
    options = ("--max-memory-per-child", "1", "--health", str(port))
    with shell.start("worker", "barred:app", *options) as worker:
        at_work = worker.wait_for("works but is not ready")
        not_ready = answer(port)
        handed_over = worker.wait_for("takes over")
        worn = re.search(r"process 1 \(pid \d+\)", at_work)
        assert worn is not None
        ended = worker.wait_for(f"{worn[0]} has ended")
        worker.send(signal.SIGTERM)
        worker.wait()

    assert "it cannot consume queue bad" in at_work
    assert not_ready == (503, "1 queue cannot be consumed; the log says which, and why")
    assert worn[0] in handed_over
    assert ended


def answer(port: int) -> tuple[int, str]:
    deadline = time.monotonic() + TIMEOUT
    while True:
        try:
            with urlopen(f"http://127.0.0.1:{port}/ready", timeout=TIMEOUT) as found:
                status, body = found.status, found.read()
        except HTTPError as error:
            status, body = error.code, error.read()
        facts = json.loads(body)
        if "why" in facts or time.monotonic() > deadline:
            return status, facts.get("why", "")
        time.sleep(0.01)
