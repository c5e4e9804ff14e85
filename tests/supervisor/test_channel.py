"""What a worker and its supervisor say to each other, and what becomes of it."""

import logging
import socket
from collections.abc import Iterator

import pytest
from anyio import fail_after

from asyncq.supervisor.stalls import is_whole, read_answer
from asyncq.worker.channel import (
    Channel,
    FromParent,
    FromWorker,
    Goodbye,
    Heartbeat,
    Holding,
    Lost,
    Renewed,
    Stop,
)
from asyncq.worker.signals import StopLevel
from tests.client.given import PATIENCE

Ends = tuple[Channel[FromWorker], Channel[FromParent]]

HEARTBEAT_EVERY = Heartbeat(started=1, memory=2)
OURS = "/lib/asyncq/worker/jobs.py"


@pytest.fixture
def ends() -> Iterator[Ends]:
    """The supervisor's end of a channel, and the worker's."""
    left, right = socket.socketpair()
    above, below = Channel[FromWorker](left, FromWorker), Channel[FromParent](right, FromParent)
    yield above, below
    above.close()
    below.close()


# The channel


async def test_both_sides_hear_what_the_other_says_in_order(ends: Ends) -> None:
    above, below = ends
    above.tell(Renewed("a", 1.5))
    above.tell(Lost("b"))
    above.tell(Stop(2))
    below.tell(HEARTBEAT_EVERY)
    below.tell(Goodbye(2, "broken"))

    with fail_after(PATIENCE):
        assert list(await below.receive()) == [Renewed("a", 1.5), Lost("b"), Stop(2)]
        assert list(await above.receive()) == [HEARTBEAT_EVERY, Goodbye(2, "broken")]


async def test_what_the_dead_said_is_heard(ends: Ends) -> None:
    above, below = ends
    for _ in range(100):
        below.tell(HEARTBEAT_EVERY)
    below.tell(Goodbye())
    below.close()

    heard = above.receive_rest()

    assert len(heard) == 101
    assert heard[-1] == Goodbye()
    with fail_after(PATIENCE):
        assert not await above.receive()


async def test_what_does_not_fit_is_said_later_and_whole(ends: Ends) -> None:
    above, below = ends
    said = 0
    while not below.is_jammed:
        below.tell(HEARTBEAT_EVERY)
        said += 1
    below.tell(Goodbye(1, "x" * 1000))

    heard: list[FromWorker] = []
    with fail_after(PATIENCE):
        while not heard or heard[-1] == HEARTBEAT_EVERY:
            heard += await above.receive()
            below.tell(None)

    assert heard == [HEARTBEAT_EVERY] * said + [Goodbye(1, "x" * 1000)]


async def test_nobody_who_is_gone_is_waited_for(ends: Ends) -> None:
    above, below = ends
    above.close()

    below.tell(HEARTBEAT_EVERY)

    assert not below.is_jammed


def test_a_holding_keeps_its_url_to_itself() -> None:
    holding = Holding(url="redis://:pa55word@db", incarnation="i", queues=["mail"], seconds=15.0)

    assert "pa55word" not in repr(holding)
    assert "mail" in repr(holding)


# Orders to stop


class Told:
    """In place of a worker: what it was told."""

    def __init__(self) -> None:
        self.words: list[str] = []

    def stop(self) -> None:
        self.words.append("stop")

    def hurry(self) -> None:
        self.words.append("hurry")


def test_a_signal_and_the_supervisors_word_about_it_count_once() -> None:
    told = Told()
    stop_level = StopLevel(told, logging.DEBUG)

    stop_level.raise_to(1, "SIGINT")
    stop_level.raise_to(1, "the supervisor")
    assert told.words == ["stop"]

    stop_level.raise_to(2, "the supervisor")
    stop_level.raise_to(2, "SIGINT")
    stop_level.raise_to(1, "the supervisor")
    assert told.words == ["stop", "hurry"]


def test_who_is_told_twice_at_once_stops_first() -> None:
    told = Told()

    StopLevel(told, logging.DEBUG).raise_to(2, "the supervisor")

    assert told.words == ["stop", "hurry"]


# Where a process stands


def _stack(thread: str, *frames: str) -> str:
    lines = [f'  File "{file}", line {n} in f{n}' for n, file in enumerate(frames, 1)]
    return "\n".join([f"Thread {thread} (most recent call first):", *lines, ""])


def test_of_a_task_only_its_own_frames_are_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("asyncq.supervisor.stalls._OURS", "/lib/asyncq/worker")
    answer = (
        _stack("0x000000ab", "/py/threading.py")
        + _stack("0x0000001f", "/py/re.py", "/shop.py", OURS, "/py/asyncio/runners.py")
        + "message 42\n"
    )

    where = read_answer(answer, 0x1F)

    assert is_whole(answer)
    assert where.task == "in task 42"
    assert where.places == "/shop.py:2 in f2\n/py/re.py:1 in f1"


def test_a_loop_that_waits_is_not_to_blame_but_a_thread_that_runs_a_task() -> None:
    pool = "/site/anyio/_backends/_asyncio.py"
    answer = (
        _stack("0x0a", "/py/re.py", "/shop.py", pool)
        + _stack("0x0b", "/py/queue.py", pool)
        + _stack("0x0c", "/lib/asyncq/drivers/sqlite/reader.py", "/py/threading.py")
        + _stack("0x01", "/py/asyncio/runners.py", "/lib/asyncq/cli/child.py")
    )

    where = read_answer(answer, 1)

    assert not is_whole(answer)
    assert where.task == "by a task in a thread, which keeps the interpreter to itself"
    assert where.places == "/shop.py:2 in f2\n/py/re.py:1 in f1"


def test_a_thread_that_gave_way_for_a_moment_is_still_to_blame() -> None:
    answer = (
        _stack("0x0a", "/py/re.py", "/shop.py", "/site/anyio/_backends/_asyncio.py")
        + _stack("0x01", "/py/asyncio/runners.py", "/lib/asyncq/cli/child.py")
        + "message \n"
    )

    where = read_answer(answer, 1)

    assert is_whole(answer)
    assert where.task == "by a task in a thread, which keeps the interpreter to itself"
    assert where.places == "/shop.py:2 in f2\n/py/re.py:1 in f1"


def test_a_loop_that_only_lacked_the_time_is_not_said_to_stand_somewhere() -> None:
    answer = _stack("0x01", "/py/asyncio/runners.py", "/lib/asyncq/cli/child.py") + "message \n"

    where = read_answer(answer, 1)

    assert where.task == "(nothing runs in it: is this machine too busy?)"
    assert not where.places


def test_no_answer_is_said_to_be_none() -> None:
    assert read_answer("", 1).task == "(where?)"
