"""A worker that is killed in the midst of an attempt: it runs elsewhere, as the same attempt."""

import os
import signal
import sys
import time
from pathlib import Path

import pytest

from asyncq.language.message import new_id
from tests.system.commands import TIMEOUT, Shell

LEASE = 1.0  # seconds
MODULE = """
import asyncio, logging, os
from pathlib import Path

import asyncq

app = asyncq.App(os.environ["STORE"], config=asyncq.Config(lease=1.0, grace=1))
runs = Path("runs")


@app.task(retry=asyncq.Retry(2, base=0))
async def work(ctx: asyncq.Context) -> int:
    with runs.open("a") as file:
        file.write(f"{ctx.attempt}\\n")
    if ctx.attempt == 1:
        raise ValueError
    if len(runs.read_text().splitlines()) == 2:
        await asyncio.sleep(3600)
    return ctx.attempt


if __name__ == "__main__":
    logging.basicConfig(level="INFO")
    asyncio.run(app.run_worker())
"""


def until_runs(file: Path, wanted: list[str]) -> float:
    """When they were seen first."""
    deadline = time.monotonic() + TIMEOUT
    while not file.exists() or file.read_text().split() != wanted:
        assert time.monotonic() < deadline, file.read_text()
        time.sleep(0.01)  # files have no way to tell us
    return time.monotonic()


@pytest.mark.parametrize("store", ["sqlite", "redis"])
def test_a_killed_attempt_runs_elsewhere_within_the_lease(
    shell: Shell, store: str, request: pytest.FixtureRequest
) -> None:
    url = "sqlite:///queue.db"
    if store == "redis":
        url = f"{request.getfixturevalue('redis_url')}?prefix=killed-{new_id()}"
    shell.environment["STORE"] = url
    (shell.directory / "killed.py").write_text(MODULE)
    runs, program = shell.directory / "runs", [sys.executable, "killed.py"]
    id = shell.asyncq("call", "killed:app", "work").out.strip()
    with shell.start(program=program) as doomed:
        until_runs(runs, ["1", "2"])
        with shell.start(program=program) as other:
            other.wait_for("consumes")
            os.kill(doomed.pid, signal.SIGKILL)
            killed = time.monotonic()
            took = until_runs(runs, ["1", "2", "2"]) - killed
            other.send(signal.SIGTERM)
            assert other.wait() == 0
    assert took < LEASE + 2.0
    told = shell.asyncq("result", "killed:app", id)
    assert told.code == 0
    assert told.out.strip().endswith("2")
