"""The log of ``asyncq worker``: what an app configures stays, and each line has its format."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from tests.system.commands import Shell

TASKS = """
import logging
import logging.config

import asyncq

{set_up}

app = asyncq.App("sqlite:///queue.db")
log = logging.getLogger("shop")


@app.task(name="work")
async def work() -> None:
    log.info("working")
    log.warning("careful")
    raise ValueError("no way")
"""
DICT_CONFIG = """{
    "version": 1,
    "formatters": {"own": {"format": "OWN %(levelname)s %(name)s %(message)s"}},
    "handlers": {"own": {"class": "logging.StreamHandler", "formatter": "own"}},
    "root": {"level": "INFO", "handlers": ["own"]},
}"""
TEXT_LINE = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} [A-Z]+ +\d+ [a-z.]+: ")


def work(shell: Shell, set_up: str, *options: str) -> list[str]:
    """What a worker logs that runs one task, which logs and fails."""
    (shell.directory / "shop.py").write_text(TASKS.format(set_up=set_up))
    assert shell.asyncq("call", "shop:app", "work").code == 0
    ended = shell.asyncq("worker", "shop:app", "--burst", *options)
    assert ended.code == 0, ended.err
    return ended.err.splitlines()


def those_with(text: str, lines: list[str]) -> list[str]:
    return [line for line in lines if text in line]


@pytest.mark.parametrize(
    "set_up",
    [
        f"logging.config.dictConfig({DICT_CONFIG})",
        "logging.basicConfig(level='INFO', format='OWN %(levelname)s %(name)s %(message)s')",
    ],
    ids=["dictConfig", "basicConfig"],
)
def test_what_the_app_configures_stays_and_asyncq_logs_through_it(
    shell: Shell, set_up: str
) -> None:
    lines = work(shell, set_up)

    assert those_with("working", lines) == ["OWN INFO shop working"]
    [failed] = those_with("failed in attempt", lines)
    assert failed.startswith("OWN ERROR asyncq.worker.tasks task work[")
    assert "    ValueError: no way" in lines
    assert len(those_with("consumes", lines)) == 1


def test_what_a_startup_hook_configures_replaces_our_format(shell: Shell) -> None:
    before = work(shell, "")
    (shell.directory / "shop.py").write_text(
        TASKS.format(set_up="")
        + f"\n\n@app.on_startup\ndef set_up(state):\n    logging.config.dictConfig({DICT_CONFIG})\n"
    )
    assert shell.asyncq("call", "shop:app", "work").code == 0

    after = shell.asyncq("worker", "shop:app", "--burst").err.splitlines()

    assert TEXT_LINE.match(those_with("failed in attempt", before)[0])
    assert those_with("failed in attempt", after)[0].startswith("OWN ERROR asyncq.")


def test_an_app_with_a_logger_of_its_own_is_shown_once_and_asyncq_beside_it(shell: Shell) -> None:
    lines = work(
        shell,
        "logging.getLogger('shop').addHandler(logging.StreamHandler())\n"
        "logging.getLogger('shop').setLevel('INFO')",
    )

    assert those_with("working", lines) == ["working"]
    assert those_with("careful", lines) == ["careful"]
    assert TEXT_LINE.match(those_with("failed in attempt", lines)[0])


def test_an_app_that_configures_nothing_has_lines_with_its_task(shell: Shell) -> None:
    lines = work(shell, "logging.getLogger('shop').addHandler(logging.NullHandler())")

    [working] = those_with("working", lines)
    assert TEXT_LINE.match(working)
    assert re.search(r" shop: \[work [0-9a-f]{32}\] working$", working)


def test_levels_are_the_apps_unless_one_is_asked_for(shell: Shell) -> None:
    quiet = "logging.basicConfig(level='WARNING')"

    as_it_is = work(shell, quiet)
    asked = work(shell, quiet, "--log-level", "debug")
    own = work(shell, "logging.getLogger().setLevel('ERROR')")

    assert not those_with("consumes", as_it_is)
    assert those_with("careful", as_it_is)
    assert those_with("received", asked)
    assert not those_with("working", asked)  # that is no line of asyncq's
    assert not those_with("careful", own)
    assert those_with("failed in attempt", own)


def test_without_set_up_the_worker_processes_log_as_the_app_does_alone(shell: Shell) -> None:
    lines = work(shell, "", "--no-log-setup")

    assert not those_with("working", lines)
    assert those_with("careful", lines) == ["careful"]  # Python's own last resort
    assert those_with("has ended", lines)  # the supervisor, where no app is


def parse(lines: list[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in lines]


def test_in_json_every_line_of_every_process_is_an_object(shell: Shell) -> None:
    set_up = r"logging.getLogger('shop').error('imported\nso far')"
    records = parse(work(shell, set_up, "--log-format", "json", "--processes", "2"))

    by_text = {record["message"]: record for record in records}
    assert by_text["imported\nso far"]["level"] == "error"
    assert by_text["working"]["task"] == "work"
    assert by_text["stopped"]["logger"] == "asyncq.cli.supervisor"
    [failed] = [record for record in records if "failed in attempt" in record["message"]]
    assert failed["id"] == by_text["working"]["id"]
    assert failed["exception"].endswith("ValueError: no way")
    assert any("broker sqlite:///queue.db" in text for text in by_text)
    assert all(record["time"].endswith("Z") for record in records)


def test_in_json_a_failed_start_is_an_object_as_well(shell: Shell) -> None:
    ended = shell.asyncq("worker", "tasks:ap", "--log-format", "json")

    *_, last = parse(ended.err.splitlines())
    assert ended.code == 2
    assert last["level"] == "critical"
    assert "has no 'ap'" in last["message"]


def test_a_format_that_has_no_effect_is_said_so(shell: Shell) -> None:
    lines = work(shell, "logging.basicConfig()", "--log-format", "json")

    assert those_with("--log-format json has no effect", lines)


def test_a_log_that_cannot_be_written_stops_no_worker(shell: Shell) -> None:
    set_up = "logging.basicConfig(filename='/dev/full', level='INFO')"

    lines = work(shell, set_up)

    assert those_with("No space left on device", lines)
    assert Path(shell.directory / "queue.db").exists()
