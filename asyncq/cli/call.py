"""``asyncq call`` and ``asyncq result``: one message from the shell, and what became of it."""

import json
from collections.abc import Iterable, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from typing import Annotated, Any

import anyio
import msgspec
import typer
from typer import Argument, Option

from asyncq.app import App
from asyncq.cli.apps import doubt_queues, hint, load_app, load_store
from asyncq.cli.arguments import AppArgument, StoreArgument
from asyncq.cli.importing import told_if_slow
from asyncq.cli.output import print_facts, print_json, print_traceback
from asyncq.cli.texts import complain
from asyncq.client.result import WHERE, Result, record_of
from asyncq.client.task import Task
from asyncq.client.values.encoding import read_plain
from asyncq.errors import BackendUnavailable, BrokerUnavailable, ConfigurationError, UnknownResult
from asyncq.language.message import (
    Cancelled,
    Failed,
    Failure,
    Ignored,
    Progress,
    Status,
    Succeeded,
    status_of,
)
from asyncq.language.record import Record
from asyncq.language.signature import Signature
from asyncq.language.spelling import same_function
from asyncq.language.topology import check_queue_name
from asyncq.texts import plain
from asyncq.worker.signals import run_loop

SHOWN = 3  # tasks that may have been meant
LISTED = 20  # tasks that there are
ANSWER_TIMEOUT = 5.0  # seconds to find out where a message is
UNSUCCESSFUL = {Status.FAILED, Status.CANCELLED, Status.EXPIRED, Status.IGNORED}
ENDED = {Status.SUCCEEDED, *UNSUCCESSFUL}
HOW = {Status.CANCELLED: "was cancelled", Status.IGNORED: "was to be ignored"}
FOR_THE_SENDER = {"amqp", "amqps"}  # backends that send outcomes, and keep none
Json = Annotated[bool, Option("--json", help="Print one JSON object.")]
Wait = Annotated[bool, Option("--wait", help="Wait for the outcome.")]
Timeout = Annotated[
    float | None,
    Option(
        metavar="SECONDS", min=0, help="Wait for the outcome, but not longer than these seconds."
    ),
]


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of one message."""

    id: str
    status: Status
    task: str | None = None
    attempt: int | None = None
    started_at: float | None = None
    finished_at: float | None = None
    worker: str | None = None
    value: Any = None
    error: Failure | None = None
    reason: str | None = None
    """Why it was cancelled, or is to be ignored."""
    progress: Progress | None = None


def call(
    app: AppArgument,
    task: Annotated[
        str,
        Argument(metavar="TASK", help="The task's name; its end will do, where only one ends so."),
    ],
    args: Annotated[
        list[str] | None, Argument(metavar="ARGS", help="Arguments, as JSON: `1 '\"text\"'`.")
    ] = None,
    *,
    kwargs: Annotated[str, Option(metavar="JSON", help="Keyword arguments, an object.")] = "{}",
    queue: Annotated[
        str | None, Option("--queue", "-q", metavar="QUEUE", show_default="the task's")
    ] = None,
    delay: Annotated[
        float | None,
        Option(metavar="SECONDS", min=0, help="Seconds until it may start.", show_default="none"),
    ] = None,
    priority: Annotated[
        int | None,
        Option(metavar="0-9", min=0, max=9, help="The highest is 9.", show_default="the task's"),
    ] = None,
    wait: Wait = False,
    timeout: Timeout = None,
    as_json: Json = False,
) -> None:
    """Send one message, and print its id; or wait, and print what the task returned.

    When the task was waited for and did not succeed, the exit code is 1, and the traceback goes to
    standard error.
    """
    loaded = load_app(app)
    with told_if_slow(app):  # the modules that it includes
        found = find_task(loaded, task)
    if queue is not None:
        check_queue_name(queue)
    try:
        signature = found.options(queue=queue, delay=delay, priority=priority).s(
            *[_parse(argument) for argument in args or ()],
            **_parse_object(kwargs),
        )
    except (TypeError, ValueError) as error:
        raise ConfigurationError(str(error)) from error
    if not wait and timeout is None:
        id = run_loop(partial(send, loaded, signature))
        print_json({"id": id}) if as_json else print(id)
        return
    report = run_loop(partial(send_and_wait, loaded, signature, timeout, app))
    if report.status in ENDED:
        _print_outcome(report, as_json=as_json)
        return
    if as_json:
        print_json(_as_data(report))
    complain(_still(report, timeout, loaded, app))
    raise typer.Exit(1)


def result(
    app: StoreArgument,
    id: Annotated[str, Argument(metavar="ID", help="The message's id.")],
    *,
    wait: Wait = False,
    timeout: Timeout = None,
    as_json: Json = False,
) -> None:
    """Show what became of a message.

    The exit code is 1 when it did not succeed, when nothing is known of it, or when it was waited
    for and has not ended.
    """
    waits = wait or timeout is not None
    loaded = load_store(app)
    report = run_loop(partial(look_up, loaded, id, timeout if waits else 0.0))
    if as_json:
        print_json(_as_data(report))
    elif report.status is Status.UNKNOWN:
        raise UnknownResult(id)
    else:
        print_facts(_facts(report))
    _exit_by(report)
    if waits and report.status not in ENDED:
        complain(_still(report, timeout, loaded, app))
        raise typer.Exit(1)


def find_task(app: App, name: str) -> Task[..., Any]:
    """The task of this name, or the only one whose name ends in ``.name``.

    Raises:
        ConfigurationError: there is none, or more than one.
    """
    if name in app.tasks:
        return app.tasks[name]
    matches = [known for known in app.tasks if known.endswith(f".{name}")]
    match matches:
        case [only]:
            return app.tasks[only]
        case []:
            # By its whole name where only the module is another one.
            known = same_function(name, app.tasks) if "." in name else []
            meant = f"; did you mean {' or '.join(known[:SHOWN])}?" if known else ""
            ends = [known.rpartition(".")[2] for known in app.tasks]
            meant = meant or hint(name, [*app.tasks, *ends]) or f"; there are: {_some(app.tasks)}"
            raise ConfigurationError(
                f"this app has no task {name!r}{meant}"
                if app.tasks
                else "this app has no tasks: import the modules that define them where the app is"
            )
        case _:
            raise ConfigurationError(f"{name!r} could be any of {', '.join(sorted(matches))}")


def _some(names: Iterable[str]) -> str:
    shown = sorted(names)
    more = f" and {len(shown) - LISTED} more" if len(shown) > LISTED else ""
    return ", ".join(shown[:LISTED]) + more


async def send(app: App, signature: Signature[Any]) -> str:
    """Enqueue the call; returns its id."""
    async with app:
        await _warn_of_new_queue(app, signature)
        return (await app.enqueue(signature)).id


async def send_and_wait(
    app: App, signature: Signature[Any], timeout: float | None, target: str
) -> Report:
    """Enqueue the call and wait for what becomes of it; or say where it is ``timeout`` seconds
    later. ``target`` names the app, for who interrupts us."""
    async with app:
        await _warn_of_new_queue(app, signature)
        handle = await app.enqueue(signature)
        try:
            with anyio.fail_after(timeout):
                return _report(await record_of(handle))
        except TimeoutError:
            with (
                anyio.move_on_after(ANSWER_TIMEOUT),
                suppress(BrokerUnavailable, BackendUnavailable),
            ):
                return await _known_now(handle, signature.task)
            return Report(id=handle.id, status=Status.UNKNOWN, task=signature.task)
        except anyio.get_cancelled_exc_class():
            complain(
                f"waits no more; task {signature.task}[{handle.id}] was sent, and goes on; "
                f"{_later(app, target, handle.id)}"
            )
            raise


async def _known_now(handle: Result[Any], task: str | None = None) -> Report:
    """What is known of a message, without waiting for its outcome."""
    status = await handle.status()
    if status in ENDED:
        return _report(await record_of(handle))
    return Report(id=handle.id, status=status, task=task, progress=await handle.progress())


def _still(report: Report, timeout: float | None, app: App, target: str) -> str:
    """What to say of a message that has not ended in time."""
    is_so = WHERE.get(report.status, "where it is cannot be found out")
    label = report.id if report.task is None else f"{report.task}[{report.id}]"
    return (
        f"task {label} has no outcome after {timeout or 0.0:g} s: {is_so}, and "
        f"goes on without us; {_later(app, target, report.id)}"
    )


def _later(app: App, target: str, id: str) -> str:
    """How its outcome can be had by another command."""
    if app.backend_url.scheme in FOR_THE_SENDER:
        return (
            "its outcome is told to its sender alone, and so is lost; App(..., backend=...) keeps "
            "them"
        )
    return f"to look later: asyncq result {target} {id}"


async def _warn_of_new_queue(app: App, signature: Signature[Any]) -> None:
    if queue := signature.options.queue:
        for doubt in await doubt_queues(app, [queue]):
            complain(f"{doubt}; sent there all the same")


async def look_up(app: App, id: str, patience: float | None) -> Report:
    """What is known of a message, once it has ended or ``patience`` seconds have passed."""
    async with app:
        handle = app.result(id)
        if patience != 0:
            # What was not heard of in time, the status says better.
            with suppress(TimeoutError, UnknownResult), anyio.fail_after(patience):
                return _report(await record_of(handle))
        return await _known_now(handle)


def _report(record: Record) -> Report:
    outcome = record.outcome
    return Report(
        id=record.id,
        status=status_of(outcome),
        task=record.task or None,
        attempt=record.attempt,
        started_at=record.started_at or None,
        finished_at=record.finished_at or None,
        worker=record.worker or None,
        value=read_plain(outcome.value) if isinstance(outcome, Succeeded) else None,
        error=outcome.error if isinstance(outcome, Failed) else None,
        reason=outcome.reason or None if isinstance(outcome, Cancelled | Ignored) else None,
    )


def _print_outcome(report: Report, *, as_json: bool) -> None:
    if as_json:
        print_json(_as_data(report))
    elif report.status is Status.SUCCEEDED:
        print_json(report.value)
    else:
        error = report.error
        why = f": {plain(report.reason)}" if report.reason else ""
        why = why if error is None else f": {error.type}: {error.message}"
        if error is not None:
            print_traceback(error.traceback)
        ended = HOW.get(report.status, report.status.value)
        complain(f"task {report.id} {ended}{why}")
    _exit_by(report)


def _as_data(report: Report) -> dict[str, Any]:
    """What ``--json`` prints: names in it, where the wire has none."""
    return {
        name: msgspec.structs.asdict(value) if isinstance(value, Failure | Progress) else value
        for name, value in msgspec.structs.asdict(report).items()
    }


def _exit_by(report: Report) -> None:
    if report.status in {*UNSUCCESSFUL, Status.UNKNOWN}:
        raise typer.Exit(1)


def _facts(report: Report) -> Sequence[tuple[str, object]]:
    facts: list[tuple[str, object]] = [("id", report.id), ("status", report.status)]
    if report.task:
        facts += [("task", report.task), ("attempt", report.attempt)]
    if report.progress is not None:
        value, total = report.progress.value, report.progress.total
        facts.append(("progress", f"{value:g}" if total is None else f"{value:g} of {total:g}"))
    if report.finished_at is not None:
        facts.append(
            ("ended", datetime.fromtimestamp(report.finished_at, UTC).isoformat(" ", "seconds"))
        )
        if report.started_at is not None:
            facts.append(("took", f"{report.finished_at - report.started_at:.3f} s"))
    if report.worker is not None:
        facts.append(("worker", report.worker))
    if report.status is Status.SUCCEEDED:
        facts.append(("value", json.dumps(msgspec.to_builtins(report.value, str_keys=True))))
    if report.reason:
        facts.append(("reason", report.reason))
    if report.error is not None:
        facts.append(("error", f"{report.error.type}: {report.error.message}"))
        facts += [("", plain(line)) for line in report.error.traceback.splitlines()]
    return facts


def _parse(text: str, what: str = "argument", remedy: str = "") -> Any:
    """Raises ConfigurationError: it is no JSON; says what to write."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        why = error if isinstance(error, ValueError) else "nested too deeply"
        remedy = remedy or f"text goes in two kinds of quotes: '{json.dumps(text)}'"
        raise ConfigurationError(f"{what} {text} is no JSON ({why}); {remedy}") from error


def _parse_object(text: str) -> dict[str, Any]:
    remedy = '--kwargs takes an object, as in \'{"name": "value"}\''
    parsed = _parse(text, "--kwargs", remedy)
    if not isinstance(parsed, dict):
        raise ConfigurationError(remedy)
    return parsed  # pyright: ignore[reportUnknownVariableType] - JSON: the keys are text
