"""A worker process of the laboratory: ``python -m tests.faults.lab.worker_main``.

LAB_URL      the broker
LAB_BACKEND  the backend; without it, the broker's store
LAB_CONFIG   a `Config` in JSON
LAB_LEDGER   the ledger's file
LAB_DIE_AT   the point at which it is to die; see `crash_points`
LAB_LATER    set: it is of a later release, with a task and a message version more
"""

import logging
import os
import resource
import threading
from typing import Any

import msgspec

from asyncq.codecs import native
from asyncq.config import Config
from asyncq.worker.signals import run_loop
from tests.faults.lab.crash_points import DIE_AT, set_death
from tests.faults.lab.ledger import Ready, now
from tests.faults.lab.tasks import APP, LATER, QUEUE, TOMORROW, ledger, make_app, work


def main() -> None:
    logging.basicConfig(format="%(asctime)s %(name)s %(levelname)s %(message)s", level=logging.INFO)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # poison leaves no core behind
    threading.Thread(target=_leave_with_parent, daemon=True).start()
    config = msgspec.json.decode(os.environ["LAB_CONFIG"], type=Config)
    app = make_app(os.environ["LAB_URL"], config, os.environ.get("LAB_BACKEND"))
    if LATER in os.environ:
        native.VERSION += 1
        app.task(name=TOMORROW, queue=QUEUE)(work)

    def prepare(state: dict[str, Any]) -> None:
        state[APP] = app
        if DIE_AT in os.environ:
            set_death(os.environ[DIE_AT], app)
        ledger().write(Ready(os.getpid(), now()))

    app.on_startup(prepare)
    run_loop(app.run_worker)


def _leave_with_parent() -> None:
    """Our standard input is a pipe that the laboratory holds: its end is the laboratory's."""
    while os.read(0, 1):
        pass
    os._exit(3)


if __name__ == "__main__":
    main()
