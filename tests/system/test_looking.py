"""What only looks makes nothing, and a name that nobody knows is said to be one."""

from pathlib import Path

import pytest

from tests.system.commands import Shell

LOOKS = [
    "queues {}",
    "queues peek {} default",
    "purge {} default --yes",
    "result {} someid",
    "result {} someid --wait --timeout 1",
    "dead list {}",
    "dead list {} --json",
    "dead show {} someid",
    "dead replay {} someid",
    "dead delete {} --all --yes",
]


@pytest.mark.parametrize("target", ["sqlite:///nofile.db", "tasks:app"])
@pytest.mark.parametrize("command", LOOKS)
def test_no_database_is_made_by_looking(shell: Shell, command: str, target: str) -> None:
    before = sorted(shell.directory.iterdir())

    ended = shell.asyncq(*command.format(target).split(" "))

    assert (ended.code, ended.out) == (2, "")
    [line] = ended.err.splitlines()
    assert "there is no database" in line
    assert str(shell.directory) in line
    assert sorted(shell.directory.iterdir()) == before


def test_an_empty_file_stays_empty_when_it_is_looked_at(shell: Shell) -> None:
    (shell.directory / "nofile.db").touch()

    ended = shell.asyncq("queues", "sqlite:///nofile.db")

    assert ended.code == 2
    assert [path.stat().st_size for path in shell.directory.glob("nofile*")] == [0]


def test_nor_is_a_backend_made_by_looking(shell: Shell) -> None:
    shell.asyncq("call", "tasks:app", "add", "1", "2")
    source = (
        "import asyncq\n\napp = asyncq.App('sqlite:///queue.db', backend='sqlite:///more.db')\n"
    )
    (shell.directory / "two.py").write_text(source)

    ended = shell.asyncq("result", "two:app", "someid")

    assert ended.code == 2
    assert "no database more.db" in ended.err
    assert not list(shell.directory.glob("more.db*"))


def test_nothing_is_left_beside_a_database_that_was_looked_at(shell: Shell) -> None:
    shell.asyncq("call", "tasks:app", "add", "1", "2")
    files = names(shell.directory)

    assert shell.asyncq("queues", "tasks:app").code == 0
    assert shell.asyncq("dead", "list", "tasks:app").code == 0

    assert names(shell.directory) == files
    assert "queue.db-wal" not in files


def names(directory: Path) -> set[str]:
    return {path.name for path in directory.iterdir()}


# Queues that nobody knows


def test_a_worker_warns_of_a_queue_that_nobody_knows_and_consumes_it(shell: Shell) -> None:
    with shell.start("worker", "tasks:app", "-q", "defualt", "-q", "bad") as worker:
        warning = worker.wait_for("queue defualt")
        worker.wait_for("consumes")

    assert "WARNING" in warning
    assert "did you mean default?" in warning
    assert not [line for line in worker.lines if "queue bad is known" in line]


def test_a_call_to_a_queue_that_nobody_knows_is_sent_with_a_warning(shell: Shell) -> None:
    called = shell.asyncq("call", "tasks:app", "add", "1", "2", "--queue", "defualt")
    again = shell.asyncq("call", "tasks:app", "add", "1", "2", "--queue", "defualt")

    assert (called.code, again.code) == (0, 0)
    assert "did you mean default?" in called.err
    assert again.err == ""
    [queue] = [each for each in shell.asyncq("queues", "tasks:app", "--json").data if each["ready"]]
    assert (queue["queue"], queue["ready"]) == ("defualt", 2)


def test_a_queue_that_is_not_there_is_not_purged(shell: Shell) -> None:
    shell.asyncq("call", "tasks:app", "add", "1", "2")

    ended = shell.asyncq("purge", "tasks:app", "defualt", "--yes")

    assert ended.code == 2
    assert "there is no queue 'defualt'" in ended.err
    assert "did you mean default?" in ended.err
