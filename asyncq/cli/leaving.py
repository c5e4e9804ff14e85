"""Leaving: a process ends although threads that the program has started go on.

At its exit Python waits for each thread that is no daemon, without a word and without end: a
command has printed all it has to say, a worker has settled all it had, and neither would end.
"""

import sys
import threading
import time
from collections.abc import Callable

from asyncq.texts import counted, shown
from asyncq.worker.signals import leave_at_once

SHOWN = 5  # threads in one line
NAME_LIMIT = 60  # bytes of a thread's name


def leave_soon(patience: float, tell: Callable[[str], None]) -> None:
    """Have this process end in ``patience`` seconds, if nothing but threads keeps it until then.

    The last thing that is done before the exit, in a ``finally``: the exit code is that of the
    `SystemExit` that is on its way. What ends by itself, as idle threads of executors do when they
    are told, ends; for what does not, ``tell`` is told its names.
    """
    if _left():
        end = (_exit_code(sys.exception()), patience, tell)
        threading.Thread(target=_leave, args=end, name="asyncq-leaving", daemon=True).start()


def _leave(code: int, patience: float, tell: Callable[[str], None]) -> None:
    time.sleep(patience)
    if left := _left():
        names = ", ".join(shown(each.name, NAME_LIMIT) for each in left[:SHOWN])
        tell(
            f"leaving without {counted(len(left), 'thread')} of the program that would keep this "
            f"process from ending: {names}; begin them with daemon=True, or end them (a worker's "
            "in app.on_shutdown)"
        )
        leave_at_once(code)


def _left() -> list[threading.Thread]:
    ours = {threading.main_thread(), threading.current_thread()}
    return [each for each in threading.enumerate() if not each.daemon and each not in ours]


def _exit_code(error: BaseException | None) -> int:
    if not isinstance(error, SystemExit):
        return 0 if error is None else 1
    if error.code is None:
        return 0
    return error.code if isinstance(error.code, int) else 1
