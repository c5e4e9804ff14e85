"""``asyncq queues peek``: what waits is shown, and stays where it is."""

from tests.system.commands import Ended, Shell


def test_what_waits_is_shown_in_its_order_and_stays(shell: Shell) -> None:
    first = shell.asyncq("call", "tasks:app", "add", "1", "2").out.strip()
    later = shell.asyncq("call", "tasks:app", "add", "3", "4", "--delay", "7200").out.strip()
    urgent = shell.asyncq("call", "tasks:app", "add", "5", "6", "--priority", "9").out.strip()

    table = shell.asyncq("queues", "peek", "tasks:app", "default")
    listed = shell.asyncq("queues", "peek", "tasks:app", "default", "--json").data
    limited = shell.asyncq("queues", "peek", "tasks:app", "default", "--limit", "1", "--json").data

    lines = table.out.splitlines()
    assert [line.split(" ")[0] for line in lines] == [urgent, first, later]
    assert "task tasks.add, sent " in lines[0]
    assert "priority 9, attempt 1, " in lines[0]
    assert "due in 2 h" in lines[2]
    assert [each["id"] for each in listed] == [urgent, first, later]
    assert [each["task"] for each in listed] == ["tasks.add"] * 3
    assert listed[0]["due"] is None
    assert listed[2]["due"] > listed[2]["enqueued_at"]
    assert [each["id"] for each in limited] == [urgent]
    assert shell.asyncq("queues", "tasks:app", "--json").data[-1]["ready"] == 2


def test_arguments_are_shown_only_when_they_are_asked_for(shell: Shell) -> None:
    shell.asyncq("call", "tasks:app", "hold", '"pa55word"', "--kwargs", '{"steps": 4}')

    without = shell.asyncq("queues", "peek", "tasks:app", "default")
    plain = shell.asyncq("queues", "peek", "tasks:app", "default", "--args")
    as_json = shell.asyncq("queues", "peek", "tasks:app", "default", "--args", "--json").data

    assert "pa55word" not in without.out
    assert '{"args": ["pa55word"], "kwargs": {"steps": 4}}' in plain.out
    assert (as_json[0]["args"], as_json[0]["kwargs"]) == (["pa55word"], {"steps": 4})


def test_an_empty_queue_and_one_that_is_not_there(shell: Shell) -> None:
    shell.asyncq("call", "tasks:app", "add", "1", "2")

    empty = shell.asyncq("queues", "peek", "tasks:app", "bad")
    unknown = shell.asyncq("queues", "peek", "tasks:app", "defualt")

    assert empty == Ended(0, "Nothing waits in queue bad.\n", "")
    assert unknown.code == 2
    assert "did you mean default?" in unknown.err


def test_queues_are_listed_without_saying_so(shell: Shell) -> None:
    shell.asyncq("call", "tasks:app", "add", "1", "2")

    short, long = (
        shell.asyncq("queues", *words, "tasks:app", "--json") for words in ((), ("list",))
    )
    before = shell.asyncq("queues", "--json", "tasks:app")

    assert short.data[-1]["queue"] == "default"
    assert [each["queue"] for each in long.data] == [each["queue"] for each in before.data]
