"""The process above the workers of ``asyncq worker``, which that command becomes.

It lives as long as they do, and so is small: the command hands over what it was told in an
environment variable, and its own arguments stay in the list of processes.
"""

import os
import signal
import sys
from contextlib import suppress
from typing import NoReturn

import anyio
import msgspec

from asyncq.cli.logs import LogFormat, LogLevel, set_up_logs
from asyncq.cli.texts import complain, explain
from asyncq.loggers import get_logger
from asyncq.supervisor.supervisor import Plan, Supervisor
from asyncq.texts import plain
from asyncq.worker.channel import import_path
from asyncq.worker.signals import stop_signals

log = get_logger("asyncq.cli.supervisor")  # it runs as `__main__`

PLAN = "ASYNCQ_WORKER_PLAN"


def become_supervisor(plan: Plan) -> NoReturn:
    """Let this process be the supervisor and nothing else; a signal meanwhile is not lost."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError):  # nobody reads it any more, or its disk is full
            stream.flush()
    signal.pthread_sigmask(signal.SIG_BLOCK, stop_signals())
    environ = {
        **os.environ,
        PLAN: msgspec.json.encode(plan).decode(),
        "PYTHONPATH": import_path(),
    }
    # -P: what is in the current directory must not stand in for what this process imports.
    command = [sys.executable, "-P", "-m", __name__, "worker", *sys.argv[2:]]
    os.execve(sys.executable, command, environ)  # noqa: S606 - ourselves


def main() -> NoReturn:
    """Supervise until the workers have ended, and exit as they did."""
    plan = msgspec.json.decode(os.environ.pop(PLAN), type=Plan)
    orders = plan.orders
    set_up_logs(
        LogLevel(orders.log_level) if orders.log_level else None, LogFormat(orders.log_format)
    )
    try:
        end = anyio.run(Supervisor(plan).run)
    # The end of the way: whatever it is, it is said in a line.
    except Exception as error:
        log.debug("the supervisor failed", exc_info=error)
        why, code = explain(error)
        _say_why(why, plan)
        sys.exit(code)
    if end.why is not None:
        _say_why(end.why, plan)
    elif end.code:
        log.error("stopped with exit code %d: a worker process did not end well", end.code)
    else:
        log.info("stopped")
    sys.exit(end.code)


def _say_why(why: str, plan: Plan) -> None:
    """The last line: where every line is JSON, as one of the log."""
    if plan.orders.log_format == LogFormat.JSON:
        log.critical("%s", plain(why))
    else:
        complain(why)


if __name__ == "__main__":
    main()
