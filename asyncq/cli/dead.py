"""``asyncq dead``: messages that were taken out of circulation, and what to do with them."""

import sys
from collections.abc import Callable, Coroutine, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Annotated, Any

import typer
from rich import filesize
from typer import Argument, Option

from asyncq.app import App
from asyncq.brokers.admin import DeadLetter, QueueAdmin
from asyncq.brokers.base import MAX_BATCH
from asyncq.cli.apps import admin_of, find_queues, load_store
from asyncq.cli.arguments import StoreArgument
from asyncq.cli.output import ask, print_json, print_line
from asyncq.cli.texts import complain
from asyncq.codecs.native import NativeCodec
from asyncq.errors import ConfigurationError, Undecodable
from asyncq.texts import bounded
from asyncq.worker.signals import run_loop

SHOWN = 100
PREVIEW = 60  # bytes of a body
REASON_SHOWN = 300  # bytes of a reason; --json has all of it

commands = typer.Typer(
    help="List, replay and delete dead letters.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
)

Queue = Annotated[str | None, Argument(metavar="QUEUE", help="Their queue.", show_default="all")]
Ids = Annotated[list[str] | None, Argument(metavar="IDS", help="Which of them.")]
All = Annotated[bool, Option("--all", help="All of them, instead of IDS.")]
Limit = Annotated[
    int | None, Option(metavar="N", min=1, help="With --all: the oldest, at most so many.")
]
Json = Annotated[bool, Option("--json", help="Print JSON.")]

Selection = Sequence[tuple[str, Sequence[str]]]  # queues, and ids of dead letters in each


@commands.command("list")
def list_(
    app: StoreArgument,
    queue: Queue = None,
    *,
    limit: Annotated[int, Option(metavar="N", min=1, help="Show at most so many.")] = SHOWN,
    body: Annotated[
        bool, Option("--body", help="Show how the bodies begin; with --json, all in Base64.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Show dead letters, the oldest of each queue first, and why they are there."""
    letters = run_loop(partial(list_dead, load_store(app), queue, limit))
    if as_json:
        print_json([_as_data(letter, body=body) for letter in letters])
        return
    if not letters:
        print("There are no dead letters.")
        return
    for letter in letters:
        _print_letter(letter, body=body)
    if len(letters) == limit:
        complain(f"these are {limit}; there may be more: see --limit")


@commands.command()
def replay(
    app: StoreArgument,
    queue: Queue = None,
    ids: Ids = None,
    *,
    every: All = False,
    limit: Limit = None,
    as_json: Json = False,
) -> None:
    """Put dead letters back into their queue, to be run once more.

    What is recorded of their end is forgotten, so name the app where its backend is not its broker.
    """
    wanted = _wanted(queue, ids, every=every)
    change = partial(replay_dead, load_store(app), queue, wanted, limit)
    _change("replayed", change, wanted, as_json)


@commands.command()
def delete(
    app: StoreArgument,
    queue: Queue = None,
    ids: Ids = None,
    *,
    every: All = False,
    limit: Limit = None,
    yes: Annotated[bool, Option("--yes", "-y", help="Do not ask before --all.")] = False,
    as_json: Json = False,
) -> None:
    """Forget dead letters for good."""
    wanted = _wanted(queue, ids, every=every)
    if every and not yes:
        which = f"of queue {queue}" if queue else "of every queue"
        ask(f"Delete all dead letters {which}, for good?")
    change = partial(delete_dead, load_store(app), queue, wanted, limit)
    _change("deleted", change, wanted, as_json)


async def list_dead(app: App, queue: str | None, limit: int) -> Sequence[DeadLetter]:
    """Up to ``limit`` dead letters of one queue, or of all."""
    letters: list[DeadLetter] = []
    async with app:
        admin = admin_of(app)
        for name in await find_queues(app, queue):
            if limit > len(letters):
                letters += await admin.dead_letters(name, limit=limit - len(letters))
    return letters


async def replay_dead(
    app: App, queue: str | None, ids: Sequence[str] | None, limit: int | None
) -> int:
    """Put these dead letters back into their queue, or all; returns how many there were."""
    async with app:
        return sum(
            [
                len(await app.client.replay(name, batch))
                for name, batch in await _select(app, queue, ids, limit)
            ]
        )


async def delete_dead(
    app: App, queue: str | None, ids: Sequence[str] | None, limit: int | None
) -> int:
    """Forget these dead letters, or all of them; returns how many there were."""
    async with app:
        admin = admin_of(app)
        return sum(
            [
                await admin.delete_dead(name, batch)
                for name, batch in await _select(app, queue, ids, limit)
            ]
        )


async def _select(
    app: App, queue: str | None, ids: Sequence[str] | None, limit: int | None
) -> Selection:
    """The ids that are meant, in batches.

    All of them are all that are there now: one that dies again meanwhile is not met twice.
    """
    admin = admin_of(app)
    room = sys.maxsize if limit is None else limit
    chosen: list[tuple[str, Sequence[str]]] = []
    for name in await find_queues(app, queue):
        found = await _dead_ids(admin, name, room) if ids is None else ids
        room -= len(found)
        chosen += [(name, found[at : at + MAX_BATCH]) for at in range(0, len(found), MAX_BATCH)]
    return chosen


async def _dead_ids(admin: QueueAdmin, queue: str, most: int) -> Sequence[str]:
    found: list[str] = []
    while len(found) < most:
        page = await admin.dead_letters(
            queue, limit=min(MAX_BATCH, most - len(found)), offset=len(found)
        )
        if not page:
            break
        found += [letter.envelope.id for letter in page]
    return found


def _wanted(queue: str | None, ids: list[str] | None, *, every: bool) -> list[str] | None:
    """The ids that were given, each once; None for all."""
    if every and ids:
        raise ConfigurationError("name dead letters, or say --all; not both")
    if not every and not ids:
        whose = f"the ids of dead letters of queue {queue}" if queue else "a queue and ids"
        raise ConfigurationError(f"name {whose}, or say --all")
    return None if every else list(dict.fromkeys(ids or ()))


def _change(
    done: str,
    change: Callable[[], Coroutine[Any, Any, int]],
    wanted: Sequence[str] | None,
    as_json: bool,
) -> None:
    """Carry out a change and say how many it met; exit code 1 when some were not there."""
    count = run_loop(change)
    if as_json:
        print_json({done: count})
    else:
        print(f"{count} {'dead letter' if count == 1 else 'dead letters'} {done}.")
    if wanted is not None and count < len(wanted):
        complain(f"{len(wanted) - count} of {len(wanted)} were not there")
        raise typer.Exit(1)


def _as_data(letter: DeadLetter, *, body: bool) -> dict[str, Any]:
    data = {
        "id": letter.envelope.id,
        "queue": letter.envelope.queue,
        "task": _task(letter),
        "reason": letter.reason,
        "died_at": letter.died_at,
        "crashes": letter.crashes,
        "size": len(letter.envelope.body),
    }
    return {**data, "body": letter.envelope.body} if body else data


def _print_letter(letter: DeadLetter, *, body: bool) -> None:
    """Its facts on one line, below it why it is there: ids stay whole on narrow terminals."""
    envelope = letter.envelope
    died = datetime.fromtimestamp(letter.died_at, UTC)
    facts = [
        f"queue {envelope.queue}",
        f"task {_task(letter) or '?'}",
        f"{died:%Y-%m-%d %H:%M:%S} UTC",
        f"{letter.crashes} crashes",
        filesize.decimal(len(envelope.body)),
    ]
    print_line(envelope.id, ", ".join(facts))
    print_line("", f"  {bounded(letter.reason, REASON_SHOWN)}")
    if body:
        print_line("", f"  {_preview(envelope.body)}")


def _preview(body: bytes) -> str:
    """How a body begins, with escapes for what is no printable ASCII."""
    return repr(body[:PREVIEW])[2:-1] + ("…" if len(body) > PREVIEW else "")


def _task(letter: DeadLetter) -> str | None:
    """The name of its task, where the body can be read."""
    try:
        return NativeCodec().decode(letter.envelope).task
    except Undecodable:
        return None
