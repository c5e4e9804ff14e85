"""How commands end: interrupted, with nobody to read them, out of patience, or out of work."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.system.commands import ASYNCQ, TIMEOUT, Shell, wait_until_there

SCRIPT = (str(Path(sys.executable).parent / "asyncq"),)
# Imports the package in our place, and says where it has got to.
SLOW = """
import time
from pathlib import Path

import asyncq


def fetch_settings() -> None:
    Path("importing").touch()
    while not Path("go").exists():
        time.sleep(0.01)


fetch_settings()
app = asyncq.App("sqlite:///queue.db")


@app.task
async def nothing() -> None: ...
"""


@pytest.mark.parametrize("program", [ASYNCQ, SCRIPT], ids=["-m asyncq", "asyncq"])
@pytest.mark.parametrize("arguments", [("queues", "tasks:app"), ("worker", "tasks:app")])
def test_an_interrupt_while_a_command_is_imported_ends_it_without_a_word(
    shell: Shell, program: tuple[str, ...], arguments: tuple[str, ...]
) -> None:
    shell.asyncq("call", "tasks:app", "add", "1", "1")

    for delay in (0.1, 0.15, 0.2, 0.3):  # Python itself has begun by then, and needs longer
        with subprocess.Popen(
            [*program, *arguments],
            cwd=shell.directory,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as command:
            _until_importing_us(command.pid)
            time.sleep(delay - 0.1)
            command.send_signal(signal.SIGINT)
            _, err = command.communicate(timeout=TIMEOUT)
        assert "Traceback" not in err
        assert "KeyboardInterrupt" not in err
        # As a worker it may have begun, and is drained; as a command it may have been done.
        assert command.returncode in {130, 0, -signal.SIGINT}


def _until_importing_us(pid: int) -> None:
    """Return once Python catches SIGINT by a handler that is not its own."""
    deadline = time.monotonic() + TIMEOUT
    while time.monotonic() < deadline:
        try:
            mapped = Path(f"/proc/{pid}/maps").read_text()
        except OSError:
            return
        if "msgspec" in mapped:  # the first of what we import that shows
            return
        time.sleep(0.002)


@pytest.mark.parametrize(
    "arguments",
    [
        ("queues", "tasks:app"),
        ("queues", "peek", "tasks:app", "default", "--limit", "500"),
        ("queues", "peek", "tasks:app", "default", "--json"),
        ("dead", "list", "tasks:app"),
        ("call", "tasks:app", "add", "1", "1"),
        ("--help",),
        ("worker", "--help"),
        ("--version",),
    ],
    ids=" ".join,
)
def test_a_command_that_nobody_reads_ends_as_other_programs_do(
    shell: Shell, arguments: tuple[str, ...]
) -> None:
    shell.asyncq("call", "tasks:app", "add", "1", "1")
    reader, writer = os.pipe()
    os.close(reader)
    try:
        command = subprocess.run(
            [*ASYNCQ, *arguments],
            cwd=shell.directory,
            stdout=writer,
            stderr=subprocess.PIPE,
            text=True,
            timeout=TIMEOUT,
            check=False,
        )
    finally:
        os.close(writer)

    assert (command.returncode, command.stderr) == (141, "")


def test_a_command_whose_output_has_no_room_says_so_in_a_line(shell: Shell) -> None:
    shell.asyncq("call", "tasks:app", "add", "1", "1")
    with open("/dev/full", "w") as full:
        command = subprocess.run(
            [*ASYNCQ, "queues", "tasks:app"],
            cwd=shell.directory,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=TIMEOUT,
            check=False,
        )

    said = "asyncq: standard output cannot be written: No space left on device\n"
    assert (command.returncode, command.stderr) == (1, said)


@pytest.mark.parametrize(
    "arguments", [("queues", "slow:app"), ("worker", "slow:app", "--burst")], ids=" ".join
)
def test_a_module_that_takes_long_to_import_is_named_with_its_line(
    shell: Shell, arguments: tuple[str, ...]
) -> None:
    shell.asyncq("call", "tasks:app", "add", "1", "1")
    (shell.directory / "slow.py").write_text(SLOW)

    with shell.start(*arguments) as command:
        line = command.wait_for("still importing slow:app after 5 s")
        (shell.directory / "go").touch()
        assert command.wait() == 0

    assert "slow.py:" in line
    assert "in fetch_settings: " in line


def test_out_of_patience_a_call_says_where_its_message_is_and_how_to_look_later(
    shell: Shell,
) -> None:
    queued = shell.asyncq("call", "tasks:app", "add", "1", "1", "--timeout", "0.1", "--json")
    later = shell.asyncq("call", "tasks:app", "add", "1", "1", "--timeout", "0.1", "--delay", "100")
    with shell.worker():
        running = shell.asyncq("call", "tasks:app", "hold", '"a"', "--timeout", "1")
        wait_until_there(shell.directory / "a.begun")
        (shell.directory / "a.end").touch()

    id = queued.data["id"]
    assert queued.code == later.code == running.code == 1
    assert queued.data["status"] == "queued"
    assert queued.err == (
        f"asyncq: task tasks.add[{id}] has no outcome after 0.1 s: it waits for a worker, and goes "
        f"on without us; to look later: asyncq result tasks:app {id}\n"
    )
    assert "it waits until it is due" in later.err
    assert "task tasks.hold[" in running.err
    assert shell.asyncq("result", "tasks:app", id, "--json").data["value"] == 2


def test_a_burst_says_what_it_leaves_for_later(shell: Shell) -> None:
    shell.asyncq("call", "tasks:app", "add", "1", "1")
    empty = shell.asyncq("worker", "tasks:app", "--burst")
    for delay in ("1000", "2000"):
        shell.asyncq("call", "tasks:app", "add", "1", "1", "--delay", delay)
    left = shell.asyncq("worker", "tasks:app", "--burst")

    assert "ended, for its queues are empty: 1 task: 1 succeeded\n" in empty.err
    assert "ended, for nothing is due in its queues: 0 tasks: 0 succeeded; 2 messages are " in (
        left.err
    )
    assert " delayed, the next is due in 9" in left.err


def test_how_many_may_wait_is_an_option_of_the_worker(shell: Shell) -> None:
    (shell.directory / "waiting.py").write_text(WAITING)
    shell.asyncq("call", "waiting:app", "parent")
    with shell.start("worker", "waiting:app", "-c", "1", "--max-waiting", "0") as worker:
        line = worker.wait_for("keeps its slot")
    done = shell.asyncq("worker", "waiting:app", "-c", "1", "--max-waiting", "1", "--burst")

    assert "0 wait already without one, which is max_waiting" in line
    assert "2 tasks: 2 succeeded" in done.err


WAITING = """
import asyncq

app = asyncq.App("sqlite:///waiting.db")


@app.task(name="child")
async def child() -> int:
    return 1


@app.task(name="parent")
async def parent() -> int:
    return await (await child.options(id="the-child").enqueue())
"""


# What a metrics library does as it is imported, and what ends by itself.
THREADED = """
import threading
from concurrent.futures import ThreadPoolExecutor

from tasks import add, app

threading.Thread(target=threading.Event().wait, name="sends metrics").start()
ThreadPoolExecutor(1).submit(int)
"""


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("queues", "list", "threaded:app"), 0),
        (("call", "threaded:app", "add", "1", "2"), 0),
        (("result", "threaded:app", "nobody"), 1),
        (("queues", "threaded:missing"), 2),
    ],
)
def test_threads_that_the_program_began_do_not_keep_a_command(
    shell: Shell, arguments: tuple[str, ...], code: int
) -> None:
    shell.asyncq("call", "tasks:app", "add", "1", "1")
    (shell.directory / "threaded.py").write_text(THREADED)

    ended = shell.asyncq(*arguments)

    assert ended.code == code
    assert bool(ended.out) == (code == 0)
    assert "leaving without 1 thread of the program" in ended.err.splitlines()[-1]
    assert "ending: sends metrics; begin them with daemon=True" in ended.err.splitlines()[-1]


def test_threads_that_the_program_began_do_not_keep_a_worker_that_has_drained(
    shell: Shell,
) -> None:
    (shell.directory / "threaded.py").write_text(THREADED)

    with shell.start("worker", "threaded:app") as worker:
        worker.wait_for("consumes")
        worker.send(signal.SIGTERM)
        worker.wait_for("leaving without 1 thread of the program")

        assert worker.wait() == 0


def test_threads_that_end_by_themselves_are_waited_for_without_a_word(shell: Shell) -> None:
    (shell.directory / "brief.py").write_text(
        "import threading, time\nfrom pathlib import Path\nfrom tasks import app\n\n"
        "def finish() -> None:\n"
        "    threading.main_thread().join()\n    Path('finished').touch()\n\n"
        "threading.Thread(target=finish).start()\n"
    )

    ended = shell.asyncq("call", "brief:app", "add", "1", "2")

    assert (ended.code, ended.err) == (0, "")
    assert (shell.directory / "finished").exists()


IN_A_CALLBACK = """
import signal, sys, time, weakref
from asyncq.interrupted import raise_again

class Thing: pass

def interrupt(_):
    signal.raise_signal(signal.SIGINT)
    time.sleep(0)

def fail(_):
    raise ValueError("told as ever")

sys.unraisablehook = raise_again(sys.unraisablehook)
things = [Thing(), Thing()]
references = [weakref.ref(things[0], interrupt), weakref.ref(things[1], fail)]
try:
    things.clear()
    time.sleep(60)
except KeyboardInterrupt:
    print("interrupted")
"""


def test_an_interrupt_where_nothing_can_be_raised_is_not_lost(shell: Shell) -> None:
    ended = shell.run([sys.executable, "-c", IN_A_CALLBACK])
    assert (ended.code, ended.out) == (0, "interrupted\n")
    assert "KeyboardInterrupt" not in ended.err
    assert "told as ever" in ended.err
