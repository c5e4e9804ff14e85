"""``asyncq queues``, ``asyncq queues peek`` and ``asyncq purge``: what waits, and away with it."""

import json
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Annotated, Any

import msgspec
import typer
from rich import filesize
from rich.table import Column
from typer import Argument, Option

from asyncq.app import App
from asyncq.cli.apps import find_queues, load_store
from asyncq.cli.arguments import StoreArgument, WithDefault
from asyncq.cli.output import ask, duration, print_json, print_line, print_table
from asyncq.cli.texts import complain
from asyncq.clock import SystemClock
from asyncq.codecs.native import NativeCodec
from asyncq.errors import Undecodable
from asyncq.language.message import UNREADABLE, Message
from asyncq.seams.admin import Depth, Waiting
from asyncq.texts import bounded, counted, plain
from asyncq.worker.signals import run_loop

ARGUMENTS_SHOWN = 500  # bytes of them; --json has all


commands = typer.Typer(
    cls=WithDefault,
    help="Show queues, and what waits in them: `asyncq queues APP` lists them.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
)


@commands.command("list")
def queues(
    app: StoreArgument,
    *,
    as_json: Annotated[bool, Option("--json", help="Print a JSON array.")] = False,
) -> None:
    """Show how many messages each queue has, by where they are."""
    depths = run_loop(partial(measure_queues, load_store(app)))
    if as_json:
        print_json([{"queue": name, **msgspec.structs.asdict(depths[name])} for name in depths])
        return
    if not depths:
        print("There are no queues yet.")
        return
    numbers = [Column(name, justify="right") for name in ("ready", "delayed", "in flight", "dead")]
    print_table(
        [Column("queue", overflow="fold"), *numbers, Column("oldest", justify="right")],
        [
            (
                name,
                *map(_count, (depth.ready, depth.delayed, depth.in_flight, depth.dead)),
                "" if depth.oldest_age is None else duration(depth.oldest_age),
            )
            for name, depth in depths.items()
        ],
    )
    for name, depth in depths.items():
        if depth.differs is not None:
            complain(f"queue {name} cannot be used by this app as it is: {depth.differs}")


def _count(messages: int | None) -> str:
    return "?" if messages is None else str(messages)  # AMQP does not tell all of them


@commands.command("peek")
def peek(
    app: StoreArgument,
    queue: Annotated[str, Argument(metavar="QUEUE", help="The queue to look into.")],
    *,
    limit: Annotated[int, Option(metavar="N", min=1, help="Show at most so many.")] = 20,
    args: Annotated[
        bool, Option("--args", help="Show the arguments, too; there may be secrets in them.")
    ] = False,
    as_json: Annotated[bool, Option("--json", help="Print a JSON array.")] = False,
) -> None:
    """Show the next messages of a queue without taking them, in the order they will be taken."""
    waiting = run_loop(partial(peek_queue, load_store(app), queue, limit))
    if as_json:
        print_json([_as_data(each, args=args) for each in waiting])
    elif not waiting:
        print(f"Nothing waits in queue {plain(queue)}.")
    for each in () if as_json else waiting:
        _print_waiting(each, args=args)


async def peek_queue(app: App, queue: str, limit: int) -> Sequence[Waiting]:
    """The next messages of this queue, which stay where they are.

    Raises:
        ConfigurationError: there is no such queue, or its broker cannot show them.
    """
    async with app:
        [name] = await find_queues(app, queue)
        return await app.queues.peek(name, limit=limit)


def _read(waiting: Waiting) -> Message | None:
    try:
        return NativeCodec().decode(waiting.envelope)
    except Undecodable:
        return None


def _arguments(message: Message) -> dict[str, Any]:
    """As plain data, whatever their task makes of them."""
    try:
        found = [msgspec.msgpack.decode(raw) for raw in (message.args, message.kwargs)]
    except UNREADABLE:
        return {"args": None, "kwargs": None}
    return {"args": found[0], "kwargs": found[1]}


def _as_data(waiting: Waiting, *, args: bool) -> dict[str, Any]:
    envelope, message = waiting.envelope, _read(waiting)
    data: dict[str, Any] = {
        "id": envelope.id,
        "task": None if message is None else message.task,
        "enqueued_at": envelope.sent_at or None,
        "due": waiting.due,
        "priority": envelope.priority,
        "attempt": None if message is None else message.attempt,
        "crashes": waiting.crashes,
        "size": len(envelope.body),
    }
    return {**data, **_arguments(message)} if args and message is not None else data


def _print_waiting(waiting: Waiting, *, args: bool) -> None:
    """Its facts on one line, and its arguments on the next: ids stay whole on narrow terminals."""
    envelope, message, now = waiting.envelope, _read(waiting), SystemClock().now()
    facts = [f"task {'?' if message is None else message.task}"]
    if envelope.sent_at:
        facts.append(f"sent {duration(max(0.0, now - envelope.sent_at))} ago")
    if waiting.due is not None:
        late = waiting.due <= now
        facts.append("due now" if late else f"due in {duration(waiting.due - now)}")
    facts.append(f"priority {envelope.priority}")
    if message is not None:
        facts.append(f"attempt {message.attempt}")
    if waiting.crashes:
        facts.append(counted(waiting.crashes, "crash", "crashes"))
    print_line(envelope.id, ", ".join([*facts, filesize.decimal(len(envelope.body))]))
    if args and message is not None:
        found = _arguments(message)
        shown = json.dumps(msgspec.to_builtins(found, str_keys=True, enc_hook=repr))
        print_line("", f"  {bounded(shown, ARGUMENTS_SHOWN)}")


def purge(
    app: StoreArgument,
    queue: Annotated[str, Argument(metavar="QUEUE", help="The queue to empty.")],
    *,
    yes: Annotated[bool, Option("--yes", "-y", help="Do not ask.")] = False,
    as_json: Annotated[bool, Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Remove every message that waits in a queue, due or delayed; not what runs, nor the dead."""
    loaded = load_store(app)
    if not yes:
        depth = run_loop(partial(measure_queues, loaded, queue))[queue]
        waiting = f"{depth.ready} ready and {counted(depth.delayed or 0, 'delayed message')}"
        ask(f"Remove {waiting} from queue {queue} at {loaded.url}?")
    purged = run_loop(partial(purge_queue, loaded, queue))
    if as_json:
        print_json({"queue": queue, "purged": purged})
    else:
        print(f"{counted(purged, 'message')} removed from {plain(queue)}.")


async def measure_queues(app: App, queue: str | None = None) -> Mapping[str, Depth]:
    """The depth of each queue, or of this one.

    Raises:
        ConfigurationError: there is no such queue.
    """
    async with app:
        return {name: await app.queues.depth(name) for name in await find_queues(app, queue)}


async def purge_queue(app: App, queue: str) -> int:
    """Remove every message that waits in this queue; returns how many.

    Raises:
        ConfigurationError: there is no such queue.
    """
    async with app:
        [name] = await find_queues(app, queue)
        return await app.queues.purge(name)
