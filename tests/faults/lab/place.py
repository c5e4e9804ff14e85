"""The laboratory's app where workers find it: ``asyncq worker tests.faults.lab.place:app``.

LAB_URL      the broker
LAB_BACKEND  the backend; without it, the broker's store
LAB_CONFIG   a `Config` in JSON
LAB_LEDGER   the ledger's file
LAB_DIE_AT   the point at which it is to die; see `crash_points`
LAB_LATER    set: it is of a later release, with a task and a message version more
LAB_BEFORE   set: it is of before latches; see `before`
LAB_PLAGUE   while there is a file of this name, a process dies as soon as it begins
"""

import os
import resource
import signal
import threading
from typing import Any

import msgspec

from asyncq.codecs import native
from asyncq.config import Config
from tests.faults.lab.before import BEFORE, become_old
from tests.faults.lab.crash_points import DIE_AT, set_death
from tests.faults.lab.ledger import Ready, now
from tests.faults.lab.runs import ledger
from tests.faults.lab.scoped import APP
from tests.faults.lab.tasks import LATER, QUEUE, TOMORROW, make_app, work

if BEFORE in os.environ:
    become_old()
app = make_app(
    os.environ["LAB_URL"],
    Config(**msgspec.json.decode(os.environ["LAB_CONFIG"])),
    os.environ.get("LAB_BACKEND"),
)
if LATER in os.environ:
    native.VERSION += 1
    app.task(name=TOMORROW, queue=QUEUE)(work)


@app.on_startup
def begin(state: dict[str, Any]) -> None:
    if os.path.exists(os.environ.get("LAB_PLAGUE", "")):
        os._exit(7)
    state[APP] = app
    if DIE_AT in os.environ:
        set_death(os.environ[DIE_AT], app)
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
