"""Ctrl-C while a command of ours is still being imported, which takes a moment: it leaves quietly.

Imported before anything else of the package, and at work from then on: Python would show where in
our imports it was.
"""

import _thread
import os
import signal
import sys
import time
from collections.abc import Callable
from types import FrameType
from typing import Any

INTERRUPTED = 130  # the exit code: 128 and the number of SIGINT
PROGRAM = "asyncq"
A_MOMENT = 0.01  # seconds


def raise_if_interrupted() -> None:
    """From here on a Ctrl-C is a `KeyboardInterrupt` again: there are things to put in order."""
    if signal.getsignal(signal.SIGINT) is _leave:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        sys.unraisablehook = raise_again(sys.unraisablehook)


def raise_again(others: Callable[[Any], object]) -> Callable[[Any], object]:
    """A hook for what cannot be raised where it is: a Ctrl-C that comes in the callback of a weak
    reference, say, is raised a moment later, and not printed and lost.

    ``others`` hears of the rest.
    """

    def hook(unraisable: Any, /) -> None:
        if unraisable.exc_type is KeyboardInterrupt:
            _thread.start_new_thread(_interrupt_soon, (_thread.get_ident(),))
        else:
            others(unraisable)

    return hook


def _interrupt_soon(main: int) -> None:
    time.sleep(A_MOMENT)
    signal.pthread_kill(main, signal.SIGINT)  # wakes it, too, where it waits


def _is_command() -> bool:
    """Whether this is ``asyncq``, or ``python -m asyncq``, whose module has not begun yet."""
    program = sys.argv[0] if sys.argv else ""
    if program == "-m":
        options = sys.orig_argv
        return "-m" in options and options[options.index("-m") + 1 :][:1] == [PROGRAM]
    return os.path.basename(program).removesuffix(".exe") == PROGRAM


def _leave(_number: int, _frame: FrameType | None) -> None:
    os._exit(INTERRUPTED)


# In a process that is one of our commands, and in no other: what uses us decides itself.
if _is_command() and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, _leave)
