"""What a worker process answers when it is asked where it stands, in words for the log."""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import msgspec

from asyncq import worker
from asyncq.worker.stalls import MESSAGE

LINES = 8  # frames shown of a stack at most
THREADS = 4  # shown at most

_THREAD = re.compile(r"^(?:Current thread|Thread) 0x([0-9a-f]+)")
_FRAME = re.compile(r'^  File "(.*)", line (\d+) in (.*)$')
_OURS = str(Path(worker.__file__).parent)  # below here, frames are ours and not a task's
_POOL = "/anyio/_backends/"  # where a thread that runs a task came from
_LOOP_WAITS = ("/selectors.py", "/asyncio/runners.py")  # the latter is all that uvloop shows
_THREAD_WAITS = ("/threading.py", "/queue.py")


class Frame(msgspec.Struct, frozen=True):
    """One call on a stack."""

    file: str
    line: str
    function: str


Stack = Sequence[Frame]  # the innermost first


class Stall(msgspec.Struct, frozen=True):
    """Where a process stood."""

    message: str | None
    """What the message at hand is called; None when none was, or nobody could say."""
    stacks: Sequence[Stack]
    """What may be keeping the loop; what does, if that can be told."""
    is_idle: bool = False
    """Whether it said itself that there is none: what it lacked was this machine's time."""
    by_thread: bool = False
    """Whether there are stacks of threads among them."""

    @property
    def task(self) -> str:
        if self.message:
            return f"in task {self.message}"
        if self.by_thread:
            return "by a task in a thread, which keeps the interpreter to itself"
        return "(nothing runs in it: is this machine too busy?)" if self.is_idle else "(where?)"

    @property
    def remedy(self) -> str:
        if self.message:
            return ": it is to await what takes long, or to be a plain function, run in a thread"
        return ": such code needs a process of its own" if self.by_thread else ""

    @property
    def places(self) -> str:
        """The stacks, the outermost call first."""
        return "\n".join(
            f"{frame.file}:{frame.line} in {frame.function}"
            for stack in self.stacks
            for frame in reversed(stack[:LINES])
        )


def is_whole(answer: str) -> bool:
    """Whether the process has said all that it has to say."""
    return bool(re.search(rf"^{MESSAGE}.*\n", answer, re.MULTILINE))


def read_answer(answer: str, loop_thread: int) -> Stall:
    """Understand what faulthandler and `asyncq.worker.stalls` have written."""
    threads: dict[int, list[Frame]] = {}
    frames: list[Frame] = []
    message = None
    for line in answer.splitlines():
        if found := _THREAD.match(line):
            frames = threads.setdefault(int(found[1], 16), [])
        elif found := _FRAME.match(line):
            frames.append(Frame(*found.groups()))
        elif line.startswith(MESSAGE):
            message = line.removeprefix(MESSAGE) or None
    loop = threads.pop(loop_thread, [])
    own = [] if not loop or loop[0].file.endswith(_LOOP_WAITS) else [_above(loop, _OURS) or loop]
    # Python runs in the loop's thread if that has told us more than its stack; else it may be
    # waiting for the interpreter lock, and what holds that is somebody else. So does somebody who
    # gives it away for moments only, if the loop was found where it waits.
    others = () if own and is_whole(answer) else _busy(threads.values())
    return Stall(
        message,
        [*others, *own],
        is_idle=is_whole(answer) and not (others or own),
        by_thread=bool(others),
    )


def _busy(stacks: Iterable[Stack]) -> Sequence[Stack]:
    """Of tasks that run in threads, and do not just wait."""
    tasks = [_above(stack, _POOL) for stack in stacks]
    return [task for task in tasks if task and not task[0].file.endswith(_THREAD_WAITS)][:THREADS]


def _above(stack: Stack, place: str) -> Stack:
    """What was called from ``place``, if anything was."""
    depths = [depth for depth, frame in enumerate(stack) if place in frame.file]
    return stack[: depths[0]] if depths else ()
