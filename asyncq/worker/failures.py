"""Failures: what a task raised, as text that can travel.

The exception is the user's, and its class may do anything: forbid that it is changed, raise where
it is asked for its text, name itself by no string, contain itself. So what Python itself keeps of
an exception is read past its class, its text may be refused, and whatever is written is bounded: a
failure is told at all events, in bounded time and memory.
"""

import asyncio
import signal
import threading
import traceback
from collections import deque
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from types import CodeType, FrameType, TracebackType
from typing import Any

from asyncq.language.message import Failure
from asyncq.naming import exception_name
from asyncq.texts import shown

TRACEBACK_LIMIT = 16 * 1024  # characters
MESSAGE_LIMIT = 4 * 1024  # characters of an exception's own text
SHOWN = 20  # exceptions of a chain or a group
MOST_LOOKED_AT = 1000  # exceptions that may have led to another
FRAMES = 50  # the innermost of each
MOST_FRAMES = 100_000  # looked at: an exception that is raised again and again collects them
REPEATED = 3  # how often one line is told in a row; then how often it was, as Python does
MOST_PLACES = 1000  # whose text is kept
NOTES = 20
LEVELS = 10  # of groups within groups
OURS = str(Path(__file__).parent)  # below here, frames are not the task's
NO_TEXT = "(its text cannot be had)"

BY_ITSELF = "it was cancelled, by itself or by what it awaited, and not by its worker"

CAUSE = "The above exception was the direct cause of the following exception:"
CONTEXT = "During handling of the above exception, another exception occurred:"

# What is at fault fails again and again at the same lines. To look at their files each time made
# 20,000 failures take 2.6 times a worker's time for 20,000 successes; so they take 1.6 times that.
_places: dict[tuple[int, int], tuple[CodeType, str]] = {}

# Python's own fields, past whatever the user's class has put over them.
_cause_of: Callable[[BaseException], BaseException | None]
_cause_of = vars(BaseException)["__cause__"].__get__
_context_of: Callable[[BaseException], BaseException | None]
_context_of = vars(BaseException)["__context__"].__get__
_hides_context: Callable[[BaseException], bool]
_hides_context = vars(BaseException)["__suppress_context__"].__get__
_trace_of: Callable[[BaseException], TracebackType | None]
_trace_of = vars(BaseException)["__traceback__"].__get__
_members_of: Callable[[BaseException], tuple[BaseException, ...]]
_members_of = vars(BaseExceptionGroup)["exceptions"].__get__


def describe(error: BaseException) -> Failure:
    """An exception as text, without its local variables and without our own frames.

    Never raises. Lets go of the exception's frames.
    """
    told = "".join(_tell(error))[-TRACEBACK_LIMIT:]
    # The traceback holds the frames, and these every local: let them go with the attempt.
    BaseException.with_traceback(error, None)
    return Failure(type_name(error), _own_text(error, MESSAGE_LIMIT), told)


def summarize(error: BaseException, size: int) -> str:
    """An exception's type and text on one line of at most ``size`` bytes."""
    name, text = type_name(error), _own_text(error, size)
    return f"{name}: {shown(text, size)}" if text else name


def type_name(error: BaseException) -> str:
    """The name of an exception's class, with its module where that is not Python's own."""
    return exception_name(type(error))


def is_a(error: BaseException, kind: type[BaseException]) -> bool:
    """As ``except`` tells: `isinstance` asks the exception itself, which may raise."""
    return issubclass(type(error), kind)


def comes_from(error: BaseException, kind: type[BaseException]) -> bool:
    """Whether this was raised, directly or not, where an exception of that kind was handled.

    Also if it says ``from None``; and if it is a group, whether anything in it was.
    """
    seen: set[int] = set()
    left: list[BaseException] = [error]
    while left and len(seen) < MOST_LOOKED_AT:
        one = left.pop()
        if id(one) in seen:
            continue
        seen.add(id(one))
        if is_a(one, kind):
            return True
        left += [each for each in (_cause_of(one), _context_of(one)) if each is not None]
        if is_a(one, BaseExceptionGroup):
            left += _members_of(one)[:MOST_LOOKED_AT]
    return False


def members_of(error: BaseException, most: int) -> list[BaseException]:
    """What is in a group, and in the groups in it; nothing if there is more than ``most``."""
    found: list[BaseException] = []
    left = [error]
    for _ in range(2 * most):  # a group may contain itself
        if not left:
            return found
        one = left.pop()
        if is_a(one, BaseExceptionGroup):
            left += _members_of(one)[:most]
        else:
            found.append(one)
    return []


def trace_of(error: BaseException) -> TracebackType | None:
    """Where it was raised, without those frames of ours that called the task."""
    trace = _trace_of(error)
    while trace is not None and trace.tb_frame.f_code.co_filename.startswith(OURS):
        trace = trace.tb_next
    return trace


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


def _tell(error: BaseException, seen: set[int] | None = None, level: int = 0) -> Iterator[str]:
    """A traceback as Python writes it, the outermost cause first."""
    seen = set[int]() if seen is None else seen
    links = list(_chain(error))
    if len(links) == SHOWN:
        yield "(what led to this is left out)\n\n"
    for link, then in reversed(links):
        yield from _tell_one(link, seen, level)
        if then:
            yield f"\n{then}\n\n"


def _chain(error: BaseException) -> Iterator[tuple[BaseException, str]]:
    """An exception and what led to it, the latest first, each with how it goes on from there."""
    seen: set[int] = set()
    link, then = error, ""
    while id(link) not in seen and len(seen) < SHOWN:
        seen.add(id(link))
        yield link, then
        cause = _cause_of(link)
        before = _context_of(link) if cause is None and not _hides_context(link) else cause
        if before is None:
            return
        link, then = before, CONTEXT if cause is None else CAUSE


def _tell_one(error: BaseException, seen: set[int], level: int) -> Iterator[str]:
    """One exception: where, what, its notes, and if it is a group what is in it."""
    if id(error) in seen or len(seen) >= SHOWN:
        yield f"({type_name(error)}: told above, or one too many)\n"
        return
    seen.add(id(error))
    frames = _frames(error)
    if frames:
        yield "Traceback (most recent call last):\n"
        yield from frames
    text = _text_of(error, MESSAGE_LIMIT)
    yield f"{type_name(error)}: {text}\n" if text else f"{type_name(error)}\n"
    for note in _notes_of(error):
        yield f"{note}\n"
    if is_a(error, BaseExceptionGroup):
        members = _members_of(error)
        for number, member in enumerate(members[:SHOWN], 1):
            yield f"  +---------------- {number} of {len(members)} ----------------\n"
            if level >= LEVELS:
                yield "  | (too deep)\n"
                break
            inner = "".join(_tell(member, seen, level + 1))[-TRACEBACK_LIMIT:]
            yield "".join(f"  | {line}\n" for line in inner.splitlines())


def _frames(error: BaseException) -> list[str]:
    """The innermost frames."""
    trace = trace_of(error)
    if trace is None:
        return []
    last: deque[tuple[FrameType, int]] = deque(maxlen=FRAMES)
    looked_at = 0
    while trace is not None and looked_at < MOST_FRAMES:
        last.append((trace.tb_frame, trace.tb_lineno))
        trace = trace.tb_next
        looked_at += 1
    told: list[str] = []
    before, times = "", 0
    for frame, line in last:
        text = _place(frame, line)
        if text != before:
            _tell_repeats(told, times)
            before, times = text, 0
        times += 1
        if times <= REPEATED:
            told.append(text)
    _tell_repeats(told, times)
    return told


def _tell_repeats(told: list[str], times: int) -> None:
    if (more := times - REPEATED) > 0:
        told.append(f"  [Previous line repeated {more} more time{'s' * (more > 1)}]\n")


def _place(frame: FrameType, line: int) -> str:
    """A frame as Python writes it: file, line, function, and the text of the line."""
    code = frame.f_code
    key = id(code), line
    known = _places.get(key)
    if known is not None:
        return known[1]
    try:
        text = traceback.StackSummary.extract(iter([(frame, line)])).format()[0]
    # Lines of the source come from the user's loaders, which may do anything.
    except Exception:  # noqa: BLE001
        text = f'  File "{code.co_filename}", line {line}, in {code.co_name}\n'
    if len(_places) >= MOST_PLACES:
        _places.clear()
    _places[key] = code, text  # the code too, so that no other has its id
    return text


def _own_text(error: BaseException, limit: int) -> str:
    """What an exception says; in our words if that is nothing, and there is something to say."""
    text = _text_of(error, limit)
    return text or (BY_ITSELF if type(error) is asyncio.CancelledError else text)


def _text_of(error: BaseException, limit: int) -> str:
    try:
        text = str(error)
    except BaseException:  # noqa: BLE001 - the user's class, whose __str__ may do anything
        return NO_TEXT
    return _sendable(text, limit)


def _notes_of(error: BaseException) -> list[str]:
    try:
        notes = getattr(error, "__notes__", None)
        if notes is None or not issubclass(type(notes), list | tuple):
            return []
        texts = [note for note in islice(iter(notes), NOTES) if issubclass(type(note), str)]
    except BaseException:  # noqa: BLE001 - none, or the user's class again
        return []
    return [_sendable(text, MESSAGE_LIMIT) for text in texts]


def _sendable(text: str, limit: int) -> str:
    """Text that UTF-8 can carry: the name of a file may hold what it cannot (lone surrogates)."""
    cut = str.__getitem__(text, slice(0, limit))  # a subclass may have another idea of cutting
    if str.isascii(cut):
        return cut
    return str.encode(cut, errors="backslashreplace").decode()
