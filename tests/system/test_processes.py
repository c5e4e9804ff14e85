"""``asyncq worker --processes``: what its parent prints and decides."""

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.system.commands import Running, Shell, wait_until_there

URL = "sqlite:///queue.db"
HELP_OF_PORT = "--health cannot listen on port"


def pids(lines: Sequence[str]) -> list[int]:
    """The processes that were ready, in that order."""
    return [int(pid) for line in lines for pid in re.findall(r"pid (\d+)\) is ready", line)]


def wait_for_all(worker: Running, count: int) -> list[int]:
    for _ in range(count):
        worker.wait_for("is ready")
    return pids(worker.lines)


def test_two_processes_share_the_work_and_end_together(shell: Shell) -> None:
    with shell.start("worker", "tasks:app", "--processes", "2", "-c", "1") as worker:
        first, second = wait_for_all(worker, 2)
        for name in ("a", "b"):
            shell.asyncq("call", "tasks:app", "hold", f'"{name}"')
            wait_until_there(shell.directory / f"{name}.begun")
        for name in ("a", "b"):
            (shell.directory / f"{name}.end").touch()
        worker.send(signal.SIGTERM)

        assert worker.wait() == 0
    text = "".join(worker.lines)
    assert first != second
    assert "processes    2\n" in text
    assert text.count("asyncq 0.1.0 worker\n") == 1
    assert text.count("has ended") == 2
    assert text.count("no new tasks") == 1
    assert text.rstrip().endswith("stopped")


def test_a_burst_ends_when_no_process_finds_anything(shell: Shell) -> None:
    ids = [shell.asyncq("call", "tasks:app", "add", str(n), "1").out.strip() for n in range(5)]

    ended = shell.asyncq("worker", "tasks:app", "--burst", "--processes", "3")

    assert ended.code == 0
    values = [shell.asyncq("result", URL, id, "--json").data["value"] for id in ids]
    assert values == [1, 2, 3, 4, 5]
    assert "the next is started" not in ended.err


INTERRUPT = """
import os, signal, sys

if "asyncq.cli.child" in sys.orig_argv:  # the terminal's Ctrl-C goes to all of its processes
    os.kill(os.getppid(), signal.SIGINT)
    os.kill(os.getpid(), signal.SIGINT)
"""


def test_an_interrupt_of_a_process_that_begins_leaves_no_traceback(shell: Shell) -> None:
    site = shell.directory / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text(INTERRUPT)
    here = Shell(shell.directory, {**os.environ, "PYTHONPATH": str(site)})

    with here.start("worker", "tasks:app") as worker:
        assert worker.wait() == 0

    assert "Traceback" not in "".join(worker.lines)
    assert "SIGINT: draining" in "".join(worker.lines)


def test_no_process_is_told_the_password_by_its_arguments(shell: Shell, redis_url: str) -> None:
    user = ["ACL", "SETUSER", "secretive", "on", ">pa55word", "~*", "&*", "+@all"]
    subprocess.run(["redis-cli", "-u", redis_url, *user], check=True, timeout=30)
    url = redis_url.replace("://", "://secretive:pa55word@")
    (shell.directory / "secret.py").write_text(
        f"import asyncq\n\napp = asyncq.App('{url}')\n\n"
        "@app.task(queue='secretive')\ndef add(x, y):\n    return x + y\n"
    )
    with shell.start("worker", "secret:app", "--log-level", "debug") as worker:
        [pid] = wait_for_all(worker, 1)
        shown = shell.run(["ps", "-ww", "-o", "args=", "-p", str(pid)]).out
        worker.send(signal.SIGTERM)
        assert worker.wait() == 0

    assert "asyncq.cli.child" in shown
    assert "secret:app" in shown
    assert "pa55word" not in shown + "".join(worker.lines)


def test_what_lies_in_the_directory_stands_in_for_nothing_of_ours(shell: Shell) -> None:
    (shell.directory / "asyncio.py").write_text("raise RuntimeError('imported')\n")
    script = str(Path(sys.executable).with_name("asyncq"))

    ended = shell.run([script, "worker", "tasks:app", "--burst"])

    assert (ended.code, "imported" in ended.err) == (0, False), ended.err


def test_a_process_that_finds_the_app_broken_leaves_the_others_at_work(shell: Shell) -> None:
    source = shell.directory / "tasks.py"
    good = source.read_text()
    with shell.start("worker", "tasks:app", "--processes", "2") as worker:
        first, _ = wait_for_all(worker, 2)
        source.write_text("def (")
        os.kill(first, signal.SIGKILL)
        worker.wait_for("was killed by SIGKILL; the next is started")
        line = worker.wait_for("SyntaxError")
        source.write_text(good)
        worker.wait_for("is ready")

        worker.send(signal.SIGTERM)
        assert worker.wait() == 0
    assert "failed: importing tasks failed: SyntaxError" in line
    assert "the next is started" in line


def test_when_no_process_can_work_the_error_is_the_end(shell: Shell) -> None:
    source = shell.directory / "tasks.py"
    with shell.start("worker", "tasks:app", "--processes", "2") as worker:
        both = wait_for_all(worker, 2)
        source.write_text("def (")
        for pid in both:
            os.kill(pid, signal.SIGKILL)

        assert worker.wait() == 2
    assert worker.lines[-1].startswith("asyncq: importing tasks failed: SyntaxError")


def test_a_process_ended_by_hand_drains_and_is_replaced(shell: Shell) -> None:
    with shell.start("worker", "tasks:app") as worker:
        [pid] = wait_for_all(worker, 1)
        id = shell.asyncq("call", "tasks:app", "hold", '"a"').out.strip()
        wait_until_there(shell.directory / "a.begun")

        os.kill(pid, signal.SIGTERM)
        (shell.directory / "a.end").touch()
        worker.wait_for("exited with code 0; the next is started")
        worker.wait_for("is ready")
        worker.send(signal.SIGTERM)

        assert worker.wait() == 0
    assert shell.asyncq("result", URL, id, "--json").data["attempt"] == 1


def test_a_port_that_is_taken_is_one_line(shell: Shell) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        ended = shell.asyncq("worker", "tasks:app", "--health", port)

    assert (ended.code, ended.out) == (2, "")
    assert ended.err == f"asyncq: {HELP_OF_PORT} {port} of 127.0.0.1: Address already in use\n"
