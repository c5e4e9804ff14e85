"""A process whose threads do not come back is replaced, and its worker goes on."""

import signal

from tests.system.commands import Shell

MODULE = """
import time

import asyncq

app = asyncq.App("sqlite:///queue.db", config=asyncq.Config(max_stuck=2, grace=1, concurrency=2))


@app.task(time_limit=0.2)
def hang() -> None:
    time.sleep(3600)


@app.task
def add(x: int, y: int) -> int:
    return x + y
"""


def test_a_process_with_too_many_threads_past_their_limit_is_replaced(shell: Shell) -> None:
    (shell.directory / "stuck.py").write_text(MODULE)
    with shell.start("worker", "stuck:app") as worker:
        worker.wait_for("is ready")
        for _ in range(2):
            called = shell.asyncq("call", "stuck:app", "hang", "--timeout", "20")
            assert called.code == 1
            assert "the time limit of 0.2 s is over" in called.err
        worker.wait_for("has 2 tasks that did not end when told to")
        done = shell.asyncq("call", "stuck:app", "add", "1", "2", "--timeout", "20")
        assert done.out == "3\n"
        worker.send(signal.SIGTERM)
        assert worker.wait() == 0
