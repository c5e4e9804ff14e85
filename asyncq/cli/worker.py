"""``asyncq worker``: workers in processes of their own, and a supervisor above them."""

import os
from typing import Annotated

from typer import Option

from asyncq.cli.arguments import AppArgument
from asyncq.cli.logs import DEFAULT_LEVEL, LogFormat, LogLevel, set_up_logs
from asyncq.config import DEFAULTS, MIB

Queues = Annotated[
    list[str] | None,
    Option(
        "--queue",
        "-q",
        metavar="QUEUE[:N]",
        help="Consume this queue, and run at most N of its tasks at a time; repeat for more.",
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
MaxWaiting = Annotated[
    int | None,
    Option(
        metavar="N",
        min=0,
        help="Tasks that may lend their slot while they wait for others' results.",
        show_default="the app's, else 10 times the slots",
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
Processes = Annotated[
    int,
    Option("--processes", "-p", metavar="N", min=1, help="Worker processes, each with a loop."),
]
MaxTasks = Annotated[
    int | None,
    Option(
        metavar="N",
        min=1,
        help="Replace a process once it has run so many tasks; it drains.",
        show_default="never",
    ),
]
MaxMemory = Annotated[
    int | None,
    Option(
        metavar="MIB",
        min=1,
        help="Replace a process once it takes so much memory; it drains.",
        show_default="never",
    ),
]
Health = Annotated[
    int | None,
    Option(
        metavar="PORT",
        min=1,
        max=65535,
        help="Answer /live and /ready over HTTP there: 200 or 503.",
        show_default="nowhere",
    ),
]
Level = Annotated[
    LogLevel | None,
    Option(
        metavar="LEVEL",
        help="Log from here upwards: debug to critical.",
        show_default=f"the app's, else {DEFAULT_LEVEL}",
    ),
]


def worker(
    app: AppArgument,
    *,
    queue: Queues = None,
    concurrency: Concurrency = None,
    max_waiting: MaxWaiting = None,
    grace: Grace = None,
    lease: Lease = None,
    processes: Processes = 1,
    max_tasks_per_child: MaxTasks = None,
    max_memory_per_child: MaxMemory = None,
    health: Health = None,
    health_host: Annotated[
        str, Option(metavar="ADDRESS", help="Where --health listens.")
    ] = "127.0.0.1",
    require_broker: Annotated[
        bool,
        Option("--require-broker", help="Fail if a broker does not answer, instead of waiting."),
    ] = False,
    log_level: Level = None,
    log_format: Annotated[
        LogFormat, Option(metavar="FORMAT", help="Lines of text, or of json.")
    ] = LogFormat.TEXT,
    no_log_setup: Annotated[
        bool,
        Option("--no-log-setup", help="Leave the log of the worker processes to the app alone."),
    ] = False,
    burst: Annotated[
        bool, Option("--burst", help="Stop once nothing is due in the queues.")
    ] = False,
    reload: Annotated[
        bool, Option("--reload", help="Restart when a Python file here changes.")
    ] = False,
) -> None:
    """Run tasks until told to stop (SIGTERM, Ctrl-C, a terminal that is closed).

    Told once, the worker takes nothing more and lets what runs end within the grace period. Told
    twice, it gives that back at once; the third time it leaves.
    """
    from asyncq.worker.queues import parse_queues

    parse_queues(queue or ())  # complained about before anything is started
    set_up_logs(log_level, log_format)
    if reload:
        from asyncq.cli.reload import run_reloading

        run_reloading()
    from asyncq.cli.supervisor import become_supervisor
    from asyncq.supervisor.supervisor import Plan
    from asyncq.worker.channel import Orders

    orders = Orders(
        app=app,
        queues=queue or (),
        concurrency=concurrency,
        max_waiting=max_waiting,
        grace=grace,
        lease=lease,
        burst=burst,
        require_broker=require_broker,
        log_level=log_level,
        log_format=log_format,
        log_setup=not no_log_setup,
        processes=processes,
        python_path=os.environ.get("PYTHONPATH"),
    )
    plan = Plan(
        orders=orders,
        processes=processes,
        max_tasks=max_tasks_per_child,
        max_memory=None if max_memory_per_child is None else max_memory_per_child * MIB,
        health_host=health_host,
        health_port=health,
    )
    become_supervisor(plan)
