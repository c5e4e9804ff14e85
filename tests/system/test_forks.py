"""Forks of a process that is connected: the child has connections of its own, the parent keeps its.

Also ends of the interpreter that leave a client open.
"""

import sqlite3
import sys
from contextlib import closing
from pathlib import Path

import pytest

from tests.system.commands import Ended, Shell

PROGRAM = str(Path(__file__).parent / "programs" / "forks.py")
SQLITE = "sqlite:///queue.db"


@pytest.fixture(params=["sqlite", "redis", "rabbitmq"])
def url(request: pytest.FixtureRequest) -> str:
    if request.param == "sqlite":
        return SQLITE
    return request.getfixturevalue(f"{request.param}_url")


def fork(shell: Shell, url: str, how: str) -> Ended:
    return shell.run([sys.executable, PROGRAM, url, how])


def test_children_of_a_fork_connect_anew_and_harm_no_parent(shell: Shell, url: str) -> None:
    assert fork(shell, url, "fork") == Ended(0, "[0, 0, 0]\n", "")


def test_processes_of_a_pool_connect_anew_and_harm_no_parent(shell: Shell, url: str) -> None:
    assert fork(shell, url, "processes") == Ended(0, "0 [1, 2, 3, 4, 5, 6]\n", "")


def test_a_synchronous_client_that_was_opened_before_a_fork_works_on_both_sides(
    shell: Shell, url: str
) -> None:
    assert fork(shell, url, "sync") == Ended(0, "[0, 0, 0] True\n", "")


def test_a_fork_in_the_middle_of_things_leaves_nothing_locked(shell: Shell, url: str) -> None:
    assert fork(shell, url, "middle") == Ended(0, "{0}\n", "")


def test_what_a_child_sends_when_its_parent_has_gone_is_kept(shell: Shell) -> None:
    """The parent, who leaves last as far as it can know, deletes the log of the database."""
    assert fork(shell, SQLITE, "orphan") == Ended(0, "sent\n", "")

    with closing(sqlite3.connect(shell.directory / "queue.db")) as file:
        [count] = file.execute("SELECT count(*) FROM messages").fetchone()
    assert count == 21


STUCK = """
import os, threading

from asyncq import ConfigurationError
from asyncq.drivers.sqlite import forks
from tasks import add, app

forks.FORK_PATIENCE = 0.1
with app.sync() as client:
    client.enqueue(add.s(1, 1))
    begun = threading.Event()
    access = next(iter(vars(forks)["_all"]))
    threading.Thread(target=lambda: access.__enter__() and begun.set()).start()
    begun.wait()
    child = os.fork()
    if child:
        access.__exit__(None, None, None)
        assert os.waitpid(child, 0)[1] == 0
        client.enqueue(add.s(1, 1))
    else:
        try:
            client.enqueue(add.s(1, 1))
        except ConfigurationError as error:
            print(error, flush=True)
            os._exit(0)
        os._exit(1)
"""


def test_a_child_of_a_fork_that_could_not_wait_is_told_so(shell: Shell) -> None:
    (shell.directory / "script.py").write_text(STUCK)

    ended = shell.run([sys.executable, "script.py"])

    assert (ended.code, ended.err) == (0, "")
    assert "queue.db cannot be opened in this process: it was forked while its parent" in ended.out


HEAD = """
import atexit, sys, threading
from tasks import add, app

client = app.sync().__enter__()
client.enqueue(add.s(1, 2))
"""
WAIT_IN_A_DAEMON = """
result = client.enqueue(add.s(1, 1))
threading.Thread(target=result.get, daemon=True).start()
"""
FAIL_TO_OPEN = """
import asyncq

try:
    asyncq.App("sqlite:////nowhere/queue.db").sync().__enter__()
except asyncq.ConfigurationError:
    pass
"""
ENDS = {
    "falls off": ("", 0, ""),
    "exits": ("sys.exit(3)", 3, ""),
    "fails": ("raise RuntimeError('mine')", 1, "RuntimeError: mine"),
    "exits in a thread": (
        "thread = threading.Thread(target=sys.exit)\nthread.start()\nthread.join()",
        0,
        "",
    ),
    "uses it at exit": ("atexit.register(lambda: client.enqueue(add.s(3, 4)))", 0, ""),
    "waits in a daemon": (WAIT_IN_A_DAEMON, 0, ""),
    "has another that failed": (FAIL_TO_OPEN, 0, ""),
}


@pytest.mark.parametrize("end", ENDS)
def test_a_client_that_was_never_left_does_not_keep_the_interpreter(shell: Shell, end: str) -> None:
    rest, code, complaint = ENDS[end]
    (shell.directory / "script.py").write_text(HEAD + rest)

    ended = shell.run([sys.executable, "script.py"])

    assert (ended.code, ended.out) == (code, "")
    assert ended.err.rstrip().endswith(complaint) if complaint else ended.err == ""


INTERRUPTED = """
import os, signal, threading
from tasks import add, app

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
try:
    with app.sync() as client:
        result = client.enqueue(add.s(1, 2))
        threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT)).start()
        result.get()
except KeyboardInterrupt:
    print(sum(thread.name == "asyncq-sync" for thread in threading.enumerate()), "left")
"""


def test_an_interrupt_ends_a_wait_and_leaves(shell: Shell) -> None:
    (shell.directory / "script.py").write_text(INTERRUPTED)

    assert shell.run([sys.executable, "script.py"]) == Ended(0, "0 left\n", "")


def test_an_app_that_was_never_left_does_not_keep_the_interpreter(shell: Shell) -> None:
    (shell.directory / "script.py").write_text(
        "import asyncio\nfrom tasks import add, app\n\n\n"
        "async def main():\n    await app.__aenter__()\n    await add.enqueue(1, 2)\n\n\n"
        "asyncio.run(main())\n"
    )

    assert shell.run([sys.executable, "script.py"]) == Ended(0, "", "")
