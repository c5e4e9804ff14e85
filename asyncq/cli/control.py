"""``asyncq control cancel``: have messages end, by their ids or by what they are."""

import json
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Annotated, Any

import typer
from typer import Argument, Option

from asyncq.app import App
from asyncq.cli.apps import hint, load_store
from asyncq.cli.arguments import StoreArgument
from asyncq.cli.output import ask, print_json, print_line
from asyncq.cli.texts import complain
from asyncq.errors import ConfigurationError
from asyncq.language.marks import Cancellation
from asyncq.texts import counted, plain
from asyncq.worker.signals import run_loop

TOLD = {
    Cancellation.CANCELLED: "cancelled: it never runs, or not again",
    Cancellation.ASKED: "runs, and its worker was asked to end it",
    Cancellation.ENDED: "had ended before: nothing was changed",
    Cancellation.UNKNOWN: "nothing is known of it",
}
DONE = {Cancellation.CANCELLED, Cancellation.ASKED}

commands = typer.Typer(
    help="Change what workers do, while they do it.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
)


@commands.callback()
def _group() -> None:  # pyright: ignore[reportUnusedFunction] - a single command stays a command
    pass


@commands.command("cancel")
def cancel(
    app: StoreArgument,
    ids: Annotated[
        list[str] | None,
        Argument(metavar="IDS", help="Which messages; `-` reads ids from standard input."),
    ] = None,
    *,
    task: Annotated[
        str | None, Option("--task", metavar="NAME", help="All of this task, by its whole name.")
    ] = None,
    queue: Annotated[
        str | None, Option("--queue", "-q", metavar="QUEUE", help="All in this queue.")
    ] = None,
    header: Annotated[
        list[str] | None,
        Option(
            "--header",
            metavar="NAME=VALUE",
            help="All with this header; its value as JSON, or text. More than once: with all.",
        ),
    ] = None,
    scope: Annotated[
        str | None,
        Option("--scope", metavar="NAME", help="All in this scope: the text of its `Scope.name`."),
    ] = None,
    reason: Annotated[
        str, Option("--reason", metavar="TEXT", help="What those are told who wait.")
    ] = "",
    yes: Annotated[bool, Option("--yes", "-y", help="Do not ask.")] = False,
    as_json: Annotated[bool, Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Cancel messages: what waits never runs, what runs is ended by its worker.

    By their IDS, and each is answered for: the exit code is 1 if one had ended or is unknown. Or by
    `--task`, `--queue` and `--header`: all that were sent until now and are all of that. They are
    not counted; workers end them as they come to them, also such as are off now. Or by `--scope`:
    all that was sent in it, or will be.
    """
    named, headers = _ids(ids or ()), _headers(header or ())
    described = task is not None or queue is not None or bool(headers)
    if bool(ids) + described + (scope is not None) != 1:
        told = "give IDS, or what they are by --task, --queue or --header, or a --scope"
        raise ConfigurationError(told)
    loaded = load_store(app)
    if ids:
        answers = run_loop(partial(cancel_these, loaded, named, reason))
        _print_answers(answers, as_json=as_json)
        if not DONE.issuperset(answers.values()):
            raise typer.Exit(1)
        return
    what = " and ".join(
        [
            *([f"of task {plain(task)}"] if task is not None else []),
            *([f"in queue {plain(queue)}"] if queue is not None else []),
            *(f"with header {plain(name)}={plain(str(value))}" for name, value in headers.items()),
            *([f"in scope {plain(scope)}"] if scope is not None else []),
        ]
    )
    if task is not None and loaded.tasks and task not in loaded.tasks:
        complain(f"this app has no task {plain(task)}{hint(task, list(loaded.tasks))}")
    if not yes:
        sent = "that was or will be sent" if scope is not None else "that was sent until now"
        ask(f"Cancel every message {what} {sent}, at {loaded.url}?")
    run_loop(
        partial(
            _cancel_all,
            loaded,
            task=task,
            queue=queue,
            headers=headers or None,
            scope=scope,
            reason=reason,
        )
    )
    if as_json:
        print_json(
            {"task": task, "queue": queue, "headers": headers, "scope": scope, "reason": reason}
        )
    else:
        print(f"Every message {what} is cancelled, as workers come to it.")


async def cancel_these(app: App, ids: Sequence[str], reason: str) -> Mapping[str, Cancellation]:
    """As `App.cancel`."""
    async with app:
        return await app.cancel(ids, reason)


async def _cancel_all(app: App, **what: Any) -> None:
    """As `App.cancel`, of all that is so."""
    async with app:
        await app.cancel(**what)


def _print_answers(answers: Mapping[str, Cancellation], *, as_json: bool) -> None:
    if as_json:
        print_json({id: answer.value for id, answer in answers.items()})
        return
    for id, answer in answers.items():
        if len(answers) == 1 and answer not in DONE:
            complain(f"task {plain(id)}: {TOLD[answer]}")
        else:
            print_line(id, TOLD[answer])
    if len(answers) > 1:
        count = sum(answer in DONE for answer in answers.values())
        print_line("", f"{count} of {counted(len(answers), 'message')} cancelled or asked to end")


def _ids(given: Sequence[str]) -> list[str]:
    found: list[str] = []
    for each in given:
        found += sys.stdin.read().split() if each == "-" else [each]
    return list(dict.fromkeys(found))


def _headers(given: Sequence[str]) -> dict[str, Any]:
    """
    Raises:
        ConfigurationError: one has no name.
    """
    headers: dict[str, Any] = {}
    for each in given:
        name, equals, value = each.partition("=")
        if not name or not equals:
            raise ConfigurationError(f"--header {each}: write it as NAME=VALUE, as in tenant=7")
        try:
            headers[name] = json.loads(value)
        except ValueError:
            headers[name] = value
    return headers
