"""The laboratory's app where workers find it: ``asyncq worker tests.faults.lab.place:app``.

LAB_URL      the broker
LAB_CONFIG   a `Config` in JSON
LAB_LEDGER   the ledger's file
LAB_PLAGUE   while there is a file of this name, a process dies as soon as it begins
"""

import os
import resource
import signal
import threading
from typing import Any

import msgspec

from asyncq.config import Config
from tests.faults.lab.ledger import Ready, now
from tests.faults.lab.tasks import ledger, make_app

app = make_app(os.environ["LAB_URL"], msgspec.json.decode(os.environ["LAB_CONFIG"], type=Config))


@app.on_startup
def begin(_: dict[str, Any]) -> None:
    if os.path.exists(os.environ.get("LAB_PLAGUE", "")):
        os._exit(7)
    ledger().write(Ready(os.getpid(), os.getppid(), now()))


def _leave_with_laboratory(parent: int, laboratory: int) -> None:
    """Our standard input is a pipe that the laboratory holds: its end is the laboratory's."""
    while os.read(0, 1):
        pass
    if parent not in (0, laboratory) and os.getppid() == parent:
        os.kill(parent, signal.SIGKILL)  # the supervisor, which would start us anew
    os._exit(3)


resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # poison leaves no core behind
threading.Thread(
    target=_leave_with_laboratory,
    args=(os.getppid(), int(os.environ["LAB_PID"])),
    daemon=True,
).start()
