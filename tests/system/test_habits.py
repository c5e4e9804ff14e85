"""Commands as hands type them that know Celery: what to write here, and nothing of it done."""

from collections.abc import Iterator
from typing import Any

import pytest
from typer.main import get_command

from asyncq.cli.celery import as_written_here
from asyncq.cli.main import cli
from tests.system.commands import Shell

COMMANDS = get_command(cli)


@pytest.mark.parametrize(
    ("typed", "right"),
    [
        ("worker -A shop", "worker shop:app"),
        ("-A shop worker", "worker shop:app"),
        ("worker --app=shop.celery:app", "worker shop.celery:app"),
        ("worker shop:app -Q mail,slow", "worker shop:app --queue mail --queue slow"),
        ("worker -A shop -l info -c 10", "worker shop:app --log-level info -c 10"),
        ("worker -A shop --loglevel=WARN", "worker shop:app --log-level warning"),
        ("worker shop:app --autoscale=10,3", "worker shop:app --concurrency 10"),
        ("multi start w1 w2 -A shop", "worker shop:app --processes N"),
        ("purge -A shop", "purge shop:app QUEUE"),
        ("call -A shop add --args=[1,2] --countdown=5", "call shop:app add 1 2 --delay 5"),
        ("dead -A shop list", "dead list shop:app"),
        ("shop:app worker --burst", "worker shop:app --burst"),
        ("worker -A", "worker shop:app"),
        ("worker shop -l info", "worker shop:app --log-level info"),
        ("worker -c 4 -Q mail shop:main", "worker shop:main -c 4 --queue mail"),
        ("worker store.py -Q mail", "worker store:app --queue mail"),
        ("queues peek store -l info", "queues peek store:app --log-level info"),
        ("purge store -A shop", "purge store:app QUEUE"),
    ],
)
def test_the_same_command_is_written_out(typed: str, right: str) -> None:
    hint = as_written_here(typed.split(), COMMANDS)

    assert hint is not None
    assert hint.split("; write: ")[1].split(";")[0] == f"asyncq {right}"


@pytest.mark.parametrize(
    ("typed", "says"),
    [
        ("worker shop:app -P gevent", "--processes N"),
        ("worker shop:app -E", "-E: nothing to write"),
        ("worker shop:app --time-limit 5", "@app.task(time_limit=...)"),
        ("worker shop:app -f log.txt", "2>FILE"),
        ("worker -b redis://", "App('redis://...')"),
        ("worker --broker redis://", "App('redis://...')"),
    ],
)
def test_of_what_is_no_option_here_it_is_said_where_it_has_gone(typed: str, says: str) -> None:
    hint = as_written_here(typed.split(), COMMANDS)

    assert hint is not None
    assert says in hint


@pytest.mark.parametrize(
    "typed",
    [
        "worker shop:app --queue mail -c 10 --log-level info",
        "call shop:app add -1 2 --delay 5",
        "call shop:app echo -- -A",
        "demo --broker sqlite:///x.db",
        "dead replay shop:app --all --yes",
        "queues shop:app",
        "-h",
        "wroker shop:app -A x",
        "",
    ],
)
def test_what_is_right_is_left_alone(typed: str) -> None:
    assert as_written_here(typed.split(), COMMANDS) is None


def own_options(command: Any, *path: str) -> Iterator[tuple[str, ...]]:
    """Every command of ours with each of its options."""
    for option in (option for parameter in command.params for option in parameter.opts):
        if option.startswith("-"):
            yield (*path, option)
    for name, within in getattr(command, "commands", {}).items():
        yield from own_options(within, *path, name)


def test_no_option_of_ours_is_taken_for_one_of_celery() -> None:
    every = [words for words in own_options(COMMANDS) if len(words) > 1]

    assert len(every) > 40
    for *command, option in every:
        assert as_written_here([*command, "shop:app", option, "1"], COMMANDS) is None, option


@pytest.mark.parametrize(
    ("typed", "says"),
    [
        ("-A shop inspect active", "asyncq queues shop:app shows what waits"),
        ("beat -A shop", "there is no command beat: asyncq has worker, call, "),
        ("flower", "there is no command flower: asyncq has worker, call, "),
    ],
)
def test_a_command_that_is_not_here_is_said_to_be_none(typed: str, says: str) -> None:
    hint = as_written_here(typed.split(), COMMANDS)

    assert hint is not None
    assert says in hint


def test_the_hint_is_one_line_and_misuse(shell: Shell) -> None:
    worker = shell.asyncq("worker", "-A", "tasks", "-Q", "mail", "-l", "info")

    right = "asyncq worker tasks:app --queue mail --log-level info"
    assert worker == (2, "", f"asyncq: -A, -Q, -l are not known here; write: {right}\n")
