"""Cancelling and retrying as users do it: from the shell, and as the examples have it."""

import shutil
import signal
import sys
from pathlib import Path

from tests.system.commands import Shell, wait_until_there

EXAMPLES = Path(__file__).parents[2] / "examples"

STUBBORN = """
import asyncio
from pathlib import Path

import asyncq

app = asyncq.App(
    "sqlite:///queue.db", config=asyncq.Config(cancel_grace=0.1, max_stuck=2, grace=1)
)


@app.task
async def ignore(name: str) -> None:
    Path(name).touch()
    while True:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            pass


@app.task
async def add(x: int, y: int) -> int:
    return x + y
"""


def example(shell: Shell, name: str) -> list[str]:
    shutil.copy(EXAMPLES / name, shell.directory)
    ended = shell.run([sys.executable, name])
    assert ended.code == 0, ended.err
    return ended.out.splitlines()


def test_the_example_of_cancelling(shell: Shell) -> None:
    said = example(shell, "cancelling.py")
    assert "what waits: cancelled" in said
    assert "what runs: asked" in said
    assert "what runs in a thread: asked" in said
    assert "the export of ann has cleaned up" in said
    assert said.count("cancelled: eve did not pay") == 5
    for why in ("bob has left", "ann has seen enough", "nobody needs it"):
        assert f"cancelled: {why}" in said


def test_the_example_of_retrying(shell: Shell) -> None:
    assert example(shell, "retrying.py") == [
        "charged plain in attempt 1",
        "charged busy in attempt 3",
        "failed: CardDeclined: declined",
        "failed: Rejected: the card is stolen",
        "ignored: it was charged yesterday",
        "charged at night in attempt 1",
        "charged new number in attempt 2",
    ]


def test_messages_are_cancelled_from_the_shell(shell: Shell) -> None:
    sent = [
        shell.asyncq("call", "tasks:app", "add", "1", "2", "--delay", "3600").out.strip()
        for _ in range(3)
    ]
    one = shell.asyncq("control", "cancel", "tasks:app", sent[0], "--reason", "not today")
    assert (one.code, one.out) == (0, f"{sent[0]} cancelled: it never runs, or not again\n")
    told = shell.asyncq("result", "tasks:app", sent[0])
    assert told.code == 1
    assert "reason   not today" in told.out
    again = shell.asyncq("control", "cancel", "tasks:app", sent[0], sent[1], "nobody", "--json")
    assert again.code == 1
    assert again.data == {sent[0]: "ended", sent[1]: "cancelled", "nobody": "unknown"}

    rest = shell.asyncq("control", "cancel", "sqlite:///queue.db", "-", stdin=f"{sent[2]}\n")
    assert rest.code == 0
    assert shell.asyncq("worker", "tasks:app", "--burst").code == 0


def test_all_of_a_task_are_cancelled_from_the_shell(shell: Shell) -> None:
    sent = [shell.asyncq("call", "tasks:app", "add", "1", "2").out.strip() for _ in range(2)]
    asked = shell.asyncq("control", "cancel", "tasks:app", "--task", "tasks.add", stdin="n\n")
    assert asked.code != 0
    done = shell.asyncq(
        "control", "cancel", "tasks:app", "--task", "tasks.add", "--reason", "wrong", "--yes"
    )
    assert done.code == 0
    assert "of task tasks.add is cancelled, as workers come to it" in done.out
    ended = shell.asyncq("worker", "tasks:app", "--burst")
    assert ended.code == 0
    assert "2 cancelled" in ended.err
    for id in sent:
        assert "status   cancelled" in shell.asyncq("result", "tasks:app", id).out


def test_what_makes_no_sense_is_said(shell: Shell) -> None:
    for arguments, told in (
        ((), "give IDS, or what they are by --task, --queue or --header"),
        (("one", "--task", "add"), "give IDS, or what they are"),
        (("--header", "tenant"), "write it as NAME=VALUE"),
    ):
        ended = shell.asyncq("control", "cancel", "tasks:app", *arguments)
        assert ended.code != 0
        assert told in ended.err


def test_what_runs_is_asked_and_each_of_several_is_answered_for(shell: Shell) -> None:
    (shell.directory / "stubborn.py").write_text(STUBBORN)
    with shell.start("worker", "stubborn:app") as worker:
        worker.wait_for("is ready")
        runs = shell.asyncq("call", "stubborn:app", "ignore", '"runs"').out.strip()
        wait_until_there(shell.directory / "runs")
        waits = shell.asyncq("call", "stubborn:app", "add", "1", "2", "--delay", "60").out.strip()
        told = shell.asyncq("control", "cancel", "stubborn:app", runs, waits, "--json")
        assert told.data == {runs: "asked", waits: "cancelled"}
        assert told.code == 0
        worker.wait_for("is left behind")
        told = shell.asyncq("control", "cancel", "stubborn:app", runs, waits)
        assert told.out.count("had ended before") == 2
        assert "0 of 2 messages cancelled or asked to end" in told.out
        assert told.code == 1


def test_where_nothing_can_be_cancelled_that_is_said(shell: Shell) -> None:
    (shell.directory / "forgetful.py").write_text(
        'import asyncq\napp = asyncq.App("sqlite:///queue.db", backend="null://")\n'
    )
    assert shell.asyncq("call", "tasks:app", "add", "1", "2").code == 0  # there is a database
    for what in (("one", "two"), ("--queue", "mail", "--yes")):
        told = shell.asyncq("control", "cancel", "forgetful:app", *what)
        assert told.code != 0
        assert "keeps no marks" in told.err.replace("\n", " ")
        assert told.out == ""


def test_a_process_with_too_many_that_ignore_their_end_is_replaced(shell: Shell) -> None:
    (shell.directory / "stubborn.py").write_text(STUBBORN)
    with shell.start("worker", "stubborn:app", "--concurrency", "4") as worker:
        worker.wait_for("is ready")
        for name in ("one", "two"):
            id = shell.asyncq("call", "stubborn:app", "ignore", f'"{name}"').out.strip()
            wait_until_there(shell.directory / name)
            assert shell.asyncq("control", "cancel", "stubborn:app", id).code == 0
            worker.wait_for("is left behind")
            assert "status   cancelled" in shell.asyncq("result", "stubborn:app", id).out
        worker.wait_for("has 2 tasks that did not end when told to")
        worker.wait_for("without waiting for 2 asyncio tasks that ignored their cancellation")
        worker.wait_for("exited with code 1 while it drained")
        done = shell.asyncq("call", "stubborn:app", "add", "1", "2", "--timeout", "20")
        assert done.out == "3\n"
        worker.send(signal.SIGTERM)
        assert worker.wait() == 0
