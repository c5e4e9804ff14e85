"""A worker process of ``asyncq worker``, started by its supervisor: ``python -m asyncq.cli.child``.

The arguments are the channel to it, the pipe for stacks, and the app's name, for those who look at
the list of processes. Everything else comes over the channel.
"""

import os
import signal
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from importlib.metadata import version

import msgspec

from asyncq.app import App
from asyncq.cli.apps import doubt_queues, load_app
from asyncq.cli.importing import told_if_slow
from asyncq.cli.leaving import leave_soon
from asyncq.cli.logs import LogFormat, LogLevel, WorkerLogs
from asyncq.cli.texts import explain
from asyncq.client.routing import DEFAULT_BROKER
from asyncq.errors import BrokerUnavailable, first_error
from asyncq.interrupted import INTERRUPTED
from asyncq.loggers import get_logger
from asyncq.texts import plain
from asyncq.worker.arrival import connected
from asyncq.worker.channel import Orders
from asyncq.worker.parent import Parent
from asyncq.worker.queues import Consumed, check_queues, parse_queues, show_queues
from asyncq.worker.signals import leave_at_once, run_loop

log = get_logger("asyncq.cli.child")  # it runs as `__main__`

TASKS_SHOWN = 10
THREADS_GET = 5.0  # seconds to end in, once the worker's shutdown hooks have run


def main() -> None:
    """Do as the supervisor says, and tell it why if that ends badly."""
    try:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})  # blocked by the supervisor
        _serve(Parent(channel=int(sys.argv[1]), pipe=int(sys.argv[2])))
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)  # before the loop could hear of it: nothing was begun
    finally:
        leave_soon(THREADS_GET, _warn)


def _serve(parent: Parent) -> None:
    try:
        orders = parent.await_orders()
    except EOFError as error:
        sys.exit(str(error))
    try:
        _work(orders, parent)
        parent.say_goodbye(0)
        if parent.left_threads:
            leave_at_once()
    # The end of the way, and the user's code is in there: a hook may raise anything.
    except (Exception, SystemExit) as error:
        log.debug("the worker failed", exc_info=error)
        why, code = explain(error)
        parent.say_goodbye(code, why)
        sys.exit(code)


def _work(orders: Orders, parent: Parent) -> None:
    if orders.python_path is None:
        os.environ.pop("PYTHONPATH", None)
    else:
        os.environ["PYTHONPATH"] = orders.python_path
    app = _load(orders)
    given = {
        "lease": orders.lease,
        "grace": orders.grace,
        "concurrency": orders.concurrency,
        "max_waiting": orders.max_waiting,
    }
    app.config = msgspec.structs.replace(
        app.config, **{name: value for name, value in given.items() if value is not None}
    )
    with told_if_slow(orders.app, _warn):  # the modules that it includes
        queues = parse_queues(orders.queues) or check_queues(app.queues.declared)
    if orders.introduce:
        introduce(orders, app, queues)
    run_loop(partial(_run, app, queues, parent, orders))


def _load(orders: Orders) -> App:
    """The app, and a log as it wants it."""
    level = LogLevel(orders.log_level) if orders.log_level else None
    logs = WorkerLogs(level, LogFormat(orders.log_format)) if orders.log_setup else None
    app = load_app(orders.app, _warn)
    if logs is not None:
        logs.settle()
    return app


def _warn(line: str) -> None:
    log.warning("%s", line)


async def _run(app: App, queues: Consumed, parent: Parent, orders: Orders) -> None:
    async with connected(app, lambda: app.client.backend, required=orders.require_broker):
        if orders.introduce and orders.queues:
            await _warn_of_new_queues(app, list(queues))
        worker = app.make_worker(queues=queues, burst=orders.burst)
        try:
            # Of a list of URLs, and of other brokers, the worker renews the leases itself.
            url = app.url if len(app.urls[DEFAULT_BROKER]) == 1 else None
            await parent.run(worker, app.client.broker, url, app.config)
        except BaseExceptionGroup as errors:
            raise first_error(errors) from None


async def _warn_of_new_queues(app: App, queues: Sequence[str]) -> None:
    """Consumed that nobody knows may be misspelled; they are consumed all the same."""
    with suppress(BrokerUnavailable):  # then the worker says so itself
        for doubt in await doubt_queues(app, queues):
            log.warning("%s; it is consumed all the same", doubt)


def brokers_of(app: App) -> list[tuple[str, object]]:
    """The app's brokers as facts: by their names where there are several, all URLs of each."""
    shown = {name: " or ".join(urls) for name, urls in app.urls.items()}
    if len(shown) == 1:
        return [("broker", urls) for urls in shown.values()]
    return [(f"broker {name}", urls) for name, urls in shown.items()]


def introduce(orders: Orders, app: App, queues: Mapping[str, int | None]) -> None:
    """Say what is about to run, on standard error: where the log goes, too, and as it looks."""
    title = f"asyncq {version('asyncq')} worker"
    facts = facts_of(orders, app, queues)
    if orders.log_format == LogFormat.JSON:
        log.info("%s: %s", title, ", ".join(f"{name} {plain(value)}" for name, value in facts))
        return
    from asyncq.cli.output import print_facts

    # Where nobody reads it, or its disk is full, that is no reason not to work; rich would exit.
    with suppress(OSError, SystemExit):
        print_facts(facts, title=title, err=True)


def facts_of(
    orders: Orders, app: App, queues: Mapping[str, int | None]
) -> list[tuple[str, object]]:
    """What there is to know of a worker before it starts."""
    tasks = sorted(app.tasks)
    rest = len(tasks) - TASKS_SHOWN
    facts: list[tuple[str, object]] = [
        ("app", orders.app),
        *brokers_of(app),
        ("queues", show_queues(queues)),
        ("tasks", ", ".join(tasks[:TASKS_SHOWN]) + (f" and {rest} more" if rest > 0 else "")),
        ("concurrency", app.config.concurrency),
    ]
    if app.backend_url != app.url:
        facts.insert(1 + len(app.urls), ("backend", app.backend_url))
    if not tasks:
        facts[-2] = ("tasks", "none: import the modules that define them where the app is")
    if orders.processes > 1:
        facts.append(("processes", orders.processes))
    return facts


if __name__ == "__main__":
    main()
