"""``asyncq dead``, run as processes: dead letters are seen, chosen, sent again, and deleted."""

import asyncio
import base64
import signal
from pathlib import Path

import pytest

from asyncq.app import App
from asyncq.language.envelope import Envelope
from asyncq.seams.broker import MAX_BATCH
from tests.system.commands import Ended, Shell

URL = "sqlite:///queue.db"
ESCAPE = "\x1b"


@pytest.fixture
def dead(shell: Shell) -> list[str]:
    """Three dead letters whose bytes, and one whose id, were made to do harm."""
    ids = ["first", f"{ESCAPE}[31msecond", "third"]
    asyncio.run(_publish(shell.directory / "queue.db", ids))
    assert shell.asyncq("worker", "tasks:app", "--burst").code == 0
    return ids


async def _publish(path: Path, ids: list[str]) -> None:
    body = b"\xff\x1b]0;owned\x07"
    async with App(f"sqlite:///{path}") as app:
        await app.client.broker.publish([Envelope(id=id, queue="default", body=body) for id in ids])


@pytest.fixture
def failed(shell: Shell) -> list[str]:
    """Two dead letters of tasks that failed, in queue bad."""
    ids = [
        shell.asyncq("call", "tasks:app", "fail", f'"no {what}"').out.strip()
        for what in ("money", "time")
    ]
    assert shell.asyncq("worker", "tasks:app", "--burst").code == 0
    return ids


def test_dead_letters_are_listed_without_steering_the_terminal(
    shell: Shell, dead: list[str]
) -> None:
    table = shell.asyncq("dead", "list", "tasks:app", "--body")
    listed = shell.asyncq("dead", "list", URL, "default", "--json", "--body")

    assert table.code == 0
    assert ESCAPE not in table.out
    assert "\\x1b[31msecond" in table.out
    assert "\\xff\\x1b]0;owned\\x07" in table.out
    assert "Undecodable" in table.out
    assert ESCAPE not in listed.out
    assert [letter["id"] for letter in listed.data] == dead
    first = listed.data[0]
    assert first["reason"].startswith("Undecodable")
    assert first["died_at"] > 0
    assert base64.b64decode(first["body"]) == b"\xff\x1b]0;owned\x07"
    assert {key: first[key] for key in ("queue", "task", "attempt", "crashes", "size")} == {
        "queue": "default",
        "task": None,
        "attempt": None,
        "crashes": 0,
        "size": 11,
    }


def test_what_failed_is_listed_with_its_error(shell: Shell, failed: list[str]) -> None:
    plain = shell.asyncq("dead", "list", "tasks:app")
    traced = shell.asyncq("dead", "list", "tasks:app", "--traceback")
    as_json = shell.asyncq("dead", "list", URL, "--json").data
    shown = shell.asyncq("dead", "show", URL, failed[1])

    head, reason, *_ = plain.out.splitlines()
    assert head.startswith(f"{failed[0]} queue bad, task tasks.fail, attempt 1, 2")
    assert head.endswith(" ago), 28 bytes")
    assert reason == "  ValueError: no money"
    assert "raise ValueError(text)" not in plain.out
    assert traced.out.count("    raise ValueError(text)") == 2
    assert [letter["error"]["message"] for letter in as_json] == ["no money", "no time"]
    assert "raise ValueError(text)" in as_json[0]["error"]["traceback"]
    assert (as_json[0]["attempt"], as_json[0]["task"]) == (1, "tasks.fail")
    assert shown.code == 0
    assert "reason   ValueError: no time" in shown.out
    assert "raise ValueError(text)" in shown.out


def test_the_list_of_dead_letters_ends_at_its_limit(shell: Shell, dead: list[str]) -> None:
    listed = shell.asyncq("dead", "list", "tasks:app", "--limit", "2", "--json")
    table = shell.asyncq("dead", "list", "tasks:app", "--limit", "2")
    whole = shell.asyncq("dead", "list", "tasks:app", "--limit", "3")

    assert [letter["id"] for letter in listed.data] == dead[:2]
    assert "there are more" in table.err
    assert whole.err == ""


def test_dead_letters_are_chosen_by_task_reason_and_age(
    shell: Shell, dead: list[str], failed: list[str]
) -> None:
    def listed(*options: str) -> list[str]:
        letters = shell.asyncq("dead", "list", "tasks:app", "--json", *options).data
        return [letter["id"] for letter in letters]

    assert listed("--task", "tasks.*") == failed
    assert listed("--task", "fail") == failed
    assert listed("--reason", "NO TIME") == failed[1:]
    assert listed("--reason", "undecodable*") == dead
    assert listed("--older-than", "1h") == []
    assert sorted(listed("--newer-than", "1h30m")) == sorted([*dead, *failed])
    assert listed("--queue", "bad", "--limit", "1") == failed[:1]
    none = shell.asyncq("dead", "list", "tasks:app", "--task", "nobody")
    assert none == Ended(0, "There are no such dead letters.\n", "")


def test_dead_letters_are_replayed_by_id_in_whatever_queue(
    shell: Shell, dead: list[str], failed: list[str]
) -> None:
    replayed = shell.asyncq("dead", "replay", "tasks:app", "first", failed[0])
    of_a_queue = shell.asyncq("dead", "replay", "tasks:app", "default", "third")

    assert replayed == Ended(0, "2 dead letters replayed.\n", "")
    assert of_a_queue == Ended(0, "1 dead letter replayed.\n", "")
    [bad, default] = shell.asyncq("queues", URL, "--json").data
    assert (default["ready"], default["dead"]) == (2, 1)
    assert (bad["ready"], bad["dead"]) == (1, 1)


def test_many_are_replayed_only_when_that_is_said(
    shell: Shell, dead: list[str], failed: list[str]
) -> None:
    which = ("dead", "replay", "tasks:app", "--reason", "no time")
    refused = shell.asyncq(*which, stdin="n\n")
    unanswered = shell.asyncq("dead", "replay", "tasks:app", "--all")
    agreed = shell.asyncq(*which, stdin="y\n")
    rest = shell.asyncq("dead", "replay", "tasks:app", "--all", "--yes", "--json")

    assert (refused.code, unanswered.code) == (1, 1)
    assert "Replay 1 dead letter of all queues at sqlite:///queue.db?" in refused.err
    assert "Replay 5 dead letters of all queues" in unanswered.err
    assert (agreed.code, agreed.out) == (0, "1 dead letter replayed.\n")
    assert rest.data == {"replayed": 4}
    assert shell.asyncq("worker", "tasks:app", "--burst").code == 0
    listed = shell.asyncq("dead", "list", "tasks:app", "--json")
    assert {letter["id"] for letter in listed.data} == {*dead, *failed}


def test_an_id_that_is_no_dead_letter_is_reported_and_keeps_its_outcome(shell: Shell) -> None:
    with shell.worker():
        called = shell.asyncq("call", "tasks:app", "add", "1", "2", "--wait", "--json").data

    replayed = shell.asyncq("dead", "replay", "tasks:app", "default", called["id"], "nobody")

    assert replayed.code == 1
    assert "not there: 2 of 2" in replayed.err
    assert shell.asyncq("result", "tasks:app", called["id"], "--json").data["value"] == 3


def test_a_word_that_is_neither_id_nor_queue_is_told_with_the_nearest_name(
    shell: Shell, dead: list[str]
) -> None:
    queue = shell.asyncq("dead", "replay", "tasks:app", "defualt", "first")
    id = shell.asyncq("dead", "delete", "tasks:app", "frist", "--json")
    shown = shell.asyncq("dead", "show", "tasks:app", "thrid")

    assert queue.code == 1
    assert queue.out == "1 dead letter replayed.\n"
    assert "no dead letter has the id 'defualt', and no queue is called so" in queue.err
    assert "did you mean default?" in queue.err
    assert (id.code, id.data) == (1, {"deleted": 0, "missing": ["frist"]})
    assert shown.code == 2
    assert "did you mean third?" in shown.err


def test_dead_letters_are_deleted(shell: Shell, dead: list[str]) -> None:
    refused = shell.asyncq("dead", "delete", "tasks:app", "--all")
    one = shell.asyncq("dead", "delete", "tasks:app", dead[1])
    limited = shell.asyncq("dead", "delete", "tasks:app", "--all", "--limit", "1", "--yes")
    rest = shell.asyncq("dead", "delete", URL, "--all", "--yes", "--json")

    assert refused.code == 1
    assert "Delete 3 dead letters of all queues at sqlite:///queue.db, for good?" in refused.err
    assert one == Ended(0, "1 dead letter deleted.\n", "")
    assert limited.out == one.out
    assert rest.data == {"deleted": 1}
    assert shell.asyncq("dead", "list", "tasks:app").out == "There are no dead letters.\n"


def test_more_dead_letters_than_a_page_are_changed_and_those_left_out_stay(shell: Shell) -> None:
    asyncio.run(_publish(shell.directory / "queue.db", [f"{n:04}" for n in range(1200)]))
    assert shell.asyncq("worker", "tasks:app", "--burst").code == 0
    failed = shell.asyncq("call", "tasks:app", "fail", '"no"', "--queue", "default").out.strip()
    assert shell.asyncq("worker", "tasks:app", "--burst").code == 0

    deleted = shell.asyncq("dead", "delete", URL, "--reason", "Undecodable", "--yes", "--json")

    assert deleted.data == {"deleted": 1200}
    assert [letter["id"] for letter in shell.asyncq("dead", "list", URL, "--json").data] == [failed]


STANDS_STILL = """
import sys

import anyio
from asyncq.client.queues import DeadLetters
from tasks import app

replay, batches = DeadLetters.replay, 0


async def replay_one_batch(self, queue, ids):
    global batches
    batches += 1
    if batches > 1:
        print("second batch", file=sys.stderr, flush=True)
        await anyio.sleep_forever()
    return await replay(self, queue, ids)


DeadLetters.replay = replay_one_batch
"""


def test_ctrl_c_in_a_long_replay_says_how_far_it_came_and_ends(shell: Shell) -> None:
    asyncio.run(_publish(shell.directory / "queue.db", [f"{n:04}" for n in range(1200)]))
    assert shell.asyncq("worker", "tasks:app", "--burst").code == 0
    (shell.directory / "still.py").write_text(STANDS_STILL)

    with shell.start("dead", "replay", "still:app", "--all", "--yes") as command:
        command.wait_for("second batch")
        command.send(signal.SIGINT)
        said = command.wait_for("interrupted")
        code = command.wait()
    left = shell.asyncq("queues", URL, "--json").data

    assert code == 130
    assert f"at least {MAX_BATCH} dead letters replayed" in said
    assert not any("Traceback" in line for line in command.lines)
    assert [(queue["ready"], queue["dead"]) for queue in left] == [(MAX_BATCH, 1200 - MAX_BATCH)]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("replay tasks:app", ["which dead letters?", "--all"]),
        ("replay tasks:app default", ["dead letters of queue default", "--all"]),
        ("delete tasks:app first --all", ["not both"]),
        ("delete tasks:app first --task x", ["not both"]),
        ("replay tasks:app --all --queue defualt", ["no queue 'defualt'", "did you mean default?"]),
        ("list tasks:app --older-than tomorrow", ["--older-than takes an age", "2h", "tomorrow"]),
        ("list tasks:app --newer-than -1h", ["--newer-than takes an age"]),
    ],
)
def test_a_wrong_choice_is_one_line_that_says_what_to_write(
    shell: Shell, dead: list[str], arguments: str, words: list[str]
) -> None:
    ended = shell.asyncq("dead", *arguments.split(" "))

    assert (ended.code, ended.out) == (2, "")
    [line] = ended.err.splitlines()
    assert all(word in line for word in words), line
    assert shell.asyncq("queues", URL, "--json").data[-1]["dead"] == 3
