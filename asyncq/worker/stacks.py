"""Where this process stands, told to its supervisor when that asks with a signal.

faulthandler writes the stacks from within the signal, so that no interpreter lock is needed and the
loop may stand as still as it likes. A handler in Python adds which message is at hand: the main
thread runs it as soon as it can, in the middle of a sleep or of a regular expression, say.
"""

import faulthandler
import os
import signal
from collections.abc import Callable
from contextlib import suppress
from types import FrameType

ASK = signal.SIGUSR2
MESSAGE = "message "  # begins the line that ends an answer


def answer_with_stacks(pipe: int, message_at_hand: Callable[[], str | None]) -> None:
    """Write to ``pipe`` whenever `ASK` comes."""

    def add_message(_number: int, _frame: FrameType | None) -> None:
        with suppress(OSError):  # nobody reads any more; and it must not end up in the task
            os.write(pipe, f"{MESSAGE}{message_at_hand() or ''}\n".encode(errors="replace"))

    signal.signal(ASK, add_message)
    faulthandler.register(ASK, file=pipe, all_threads=True, chain=True)


def answer_no_more() -> None:
    """From here on the signal does nothing: a process that is ending must not be killed by it."""
    faulthandler.unregister(ASK)
    signal.signal(ASK, signal.SIG_IGN)
