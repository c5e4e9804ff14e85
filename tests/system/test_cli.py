"""The command line, run as processes: what it prints, how it ends, and what it survives."""

import importlib.metadata
import signal
import sys
from pathlib import Path

import pytest

from asyncq.app import App
from asyncq.cli.child import brokers_of
from tests.system.commands import Ended, Shell, wait_until_there

URL = "sqlite:///queue.db"
UNREACHABLE = "redis://user:pa55word@127.0.0.1:1/0"
ESCAPE = "\x1b"


# Calls and results


def test_a_task_called_from_the_shell_is_run_and_its_value_printed(shell: Shell) -> None:
    with shell.worker():
        called = shell.asyncq("call", "tasks:app", "tasks.add", "1", "2", "--wait")

    assert called == Ended(0, "3\n", "")


def test_a_call_prints_an_id_that_result_knows(shell: Shell) -> None:
    id = shell.asyncq("call", "tasks:app", "add", "1", "--kwargs", '{"y": -3}').out.strip()
    before = shell.asyncq("result", "tasks:app", id, "--json")
    burst = shell.asyncq("worker", "tasks:app", "--burst")
    after = shell.asyncq("result", URL, id, "--json")

    assert (before.code, before.data["status"]) == (0, "queued")
    assert burst.code == 0
    assert (after.code, after.data["status"], after.data["value"]) == (0, "succeeded", -2)
    assert after.data["task"] == "tasks.add"
    assert after.data["attempt"] == 1
    assert after.data["started_at"] <= after.data["finished_at"]
    shown = shell.asyncq("result", "tasks:app", id).out.split("\n")
    assert "status   succeeded" in shown
    assert "value    -2" in shown


def test_every_broker_is_shown_and_no_password() -> None:
    one = App(["redis://u:secret@a/0", "redis://b/0"])
    two = App(brokers={"default": "memory://a", "eu": ["redis://:secret@b"]})

    assert brokers_of(one) == [("broker", "redis://u:***@a/0 or redis://b/0")]
    assert brokers_of(two) == [("broker default", "memory://a"), ("broker eu", "redis://:***@b")]


def test_negative_numbers_are_arguments(shell: Shell) -> None:
    with shell.worker():
        called = shell.asyncq("call", "tasks:app", "add", "-1", "-2", "--wait", "--json")

    assert called.code == 0
    assert (called.data["status"], called.data["value"]) == ("succeeded", -3)


def test_a_call_that_fails_says_why_and_exits_with_1(shell: Shell) -> None:
    with shell.worker():
        called = shell.asyncq("call", "tasks:app", "fail", '"no \\u001b[2J way"', "--wait")
        as_json = shell.asyncq("call", "tasks:app", "fail", '"no"', "--wait", "--json")
    shown = shell.asyncq("result", "tasks:app", as_json.data["id"])

    assert called.code == 1
    *trace, last = called.err.splitlines()
    assert last.endswith("failed: ValueError: no \\x1b[2J way")
    assert trace[0] == "Traceback (most recent call last):"
    assert "    raise ValueError(text)" in trace
    assert trace[-1] == "ValueError: no \\x1b[2J way"
    assert ESCAPE not in called.err
    assert (as_json.code, as_json.data["status"]) == (1, "failed")
    assert as_json.data["error"]["type"] == "ValueError"
    assert as_json.data["error"]["message"] == "no"
    assert "raise ValueError" in as_json.data["error"]["traceback"]
    assert shown.code == 1
    assert "raise ValueError" in shown.out


def test_waiting_for_an_outcome_ends_with_the_timeout(shell: Shell) -> None:
    called = shell.asyncq("call", "tasks:app", "add", "1", "2", "--timeout", "0.2")

    assert called.code == 1
    assert "no outcome after 0.2 s" in called.err
    assert called.err.count("\n") == 1


def test_result_shows_how_far_a_task_is(shell: Shell) -> None:
    with shell.worker():
        id = shell.asyncq("call", "tasks:app", "hold", '"a"', "--kwargs", '{"steps": 4}').out
        wait_until_there(shell.directory / "a.begun")
        shown = shell.asyncq("result", "tasks:app", id.strip())
        (shell.directory / "a.end").touch()
        ended = shell.asyncq("result", "tasks:app", id.strip(), "--wait", "--json")

    assert "progress  1 of 4" in shown.out
    assert (ended.code, ended.data["value"]) == (0, "a")


def test_a_result_that_is_waited_for_in_vain_is_no_success(shell: Shell) -> None:
    id = shell.asyncq("call", "tasks:app", "add", "1", "2").out.strip()

    looked, waited = (
        shell.asyncq("result", "tasks:app", id, *options) for options in ((), ("--timeout", "0.1"))
    )

    assert (looked.code, looked.err) == (0, "")
    assert (waited.code, waited.out) == (1, looked.out)
    assert f"task {id} has no outcome after 0.1 s: it waits for a worker" in waited.err


def test_dead_letters_are_listed_by_the_app_alone(shell: Shell) -> None:
    shell.asyncq("call", "tasks:app", "fail", '"text"')
    shell.asyncq("worker", "tasks:app", "--burst")

    alone, named, near = (
        shell.asyncq("dead", *words, "tasks:app") for words in ((), ("list",), ("lst",))
    )

    assert (alone.code, alone.out.split(",")[0]) == (0, named.out.split(",")[0])
    assert "tasks.fail" in alone.out
    assert near.code == 2
    assert "No such command 'lst'" in near.err


def test_an_id_that_nobody_knows_is_an_error(shell: Shell) -> None:
    shell.asyncq("call", "tasks:app", "add", "1", "2")
    shown = shell.asyncq("result", "tasks:app", "nobody")
    as_json = shell.asyncq("result", "tasks:app", "nobody", "--json")

    assert shown.code == 1
    assert "nothing is known of task nobody" in shown.err
    assert (as_json.code, as_json.data["status"]) == (1, "unknown")


def test_a_delayed_call_waits_in_its_queue(shell: Shell) -> None:
    call = ("call", "tasks:app", "add", "1", "2", "--queue", "later", "--delay", "900")
    called = shell.asyncq(*call, "--priority", "9")
    listed = shell.asyncq("queues", URL, "--json")

    assert called.code == 0
    assert listed.data == [
        {
            "queue": "later",
            "ready": 0,
            "delayed": 1,
            "in_flight": 0,
            "dead": 0,
            "oldest_age": None,
            "differs": None,
        }
    ]


# The worker


def test_the_worker_introduces_itself(shell: Shell) -> None:
    with shell.worker("-q", "bad", "-q", "default:3", "-c", "7") as worker:
        pass

    banner = "".join(worker.lines)
    assert f"asyncq {importlib.metadata.version('asyncq')} worker\n" in banner
    assert "broker       sqlite:///queue.db\n" in banner
    assert "queues       bad, default:3\n" in banner
    assert "tasks        tasks.add, tasks.fail, tasks.hold\n" in banner
    assert "concurrency  7\n" in banner


def test_told_to_stop_a_worker_lets_its_tasks_end(shell: Shell) -> None:
    with shell.start("worker", "tasks:app") as worker:
        worker.wait_for("consumes")
        running = shell.asyncq("call", "tasks:app", "hold", '"a"').out.strip()
        wait_until_there(shell.directory / "a.begun")

        worker.send(signal.SIGTERM)
        worker.wait_for("no new tasks")
        waiting = shell.asyncq("call", "tasks:app", "add", "1", "2").out.strip()
        (shell.directory / "a.end").touch()

        assert worker.wait() == 0
    assert shell.asyncq("result", URL, running, "--json").data["value"] == "a"
    assert shell.asyncq("result", URL, waiting, "--json").data["status"] == "queued"


def test_told_twice_a_worker_gives_back_what_runs(shell: Shell) -> None:
    with shell.start("worker", "tasks:app") as worker:
        worker.wait_for("consumes")
        id = shell.asyncq("call", "tasks:app", "hold", '"a"').out.strip()
        wait_until_there(shell.directory / "a.begun")

        worker.send(signal.SIGINT)
        worker.wait_for("no new tasks")
        worker.send(signal.SIGINT)

        assert worker.wait() == 0
    assert shell.asyncq("result", URL, id, "--json").data["status"] == "queued"


def test_the_log_has_one_bounded_line_for_an_event_and_steers_no_terminal(shell: Shell) -> None:
    text = f'"one\\ntwo\\u001b[2J\\u009b {"x" * 20_000}"'
    shell.asyncq("call", "tasks:app", "fail", text)

    worked = shell.run([sys.executable, "-m", "asyncq", "worker", "tasks:app", "--burst"])

    [line] = [line for line in worked.err.splitlines() if "failed in attempt" in line]
    assert "one\\ntwo\\x1b[2J\\x9b xxx" in line
    assert all(len(line.encode()) <= 8192 for line in worked.err.splitlines())
    assert ESCAPE not in worked.err


def test_a_worker_starts_anew_when_its_code_changes_and_drains_before(shell: Shell) -> None:
    source = shell.directory / "tasks.py"
    with shell.start("worker", "tasks:app", "--reload") as worker:
        worker.wait_for("consumes")
        running = shell.asyncq("call", "tasks:app", "hold", '"a"').out.strip()
        wait_until_there(shell.directory / "a.begun")

        source.write_text(source.read_text().replace("x + y", "x * y"))
        worker.wait_for("tasks.py changed")
        worker.wait_for("no new tasks")
        (shell.directory / "a.end").touch()
        worker.wait_for("consumes")
        product = shell.asyncq("call", "tasks:app", "add", "3", "5", "--wait")

        worker.send(signal.SIGTERM)
        assert worker.wait() == 0
    drained = shell.asyncq("result", URL, running, "--json").data
    assert (drained["value"], drained["attempt"]) == ("a", 1)
    assert product.out == "15\n"


def test_a_reloading_worker_survives_code_that_cannot_be_imported(shell: Shell) -> None:
    source = shell.directory / "tasks.py"
    good = source.read_text()
    source.write_text("def (")
    with shell.start("worker", "tasks:app", "--reload") as worker:
        worker.wait_for("SyntaxError")
        worker.wait_for("waiting for a change")
        source.write_text(good)
        worker.wait_for("consumes")

        worker.send(signal.SIGINT)
        assert worker.wait() == 0


def test_without_watchfiles_reload_says_how_to_get_it(shell: Shell) -> None:
    program = (
        "import sys; sys.modules['watchfiles'] = None\nfrom asyncq.cli.main import main; main()"
    )

    ended = shell.run([sys.executable, "-c", program, "worker", "tasks:app", "--reload"])

    assert ended.code == 2
    assert "pip install 'asyncq[reload]'" in ended.err
    assert ended.err.count("\n") == 1


# Queues and dead letters


def test_queues_are_shown_with_their_depths(shell: Shell) -> None:
    shell.asyncq("call", "tasks:app", "add", "1", "2")
    shell.asyncq("call", "tasks:app", "add", "1", "2", "--delay", "900")

    table = shell.asyncq("queues", "tasks:app")
    listed = shell.asyncq("queues", "tasks:app", "--json")

    assert table.code == 0
    header, _, bad, default = [line.split() for line in table.out.splitlines() if line.strip()]
    assert header == ["queue", "ready", "delayed", "in", "flight", "dead", "oldest"]
    assert bad == ["bad", "0", "0", "0", "0"]
    assert default[:5] == ["default", "1", "1", "0", "0"]
    [_, found] = listed.data
    assert found.pop("oldest_age") > 0
    counts = {"queue": "default", "ready": 1, "delayed": 1, "in_flight": 0, "dead": 0}
    assert found == {**counts, "differs": None}


def test_purge_asks_before_it_removes(shell: Shell) -> None:
    shell.asyncq("call", "tasks:app", "add", "1", "2")

    refused = shell.asyncq("purge", "tasks:app", "default", stdin="n\n")
    unanswered = shell.asyncq("purge", "tasks:app", "default")
    kept = shell.asyncq("queues", "tasks:app", "--json").data[-1]["ready"]
    agreed = shell.asyncq("purge", URL, "default", stdin="y\n")
    again = shell.asyncq("purge", "tasks:app", "default", "--yes", "--json")

    assert (refused.code, unanswered.code, kept) == (1, 1, 1)
    assert "Remove 1 ready and 0 delayed messages from queue default" in refused.err
    assert agreed == Ended(0, "1 message removed from default.\n", agreed.err)
    assert again.data == {"queue": "default", "purged": 0}


# Errors


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        ("worker task:app", 2, ["no module 'task'", "did you mean tasks?"]),
        ("worker tasks:ap", 2, ["no 'ap'", "tasks:app"]),
        ("worker tasks:add", 2, ["no asyncq.App", "tasks:app"]),
        ("worker tasks", 2, ["tasks:app"]),
        ("worker tasks.py", 2, ["is a file", "tasks:app"]),
        ("worker :app", 2, ["names no module"]),
        ("worker broken:app", 2, ["importing broken", "ModuleNotFoundError", "line 2"]),
        ("worker refused:app", 2, ["ConfigurationError: no broker driver", "refused.py, line 3"]),
        ("worker tasks:app -q a/b", 2, ["queue name"]),
        ("worker sqlite:///queue.db", 2, ["needs the app"]),
        ("worker hooked:app", 1, ["RuntimeError: no bank", "hooked.py, line 6"]),
        ("worker tasks:app -q mail:0", 2, ["--queue mail:0", "at least 1", "--queue mail:10"]),
        ("queues nothing://here", 2, ["no broker driver", "redis://"]),
        ("queues sqlite:///tasks.py", 2, ["no SQLite database"]),
        ("call tasks:app ad 1 2", 2, ["no task 'ad'", "did you mean add?"]),
        ("call tasks:app zzz", 2, ["no task 'zzz'; there are: tasks.add, tasks.fail, tasks.hold"]),
        ("queues tasks.app", 2, ["tasks.app is an app in module tasks: write tasks:app"]),
        ("queues json", 2, ["module json has no asyncq.App"]),
        ("queues made", 2, ["call what makes it there, as in 'app = create_app()', and name made"]),
        ("queues made:create_app", 2, ["of type function: call what makes it", "name made:app"]),
        ("queues made:create_app()", 2, ["has no 'create_app()'", "call what makes it there"]),
        ("queues ../made.py", 2, ["as in made:app, and run the command in /"]),
        ("queues /data/queue.db", 2, ["is a database: name it by its URL, sqlite:////data/que"]),
        ("dead tasks", 2, ["which app of module tasks? Write tasks:app"]),
        ("call tasks:app add 1", 2, ["missing argument 'y'"]),
        ("call tasks:app add 1 two", 2, ["argument two is no JSON", "'\"two\"'"]),
        ("call tasks:app add --kwargs [1]", 2, ["--kwargs takes an object"]),
        ("call tasks:app add --kwargs {x:1}", 2, ["no JSON", "; --kwargs takes an object, as in"]),
        ("call tasks:app add 1 2 --queue a/b", 2, ["queue name"]),
    ],
)
def test_an_error_is_one_line_that_says_what_to_do(
    shell: Shell, arguments: str, code: int, words: list[str]
) -> None:
    (shell.directory / "broken.py").write_text("\nimport nothing_like_it\n")
    (shell.directory / "made.py").write_text(
        "import asyncq\n\ndef create_app():\n    return asyncq.App('memory://')\n"
    )
    (shell.directory / "refused.py").write_text("import asyncq\n\napp = asyncq.App('nil://')\n")
    (shell.directory / "hooked.py").write_text(
        "import asyncq\n\napp = asyncq.App('memory://')\n\n"
        "def hook(state):\n    raise RuntimeError('no bank')\n\napp.on_startup(hook)\n"
    )

    ended = shell.asyncq(*arguments.split(" "))

    assert (ended.code, ended.out) == (code, "")
    *banner, line = ended.err.splitlines()
    assert line.startswith("asyncq: ")
    assert all(word in line for word in words), line
    assert len(banner) in {0, 6}
    assert "Traceback" not in ended.err


@pytest.mark.parametrize("command", ["worker", "call", "queues", "purge", "dead", "demo"])
def test_a_broker_out_of_reach_is_one_line_and_keeps_its_password(
    shell: Shell, command: str
) -> None:
    (shell.directory / "far.py").write_text(
        f"import asyncq\n\napp = asyncq.App({UNREACHABLE!r})\n\n"
        "@app.task\ndef add(x, y):\n    return x + y\n"
    )
    arguments = {
        "worker": ["worker", "far:app", "--require-broker"],
        "call": ["call", "far:app", "add", "1", "2"],
        "queues": ["queues", UNREACHABLE],
        "purge": ["purge", UNREACHABLE, "default"],
        "dead": ["dead", "list", "far:app"],
        "demo": ["demo", ".", "--broker", UNREACHABLE],
    }

    ended = shell.asyncq(*arguments[command])

    assert (ended.code, ended.out) == (1, "")
    assert "asyncq: no answer from 'redis://user:***@127.0.0.1:1/0'" in ended.err
    assert "pa55word" not in ended.err
    assert "Traceback" not in ended.err


def test_the_console_script_and_the_module_are_the_same(shell: Shell) -> None:
    script = str(Path(sys.executable).with_name("asyncq"))

    by_script, by_module = shell.run([script, "--version"]), shell.asyncq("--version")

    assert by_script == by_module
    assert by_module.out == f"asyncq {importlib.metadata.version('asyncq')}\n"
    assert shell.run([script, "call", "tasks:app", "add", "1", "2"]).code == 0
    assert shell.run([script, "queues", "tasks:app", "--json"]).code == 0


def test_an_interrupted_wait_tells_the_id(shell: Shell) -> None:
    with shell.start("call", "tasks:app", "add", "1", "1", "--wait") as call:
        database = shell.directory / "queue.db"
        wait_until_there(database)
        while not (
            waiting := shell.asyncq("queues", "peek", "tasks:app", "default", "--json").data
        ):
            pass
        call.send(signal.SIGINT)

        assert call.wait() == 130
    [line] = call.lines
    assert f"task tasks.add[{waiting[0]['id']}] was sent" in line
    assert f"asyncq result tasks:app {waiting[0]['id']}" in line


def test_a_wrong_broker_in_the_environment_hinders_only_who_uses_it(shell: Shell) -> None:
    shell.environment["ASYNCQ_BROKER"] = "redis//x"

    called = shell.asyncq("call", "tasks:app", "add", "1", "2")
    demo = shell.asyncq("demo")

    assert called.code == 0, called.err
    assert demo.code == 2
    assert demo.err.startswith("asyncq: no broker driver for 'redis//x'")
