"""Telling Ctrl-C from a task that raises `KeyboardInterrupt` itself."""

import signal
import threading
import traceback
from typing import Any


def is_interrupted(error: KeyboardInterrupt) -> bool:
    """Whether this may have been raised by Ctrl-C, and not by the code that it came out of.

    Where the host's handler is written in Python, as asyncio's, it is where the error began.
    Python's own leaves no trace, so there we cannot tell, and a real one must not be lost.
    """
    handler: Any = signal.getsignal(signal.SIGINT)
    if handler is signal.default_int_handler:
        return threading.current_thread() is threading.main_thread()
    handler = getattr(handler, "func", handler)  # asyncio's is a partial
    code = getattr(handler, "__code__", None)
    frames = traceback.walk_tb(error.__traceback__)
    return code is not None and any(frame.f_code is code for frame, _ in frames)
