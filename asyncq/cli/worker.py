"""``asyncq worker``: a worker in a process of its own."""

import logging
from functools import partial
from importlib.metadata import version
from typing import Annotated

import msgspec
from typer import Option

from asyncq.app import App
from asyncq.cli.apps import AppArgument, load_app
from asyncq.cli.logs import LogLevel, set_up_logs
from asyncq.cli.output import print_facts
from asyncq.config import DEFAULTS
from asyncq.topology import check_queue_name
from asyncq.worker.signals import run_loop

log = logging.getLogger(__name__)

TASKS_SHOWN = 10


Queues = Annotated[
    list[str] | None,
    Option(
        "--queue",
        "-q",
        metavar="QUEUE",
        help="Consume this queue; repeat for more.",
        show_default="those of the app's tasks",
    ),
]
Concurrency = Annotated[
    int | None,
    Option(
        "--concurrency",
        "-c",
        metavar="N",
        min=1,
        help="Tasks to run at a time.",
        show_default=f"the app's, else {DEFAULTS.concurrency}",
    ),
]
Grace = Annotated[
    float | None,
    Option(
        metavar="SECONDS",
        min=0,
        help="How long running tasks get to end in, when told to stop.",
        show_default=f"the app's, else {DEFAULTS.grace:g}",
    ),
]
Lease = Annotated[
    float | None,
    Option(
        metavar="SECONDS",
        min=1,
        help="When others take over, should this worker vanish.",
        show_default=f"the app's, else {DEFAULTS.lease:g}",
    ),
]


def worker(
    app: AppArgument,
    *,
    queue: Queues = None,
    concurrency: Concurrency = None,
    grace: Grace = None,
    lease: Lease = None,
    log_level: Annotated[
        LogLevel, Option(metavar="LEVEL", help="Log from here upwards: debug to critical.")
    ] = LogLevel.INFO,
    burst: Annotated[bool, Option("--burst", help="Stop once the queues are empty.")] = False,
    reload: Annotated[
        bool, Option("--reload", help="Start anew when a Python file here changes.")
    ] = False,
) -> None:
    """Run tasks until told to stop (SIGTERM, Ctrl-C).

    Told once, the worker takes nothing more and lets what runs end within the grace period. Told
    twice, it gives that back at once; the third time it leaves.
    """
    set_up_logs(log_level)
    if reload:
        from asyncq.cli.reload import run_reloading

        run_reloading()
    loaded = load_app(app)
    for name in queue or ():
        check_queue_name(name)
    if lease is not None:
        loaded.config = msgspec.structs.replace(loaded.config, lease=lease)
    print_banner(app, loaded, queue or loaded.queues(), concurrency or loaded.config.concurrency)
    run_loop(
        partial(
            loaded.run_worker,
            queues=queue or None,
            concurrency=concurrency,
            grace=grace,
            burst=burst,
        )
    )
    log.info("stopped")


def brokers_of(app: App) -> list[tuple[str, object]]:
    """The app's brokers as facts: by their names where there are several, all URLs of each."""
    shown = {name: " or ".join(urls) for name, urls in app.urls.items()}
    if len(shown) == 1:
        return [("broker", urls) for urls in shown.values()]
    return [(f"broker {name}", urls) for name, urls in shown.items()]


def print_banner(name: str, app: App, queues: list[str], concurrency: int) -> None:
    """What is about to run, to standard error: where the log goes, too."""
    tasks = sorted(app.tasks)
    rest = len(tasks) - TASKS_SHOWN
    facts: list[tuple[str, object]] = [
        ("app", name),
        *brokers_of(app),
        ("queues", ", ".join(queues)),
        ("tasks", ", ".join(tasks[:TASKS_SHOWN]) + (f" and {rest} more" if rest > 0 else "")),
        ("concurrency", concurrency),
    ]
    if app.backend_url != app.url:
        facts.insert(1 + len(app.urls), ("backend", app.backend_url))
    if not tasks:
        facts[-2] = ("tasks", "none: import the modules that define them where the app is")
    print_facts(facts, title=f"asyncq {version('asyncq')} worker", err=True)
