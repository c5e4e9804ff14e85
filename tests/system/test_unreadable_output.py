"""A worker whose log cannot be written, whose terminal goes away, or that is told twice at once."""

import os
import signal
import subprocess
import sys

import pytest

from tests.system.commands import ASYNCQ, TIMEOUT, Shell, wait_until_there

CLOSING = "import os, sys; os.close(1); os.close(2); os.execv(sys.argv[1], sys.argv[1:])"
BURST = (*ASYNCQ, "worker", "tasks:app", "--burst")


def run(shell: Shell, *command: str, stderr: int) -> int:
    """The exit code of a command whose standard error this is; it is closed."""
    try:
        return subprocess.run(
            command,
            cwd=shell.directory,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=stderr,
            timeout=TIMEOUT,
            check=False,
        ).returncode
    finally:
        os.close(stderr)


def unwritable(kind: str) -> int:
    if kind == "full":
        return os.open("/dev/full", os.O_WRONLY)
    reader, writer = os.pipe()
    os.close(reader)
    return writer


@pytest.mark.parametrize("kind", ["full", "broken pipe"])
def test_a_worker_whose_log_cannot_be_written_does_its_work(shell: Shell, kind: str) -> None:
    id = shell.asyncq("call", "tasks:app", "add", "1", "1").out.strip()

    code = run(shell, *BURST, stderr=unwritable(kind))

    assert code == 0
    assert shell.asyncq("result", "tasks:app", id, "--json").data["value"] == 2


def test_a_worker_without_standard_streams_does_its_work(shell: Shell) -> None:
    id = shell.asyncq("call", "tasks:app", "add", "1", "1").out.strip()

    code = run(shell, sys.executable, "-c", CLOSING, *BURST, stderr=unwritable("full"))

    assert code == 0
    assert shell.asyncq("result", "tasks:app", id, "--json").data["value"] == 2


def test_an_error_that_cannot_be_told_keeps_its_exit_code(shell: Shell) -> None:
    code = run(shell, *ASYNCQ, "worker", "nosuchmodule:app", stderr=unwritable("full"))

    assert code == 2


@pytest.mark.parametrize("first", [signal.SIGHUP, signal.SIGTERM])
def test_signals_that_come_together_to_all_its_processes_drain_it(
    shell: Shell, first: signal.Signals
) -> None:
    with shell.start("worker", "tasks:app", program=("setsid", "-w", *ASYNCQ)) as worker:
        line = worker.wait_for("is ready")
        id = shell.asyncq("call", "tasks:app", "hold", '"a"').out.strip()
        wait_until_there(shell.directory / "a.begun")
        group = os.getpgid(int(line.split("(pid ")[1].split(")")[0]))

        # as a terminal that is closed, `timeout`, or systemd with SendSIGHUP=yes
        os.killpg(group, first)
        os.kill(group, signal.SIGTERM)
        worker.wait_for(": draining")
        (shell.directory / "a.end").touch()

        assert worker.wait() == 0
    assert "again: cancelling" not in "".join(worker.lines)
    assert shell.asyncq("result", "tasks:app", id, "--json").data["status"] == "succeeded"


def test_a_worker_under_nohup_outlives_its_terminal(shell: Shell) -> None:
    program = ("setsid", "-w", "nohup", *ASYNCQ)
    with shell.start("worker", "tasks:app", program=program) as worker:
        line = worker.wait_for("is ready")
        group = os.getpgid(int(line.split("(pid ")[1].split(")")[0]))
        os.killpg(group, signal.SIGHUP)

        ended = shell.asyncq("call", "tasks:app", "add", "1", "1", "--timeout", "30")
        os.kill(group, signal.SIGTERM)

        assert (ended.code, worker.wait()) == (0, 0)
