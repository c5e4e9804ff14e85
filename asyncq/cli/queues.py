"""``asyncq queues`` and ``asyncq purge``: what waits, and away with it."""

from collections.abc import Mapping
from functools import partial
from typing import Annotated

import msgspec
from rich.table import Column
from typer import Argument, Option

from asyncq.app import App
from asyncq.brokers.admin import Depth
from asyncq.cli.apps import admin_of, find_queues, load_store
from asyncq.cli.arguments import StoreArgument
from asyncq.cli.output import ask, duration, print_json, print_table
from asyncq.texts import plain
from asyncq.worker.signals import run_loop


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
    numbers = [Column(name, justify="right") for name in ("ready", "delayed", "held", "dead")]
    print_table(
        [Column("queue", overflow="fold"), *numbers, Column("oldest", justify="right")],
        [
            (
                *(name, depth.ready, depth.delayed, depth.held, depth.dead),
                "" if depth.oldest_age is None else duration(depth.oldest_age),
            )
            for name, depth in depths.items()
        ],
    )


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
        waiting = f"{depth.ready} ready and {depth.delayed} delayed messages"
        ask(f"Remove {waiting} from queue {queue} at {loaded.url}?")
    purged = run_loop(partial(purge_queue, loaded, queue))
    if as_json:
        print_json({"queue": queue, "purged": purged})
    else:
        print(f"{purged} {'message' if purged == 1 else 'messages'} removed from {plain(queue)}.")


async def measure_queues(app: App, queue: str | None = None) -> Mapping[str, Depth]:
    """The depth of each queue, or of this one.

    Raises:
        ConfigurationError: there is no such queue.
    """
    async with app:
        admin = admin_of(app)
        return {name: await admin.depth(name) for name in await find_queues(app, queue)}


async def purge_queue(app: App, queue: str) -> int:
    """Remove every message that waits in this queue; returns how many.

    Raises:
        ConfigurationError: there is no such queue.
    """
    async with app:
        [name] = await find_queues(app, queue)
        return await admin_of(app).purge(name)
