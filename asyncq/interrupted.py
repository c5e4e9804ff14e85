"""Ctrl-C while a command of ours is still being imported, which takes a moment: it leaves quietly.

Imported before anything else of the package, and at work from then on: Python would show where in
our imports it was.
"""

import os
import signal
import sys
from types import FrameType

INTERRUPTED = 130  # the exit code: 128 and the number of SIGINT
PROGRAM = "asyncq"


def raise_if_interrupted() -> None:
    """From here on a Ctrl-C is a `KeyboardInterrupt` again: there are things to put in order."""
    if signal.getsignal(signal.SIGINT) is _leave:
        signal.signal(signal.SIGINT, signal.default_int_handler)


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
