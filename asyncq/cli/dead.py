"""``asyncq dead``: messages that were taken out of circulation, and what to do with them."""

from collections.abc import Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Annotated, Any

import msgspec
import typer
from rich import filesize
from typer import Argument, Option

from asyncq.app import App
from asyncq.cli.apps import load_store
from asyncq.cli.arguments import StoreArgument, WithDefault
from asyncq.cli.letters import (
    Change,
    Changed,
    Filter,
    Selection,
    change,
    count,
    find_one,
    matching,
    not_there,
    parse_age,
    resolve,
    task_of,
)
from asyncq.cli.output import Progress, ask, duration, print_facts, print_json, print_line
from asyncq.cli.texts import complain
from asyncq.clock import SystemClock
from asyncq.errors import ConfigurationError
from asyncq.seams.admin import DeadLetter
from asyncq.texts import bounded, counted, plain
from asyncq.worker.signals import run_loop

SHOWN = 100
PREVIEW = 60  # bytes of a body
REASON_SHOWN = 300  # bytes of a reason; --json has all of it

commands = typer.Typer(
    cls=WithDefault,
    help="List, show, replay and delete dead letters: `asyncq dead APP` lists them.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
)

Queue = Annotated[
    str | None, Option("--queue", "-q", metavar="QUEUE", help="Their queue.", show_default="all")
]
Words = Annotated[
    list[str] | None,
    Argument(metavar="QUEUE|IDS", help="Which: their ids; a queue before them is optional."),
]
All = Annotated[bool, Option("--all", help="All of them, instead of IDS.")]
Limit = Annotated[
    int | None, Option(metavar="N", min=1, help="Without IDS: the oldest, at most so many.")
]
Yes = Annotated[bool, Option("--yes", "-y", help="Do not ask.")]
Json = Annotated[bool, Option("--json", help="Print JSON.")]
TaskPattern = Annotated[
    str | None, Option("--task", metavar="PATTERN", help="Only of this task, as in `mail.*`.")
]
Reason = Annotated[
    str | None,
    Option(
        "--reason", metavar="TEXT", help="Only with this in the reason, or like this: `*time*`."
    ),
]
OlderThan = Annotated[
    str | None, Option(metavar="AGE", help="Only what died longer ago, as in `2h` or `7d`.")
]
NewerThan = Annotated[str | None, Option(metavar="AGE", help="Only what died since, as in `15m`.")]


@commands.command("list")
def list_(
    app: StoreArgument,
    name: Annotated[
        str | None, Argument(metavar="QUEUE", help="Their queue.", show_default="all")
    ] = None,
    *,
    queue: Queue = None,
    task: TaskPattern = None,
    reason: Reason = None,
    older_than: OlderThan = None,
    newer_than: NewerThan = None,
    limit: Annotated[int, Option(metavar="N", min=1, help="Show at most so many.")] = SHOWN,
    traceback: Annotated[bool, Option("--traceback", help="Show where each failed.")] = False,
    body: Annotated[
        bool, Option("--body", help="Show how the bodies begin; with --json, all in Base64.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Show dead letters, the oldest of each queue first, and why they are there."""
    chosen = Selection(
        queue=queue or name,
        filter=_filter(task, reason, older_than, newer_than),
        limit=limit + 1,
    )
    found = run_loop(partial(list_dead, load_store(app), chosen))
    letters, more = found[:limit], len(found) > limit
    if as_json:
        print_json([_as_data(letter, body=body) for letter in letters])
    elif not letters:
        print("There are no such dead letters." if chosen.filter != Filter() else NONE)
    for letter in () if as_json else letters:
        _print_letter(letter, body=body, traceback=traceback)
    if more:
        complain(f"these are {limit}; there are more: see --limit")


NONE = "There are no dead letters."


@commands.command()
def show(
    app: StoreArgument,
    id: Annotated[str, Argument(metavar="ID", help="The message's id.")],
    *,
    queue: Queue = None,
    as_json: Json = False,
) -> None:
    """Show all that is known of one dead letter, its traceback included."""
    letter = run_loop(partial(show_dead, load_store(app), id, queue))
    if as_json:
        print_json(_as_data(letter, body=True))
    else:
        print_facts(_facts(letter))


def _add_change(verb: str, about: str) -> None:
    """The command that does this to dead letters."""

    @commands.command(verb, help=about)
    def change(  # pyright: ignore[reportUnusedFunction] - typer calls it
        app: StoreArgument,
        words: Words = None,
        *,
        queue: Queue = None,
        every: All = False,
        task: TaskPattern = None,
        reason: Reason = None,
        older_than: OlderThan = None,
        newer_than: NewerThan = None,
        limit: Limit = None,
        yes: Yes = False,
        as_json: Json = False,
    ) -> None:
        alike = _filter(task, reason, older_than, newer_than)
        wanted = Selection(queue=queue, filter=alike, limit=limit)
        _change(verb, load_store(app), words or (), wanted, every=every, yes=yes, as_json=as_json)


_add_change(
    "replay",
    """Put dead letters back into their queue, to be run once more, from the first attempt.

    What is recorded of their end is forgotten, so name the app where its backend is not its broker.
    One whose `expires` has passed meanwhile is not run.
    """,
)
_add_change("delete", "Forget dead letters for good.")


async def list_dead(app: App, chosen: Selection) -> Sequence[DeadLetter]:
    """The dead letters that are chosen."""
    async with app:
        return [letter async for letter in matching(app, chosen)]


async def show_dead(app: App, id: str, queue: str | None) -> DeadLetter:
    """The dead letter with this id.

    Raises:
        ConfigurationError: there is none.
    """
    async with app:
        return await find_one(app, id, queue)


async def change_dead(app: App, verb: str, chosen: Selection, progress: Progress) -> Changed:
    """Replay or delete all that are chosen; complains of what was named and is not there."""
    async with app:
        changed = await change(app, chosen, _act(app, verb), progress.tell)
        progress.end()
        if changed.missing:
            why = await not_there(app, changed.missing, chosen.queue)
            complain(f"not there: {len(changed.missing)} of {len(chosen.ids)}: {why}")
        return changed


def _act(app: App, verb: str) -> Change:
    async def replay(queue: str, ids: Sequence[str]) -> int:
        return len(await app.dead.replay(queue, ids))

    return replay if verb == "replay" else app.dead.delete


async def _look(
    app: App, words: Sequence[str], wanted: Selection, *, every: bool
) -> tuple[Selection, int]:
    """What is meant, and how many that are."""
    async with app:
        queue, ids = await resolve(app, words, wanted.queue)
        chosen = msgspec.structs.replace(wanted, queue=queue, ids=ids)
        _check(chosen, every=every)
        return chosen, len(ids) if ids else await count(app, chosen)


def _check(chosen: Selection, *, every: bool) -> None:
    filtered = not chosen.filter.takes_all
    if chosen.ids and (every or filtered):
        raise ConfigurationError("name dead letters, or say --all or a filter; not both")
    if not chosen.ids and not every and not filtered:
        which = "dead letters" if chosen.queue is None else f"dead letters of queue {chosen.queue}"
        raise ConfigurationError(
            f"which {which}? Name their ids, say --task, --reason, --older-than or --newer-than, "
            "or --all"
        )


def _change(
    verb: str,
    app: App,
    words: Sequence[str],
    wanted: Selection,
    *,
    every: bool,
    yes: bool,
    as_json: bool,
) -> None:
    """Carry out a change and say how many it met; exit code 1 when some were not there."""
    chosen, total = run_loop(partial(_look, app, words, wanted, every=every))
    done = f"{verb}ed" if verb == "replay" else "deleted"
    if not chosen.ids and not yes and total:
        where = f"of queue {chosen.queue}" if chosen.queue else "of all queues"
        good = ", for good" if verb == "delete" else ""
        ask(f"{verb.capitalize()} {_letters(total)} {where} at {app.url}{good}?")
    progress = Progress(done, total)
    try:
        changed = run_loop(partial(change_dead, app, verb, chosen, progress))
    except KeyboardInterrupt:
        progress.end()
        # What was under way may have been done all the same: who asked did not hear of it.
        complain(f"interrupted: at least {_letters(progress.count)} {done}, no others are begun")
        raise typer.Exit(130) from None
    if as_json:
        missing = {"missing": changed.missing} if changed.missing else {}
        print_json({done: changed.count, **missing})
    else:
        print(f"{_letters(changed.count)} {done}.")
    if changed.missing:
        raise typer.Exit(1)


def _letters(count: int) -> str:
    return counted(count, "dead letter")


def _filter(
    task: str | None, reason: str | None, older_than: str | None, newer_than: str | None
) -> Filter:
    return Filter(
        task=task,
        reason=reason,
        older_than=parse_age(older_than, "--older-than"),
        newer_than=parse_age(newer_than, "--newer-than"),
    )


def _as_data(letter: DeadLetter, *, body: bool) -> dict[str, Any]:
    last = letter.last
    data = {
        "id": letter.envelope.id,
        "queue": letter.envelope.queue,
        "task": task_of(letter),
        "reason": letter.reason,
        "died_at": letter.died_at,
        "attempt": last.attempt or None if last else None,
        "crashes": letter.crashes,
        "worker": last.worker or None if last else None,
        "error": msgspec.structs.asdict(last.error) if last else None,
        "size": len(letter.envelope.body),
    }
    return {**data, "body": letter.envelope.body} if body else data


def _print_letter(letter: DeadLetter, *, body: bool, traceback: bool) -> None:
    """Its facts on one line, below it why it is there: ids stay whole on narrow terminals."""
    envelope, last = letter.envelope, letter.last
    facts = [
        f"queue {envelope.queue}",
        f"task {task_of(letter) or '?'}",
        *([f"attempt {last.attempt}"] if last and last.attempt else ()),
        _died(letter),
        *([counted(letter.crashes, "crash", "crashes")] if letter.crashes else ()),
        filesize.decimal(len(envelope.body)),
    ]
    print_line(envelope.id, ", ".join(facts))
    print_line("", f"  {bounded(letter.reason, REASON_SHOWN)}")
    if body:
        print_line("", f"  {_preview(envelope.body)}")
    if traceback and last:
        for line in last.error.traceback.splitlines():
            print_line("", f"    {line}")


def _facts(letter: DeadLetter) -> Sequence[tuple[str, object]]:
    envelope, last = letter.envelope, letter.last
    facts: list[tuple[str, object]] = [
        ("id", envelope.id),
        ("queue", envelope.queue),
        ("task", task_of(letter) or "?"),
        ("reason", letter.reason),
        ("died", _died(letter)),
        ("crashes", letter.crashes),
        ("size", filesize.decimal(len(envelope.body))),
        ("body", _preview(envelope.body)),
    ]
    if last is not None:
        facts += [("attempt", last.attempt or "?"), ("worker", last.worker or "?")]
        facts += [("error" if not at else "", plain(line))
                  for at, line in enumerate(last.error.traceback.splitlines())]  # fmt: skip
    return facts


def _died(letter: DeadLetter) -> str:
    """When it died, and how long ago that is."""
    try:
        moment = datetime.fromtimestamp(letter.died_at, UTC) if letter.died_at else None
    except (ValueError, OverflowError, OSError):  # other hands wrote what no calendar has
        moment = None
    if moment is None:
        return "died at an unknown time"
    age = max(0.0, SystemClock().now() - letter.died_at)
    return f"{moment:%Y-%m-%d %H:%M:%S} UTC ({duration(age)} ago)"


def _preview(body: bytes) -> str:
    """How a body begins, with escapes for what is no printable ASCII."""
    return repr(body[:PREVIEW])[2:-1] + ("…" if len(body) > PREVIEW else "")
