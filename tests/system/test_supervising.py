"""What the supervisor of ``asyncq worker`` notices: stalls, orphans, threads that do not end."""

import os
import re
import signal
import sys
import time
from pathlib import Path

from tests.system.commands import ASYNCQ, TIMEOUT, Running, Shell, wait_until_there

MODULE = """
import asyncio, asyncq, os, subprocess, time
from pathlib import Path

app = asyncq.App("sqlite:///odd.db")


@app.task
async def block(seconds: float) -> None:
    Path("waiting").touch()
    while not Path("gate").exists():
        await asyncio.sleep(0.01)
    time.sleep(seconds)
    await asyncio.sleep(0.5)  # longer than between two ticks: the next of them is said
    Path("blocked").touch()


@app.task
def hang(seconds: float) -> None:
    with open("runs", "a") as runs:
        runs.write(f"{os.getpid()}\\n")
    Path("hanging").touch()
    time.sleep(seconds)


@app.task(time_limit=0.1)
def overrun(seconds: float) -> None:
    Path("overrunning").touch()
    time.sleep(seconds)


@app.task
def leave_orphans(count: int) -> None:
    for _ in range(count):
        subprocess.run(["sh", "-c", "true & exit"], check=True)
"""
# Who runs this inherits orphans, as process 1 of a container does; it stays so across `exec`.
INHERITING = """
import ctypes, os, sys
PR_SET_CHILD_SUBREAPER = 36
assert ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0
os.execvp(sys.argv[1], sys.argv[1:])
"""


def given(shell: Shell) -> None:
    (shell.directory / "odd.py").write_text(MODULE)


def supervisor_of(worker: Running) -> int:
    return worker.pid


def wait_until_stopped(pid: int) -> None:
    """Return once the process stands still, after a SIGSTOP."""
    deadline = time.monotonic() + TIMEOUT
    while state_of(pid) != "T":
        assert time.monotonic() < deadline
        time.sleep(0.01)  # it has no way to tell us


def state_of(pid: int) -> str:
    """The letter that Linux has for it."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def children_of(parent: int) -> list[tuple[int, str]]:
    """The ids and states of a process's children."""
    found: list[tuple[int, str]] = []
    for place in Path("/proc").iterdir():
        if place.name.isdecimal():
            try:
                stat = (place / "stat").read_text()
            except OSError:
                continue
            state, ppid = stat.rpartition(")")[2].split()[:2]
            if int(ppid) == parent:
                found.append((int(place.name), state))
    return found


def test_a_stall_that_nobody_could_watch_is_named_when_it_is_over(shell: Shell) -> None:
    given(shell)
    with shell.start("worker", "odd:app") as worker:
        worker.wait_for("is ready")
        id = shell.asyncq("call", "odd:app", "block", "3").out.strip()
        wait_until_there(shell.directory / "waiting")
        os.kill(supervisor_of(worker), signal.SIGSTOP)
        wait_until_stopped(supervisor_of(worker))
        lines_before = len(worker.lines)
        (shell.directory / "gate").touch()
        wait_until_there(shell.directory / "blocked")
        os.kill(supervisor_of(worker), signal.SIGCONT)
        worker.wait_for("as that ended")
        worker.send(signal.SIGTERM)
        assert worker.wait() == 0

    [line] = [line for line in worker.lines[lines_before:] if id in line and "was blocked" in line]
    told = re.search(r"was blocked for (\d+\.\d) s and runs again; it had .* at hand", line)
    assert told is not None, line
    assert 3.0 <= float(told[1]) < 4.0


def test_orphans_of_tasks_are_buried(shell: Shell) -> None:
    given(shell)
    if not sys.platform.startswith("linux"):
        return
    program = (sys.executable, "-c", INHERITING, *ASYNCQ)
    with shell.start("worker", "odd:app", program=program) as worker:
        worker.wait_for("is ready")
        called = shell.asyncq("call", "odd:app", "leave_orphans", "5", "--wait")
        deadline = time.monotonic() + TIMEOUT
        while len(children := children_of(supervisor_of(worker))) > 1:
            assert time.monotonic() < deadline, children
            time.sleep(0.05)
        worker.send(signal.SIGTERM)
        assert worker.wait() == 0  # and how its own child has ended was not taken from it

    assert called.code == 0


def test_a_thread_past_its_grace_does_not_keep_the_process_and_runs_once_at_a_time(
    shell: Shell,
) -> None:
    given(shell)
    with shell.start("worker", "odd:app", "--grace", "0.5") as worker:
        worker.wait_for("is ready")
        id = shell.asyncq("call", "odd:app", "hang", "60").out.strip()
        wait_until_there(shell.directory / "hanging")
        told = time.monotonic()
        worker.send(signal.SIGTERM)
        assert worker.wait() == 0
        took = time.monotonic() - told

    status = shell.asyncq("result", "odd:app", id, "--json").data["status"]
    assert took < 20
    assert status == "queued"
    assert any(id in line and "requeued" in line for line in worker.lines)
    assert (shell.directory / "runs").read_text().count("\n") == 1


def test_a_thread_past_its_time_limit_does_not_keep_the_process_either(shell: Shell) -> None:
    given(shell)
    with shell.start("worker", "odd:app") as worker:
        worker.wait_for("is ready")
        called = shell.asyncq("call", "odd:app", "overrun", "60", "--wait")
        told = time.monotonic()
        worker.send(signal.SIGTERM)
        assert worker.wait() == 0
        took = time.monotonic() - told

    assert called.code == 1
    assert took < 20
