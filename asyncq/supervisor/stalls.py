"""What a worker process answers when it is asked where it stands, in words for the log."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from asyncq.worker import stacks
from asyncq.worker.stacks import MESSAGE

LINES = 8  # frames shown of a stack at most

_THREAD = re.compile(r"^(?:Current thread|Thread) 0x([0-9a-f]+)")
_FRAME = re.compile(r'^  File "(.*)", line (\d+) in (.*)$')
_OURS = str(Path(stacks.__file__).parent)  # below here, frames are ours and not a task's
_POOL = "/anyio/_backends/"  # where a thread that runs a task came from
_LOOP_WAITS = ("/selectors.py", "/asyncio/runners.py")  # the latter is all that uvloop shows
_THREAD_WAITS = ("/threading.py", "/queue.py")


class Frame(msgspec.Struct, frozen=True):
    """One call on a stack."""

    file: str
    line: str
    function: str


Stack = Sequence[Frame]  # the innermost first


class Standstill(msgspec.Struct, frozen=True):
    """Where a process stood."""

    message: str | None
    """The id of the message at hand; None when none was, or nobody could say."""
    stacks: Sequence[Stack]
    """What may be keeping the loop; the one that does, if that can be told."""

    def __str__(self) -> str:
        task = f"in task {self.message}" if self.message else "(none of its tasks is known)"
        lines = "\n".join(
            f"  {frame.file}:{frame.line} in {frame.function}"
            for stack in self.stacks
            for frame in reversed(stack[:LINES])
        )
        return f"{task}:\n{lines or '  (unknown)'}"


def is_whole(answer: str) -> bool:
    """Whether the process has said all that it has to say."""
    return bool(re.search(rf"^{MESSAGE}.*\n", answer, re.MULTILINE))


def read_answer(answer: str, loop_thread: int) -> Standstill:
    """Understand what faulthandler and `asyncq.worker.stacks` have written."""
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
    return Standstill(message, _suspicious(threads, loop_thread))


def _suspicious(threads: Mapping[int, Stack], loop_thread: int) -> Sequence[Stack]:
    """The loop's own stack; those of tasks in threads when it only waits for one of these."""
    loop = threads.get(loop_thread, ())
    if loop and not loop[0].file.endswith(_LOOP_WAITS):
        return [_above(loop, _OURS) or loop]
    others = [_above(stack, _POOL) for thread, stack in threads.items() if thread != loop_thread]
    return [stack for stack in others if stack and not stack[0].file.endswith(_THREAD_WAITS)]


def _above(stack: Stack, place: str) -> Stack:
    """What was called from ``place``, if anything was."""
    depths = [depth for depth, frame in enumerate(stack) if place in frame.file]
    return stack[: depths[0]] if depths else ()
