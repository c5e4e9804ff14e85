"""The demo, run as a process over real files, whole and in pieces."""

import asyncio
import hashlib
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from asyncq.app import App
from asyncq.cli.demo_run import LAST_RUN, message_id
from asyncq.cli.demo_tasks import Plan
from tests.system.commands import TIMEOUT, Shell

HUGE = 10**13  # bytes, none of them on the disk: reading them takes hours

# The demo, and a line in a file for every time that it begins to read one of the files.
COUNTED = (
    sys.executable,
    "-c",
    """
import os
from asyncq.cli import demo_tasks
from asyncq.cli.main import main

runs = os.open("runs.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
read_blocks = demo_tasks.read_blocks

def counted(path):
    os.write(runs, path + b"\\n")
    return read_blocks(path)

demo_tasks.read_blocks = counted
main()
""",
)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Files as they come: empty, binary, with bad names, without a last newline; and circles."""
    root = tmp_path / "tree"
    (root / "deep" / "er").mkdir(parents=True)
    (root / "empty").touch()
    (root / "text with spaces.txt").write_text("one\ntwo\n")
    (root / "unended").write_text("one\ntwo")
    (root / "deep" / "binary").write_bytes(bytes(range(256)) * 10_000)
    (root / "deep" / "er" / "line\nbreak \x1b[31m").write_text("\n\n\n")
    Path(os.fsdecode(os.fsencode(root) + b"/latin-\xe9\xff.txt")).write_bytes(b"caf\xe9\n")
    (root / "deep" / "circle").symlink_to(root)
    (root / "dangling").symlink_to(root / "nowhere")
    (root / "link").symlink_to(root / "unended")
    os.mkfifo(root / "pipe")
    return root


def test_the_demo_counts_as_other_tools_do(shell: Shell, tree: Path) -> None:
    ended = shell.asyncq("demo", "tree", "--json")

    assert ended.code == 0, ended.err
    files = [path for path in tree.rglob("*") if path.is_file() and not path.is_symlink()]
    names = [os.fsencode(path.relative_to(tree)) for path in files]
    measured = {os.fsencode(one["path"]): one for one in ended.data["measured"]}
    assert sorted(measured) == sorted(names)
    for name, one in measured.items():
        path = os.fsencode(tree) + b"/" + name
        content = Path(os.fsdecode(path)).read_bytes()
        assert one["bytes"] == len(content)
        assert one["sha256"] == hashlib.sha256(content).hexdigest()
        assert one["sha256"] in shell.run(["sha256sum", path]).out
        assert one["lines"] == int(shell.run(["wc", "-l", path]).out.split()[0])
    assert ended.data["files"] == ended.data["tasks"] == len(names) == 6
    assert ended.data["bytes"] == sum(one["bytes"] for one in measured.values())
    assert ended.data["lines"] == sum(one["lines"] for one in measured.values())
    digests = b"".join(bytes.fromhex(measured[name]["sha256"]) for name in sorted(names))
    once = hashlib.sha256(digests).digest()  # one batch, and one sum of it
    assert ended.data["digest"] == hashlib.sha256(once).hexdigest()
    assert (ended.data["failed"], ended.data["failures"]) == (0, [])


def test_the_demo_prints_what_people_read(shell: Shell, tree: Path) -> None:
    ended = shell.asyncq("demo", str(tree))

    assert ended.code == 0
    assert ended.err == ""
    facts = {line.split()[0]: line.split(maxsplit=1)[-1] for line in ended.out.splitlines()[1:]}
    assert facts["files"] == "6"
    assert facts["bytes"].startswith("2,560,0")
    assert facts["failed"] == "0"
    assert facts["tasks"].startswith("6 in ")


def test_the_demo_reads_the_standard_library_by_itself(shell: Shell) -> None:
    ended = shell.asyncq("demo", "--limit", "600", "--json")

    assert ended.code == 0
    assert ended.data["directory"] == os.path.dirname(os.path.realpath(os.__file__))
    assert len(ended.data["measured"]) + ended.data["failed"] == 600


def test_its_own_file_is_not_measured(shell: Shell) -> None:
    ended = shell.asyncq("demo", ".", "--json")

    assert ended.code == 0
    assert [one["path"] for one in ended.data["measured"]] == ["tasks.py"]


def test_a_file_that_cannot_be_read_is_counted_and_named(shell: Shell, tree: Path) -> None:
    # Even root cannot open a path longer than the system takes.
    deep, levels = os.open(tree, os.O_RDONLY), 17
    for _ in range(levels):
        os.mkdir("d" * 230, dir_fd=deep)
        deep = _step_into(deep, "d" * 230)
    os.close(os.open("f" * 250, os.O_WRONLY | os.O_CREAT, dir_fd=deep))
    os.close(deep)

    as_json = shell.asyncq("demo", "tree", "--json")
    printed = shell.asyncq("demo", "tree")

    assert (as_json.code, printed.code) == (0, 0)
    assert (as_json.data["files"], as_json.data["failed"]) == (6, 1)
    [failure] = as_json.data["failures"]
    assert failure["path"].endswith("f" * 250)
    assert "File name too long" in failure["error"]
    assert "File name too long" in printed.err
    assert "Traceback" not in printed.err


def _step_into(folder: int, name: str) -> int:
    inner = os.open(name, os.O_RDONLY, dir_fd=folder)
    os.close(folder)
    return inner


def test_killed_and_resumed_it_repeats_nothing_that_ended(shell: Shell, tmp_path: Path) -> None:
    tree = _many_files(tmp_path, huge="150")
    demo = ("demo", "tree", "--concurrency", "4")
    with shell.start(*demo, program=COUNTED) as killed:
        _wait_for_runs(shell, 200)
        killed.send(signal.SIGKILL)
        assert killed.wait() == -signal.SIGKILL
    paths = [os.fsencode(path) for path in sorted(tree.iterdir())]
    ended = asyncio.run(_ended(shell.directory / "asyncq-demo.db", paths))
    os.truncate(tree / "150", 2)

    resumed = shell.run([*COUNTED, "demo", "--resume", "--concurrency", "4", "--json"])
    runs = _runs(shell)
    again = shell.run([*COUNTED, "demo", "tree", "--resume", "--json"])

    assert len(ended) >= 100
    assert all(runs[path] == 1 for path in ended)
    assert all(runs[path] in {1, 2} for path in paths)
    _check_numbers(resumed.data, tree)
    assert resumed.data["ended_before"] >= len(ended)
    assert again.data["ended_before"] == 300
    assert again.data["digest"] == resumed.data["digest"]
    assert _runs(shell) == runs


def test_interrupted_it_says_how_to_go_on(shell: Shell, tmp_path: Path) -> None:
    tree = _many_files(tmp_path, huge="150")
    with shell.start("demo", "tree", "--concurrency", "4", program=COUNTED) as interrupted:
        _wait_for_runs(shell, 200)
        interrupted.send(signal.SIGINT)
        code = interrupted.wait()
    os.truncate(tree / "150", 2)

    resumed = shell.run([*COUNTED, "demo", "--resume", "--json"])

    assert code == 130
    [line] = interrupted.lines
    assert line.endswith("To finish the rest: asyncq demo --resume\n")
    _check_numbers(resumed.data, tree)
    assert resumed.data["ended_before"] >= 150
    runs = _runs(shell)
    assert runs.pop(os.fsencode(tree / "150")) == 2  # it was given back
    assert set(runs.values()) == {1}


def test_without_resume_it_starts_afresh(shell: Shell, tree: Path) -> None:
    first = shell.run([*COUNTED, "demo", "tree", "--json"])
    (tree / "empty").write_text("not any more\n")
    second = shell.run([*COUNTED, "demo", "tree", "--json"])

    assert second.data["run"] != first.data["run"]
    assert second.data["bytes"] == first.data["bytes"] + 13
    assert second.data["ended_before"] == 0


def test_resuming_where_nothing_was_begun_begins(shell: Shell, tree: Path) -> None:
    ended = shell.asyncq("demo", "tree", "--resume", "--json")

    assert (ended.code, ended.data["files"], ended.data["ended_before"]) == (0, 6, 0)


@pytest.mark.parametrize("other", [["."], ["--limit", "3"]])
def test_resuming_another_run_is_refused(shell: Shell, tree: Path, other: list[str]) -> None:
    shell.asyncq("demo", "tree")

    ended = shell.asyncq("demo", "--resume", *other)

    assert (ended.code, ended.out) == (2, "")
    assert f"all files of {tree}" in ended.err
    assert ended.err.count("\n") == 1


def _many_files(directory: Path, *, huge: str) -> Path:
    """Three hundred files, one of which cannot be read to its end in a lifetime of a test."""
    tree = directory / "tree"
    tree.mkdir()
    for number in range(300):
        (tree / f"{number:03}").write_text(f"{number}\n")
    os.truncate(tree / huge, HUGE)
    return tree


def _check_numbers(data: dict[str, Any], tree: Path) -> None:
    contents = {path.name: path.read_bytes() for path in tree.iterdir()}
    assert {one["path"]: one["sha256"] for one in data["measured"]} == {
        name: hashlib.sha256(content).hexdigest() for name, content in contents.items()
    }
    assert data["files"] == len(contents)
    assert data["bytes"] == sum(map(len, contents.values()))
    assert data["failed"] == 0


def _runs(shell: Shell) -> Counter[bytes]:
    """How many times each file was begun to be read."""
    return Counter((shell.directory / "runs.log").read_bytes().splitlines())


def _wait_for_runs(shell: Shell, number: int) -> None:
    deadline = time.monotonic() + TIMEOUT
    log = shell.directory / "runs.log"
    while not log.exists() or log.read_bytes().count(b"\n") < number:
        assert time.monotonic() < deadline
        time.sleep(0.01)  # files have no way to tell us


async def _ended(database: Path, paths: Sequence[bytes]) -> Sequence[bytes]:
    """The files whose outcome is recorded in a demo's database."""
    async with App(f"sqlite:///{database}") as app:
        plan = Plan(**await app.result(LAST_RUN))
        records = await app.client.backend.fetch([message_id(plan, path) for path in paths])
    return [path for path, record in zip(paths, records, strict=True) if record is not None]
