"""An app whose module takes long to import: said while it goes on, with the line it is at.

It may wait for a server, for a lock or for input; whoever started the command sees nothing else.
"""

import linecache
import os
import sysconfig
import threading
import traceback
from collections.abc import Callable, Generator
from contextlib import contextmanager

from asyncq.cli.texts import OURS, complain
from asyncq.language.policies import Retry
from asyncq.texts import shown
from asyncq.worker.stalls import current_frames

PAUSE = Retry(times=0, base=5.0, ceiling=60.0, jitter=False)  # until it is said, and said again
LINE_LIMIT = 200  # bytes of a line of code
_PATHS = sysconfig.get_paths()
_OTHERS = tuple(
    f"{folder}{os.sep}" for folder in (OURS, *(_PATHS[k] for k in ("stdlib", "purelib", "platlib")))
)


@contextmanager
def told_if_slow(target: str, tell: Callable[[str], None] = complain) -> Generator[None]:
    """In the block the app ``target`` is imported; if that takes seconds, say where it stands."""
    over = threading.Event()
    importing = threading.get_ident()

    def watch() -> None:
        waited, said = 0.0, 0
        while not over.wait(pause := PAUSE.pause(said + 1)):
            waited, said = waited + pause, said + 1
            tell(f"still importing {target} after {waited:.0f} s, at {_place(importing)}")

    threading.Thread(target=watch, name="asyncq-import", daemon=True).start()
    try:
        yield
    finally:
        over.set()


def _place(thread: int) -> str:
    """The innermost line of the program's own; of anybody's, where there is none."""
    frame = current_frames().get(thread)
    calls: list[traceback.FrameSummary] = [] if frame is None else traceback.extract_stack(frame)
    stack = [call for call in calls if not call.filename.startswith("<frozen")]
    own = [call for call in stack if not call.filename.startswith(_OTHERS)] or stack
    if not own:
        return "an unknown place"
    call = own[-1]
    line = linecache.getline(call.filename, call.lineno or 0).strip()
    return f"{call.filename}:{call.lineno} in {call.name}: {shown(line, LINE_LIMIT)}"
