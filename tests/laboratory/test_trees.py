"""The reliability benchmark supervises every library's worker alike, and leaves nothing behind."""

import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from time import monotonic, sleep

import pytest

from benchmarks.reliable.trees import Tree, is_alive, kill_one, members

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="it reads /proc")

WITH_A_CHILD = (
    "import subprocess, sys, time;"
    "subprocess.Popen(['sleep', '60'], start_new_session=True);"
    "time.sleep(60)"
)


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    command = [sys.executable, "-c", WITH_A_CHILD]
    return Tree(command, os.environ, tmp_path / "log", tmp_path.name)


def pids_of(tree: Tree, without: Sequence[int] = ()) -> list[int]:
    """Its two processes, once there are two of them that are new."""
    deadline = monotonic() + 10
    while monotonic() < deadline:
        pids = tree.pids()
        if len(pids) == 2 and not set(without).intersection(pids):
            return pids
        sleep(0.01)
    raise AssertionError(f"after 10 s these run: {tree.pids()}")


def test_a_main_process_that_ends_is_restarted_and_takes_its_children_along(tree: Tree) -> None:
    with tree:
        first = pids_of(tree)
        kill_one(first[0])
        pids_of(tree, without=first)

        assert tree.exits == [-signal.SIGKILL]
        assert not is_alive(first[1])


def test_a_killed_tree_is_gone_at_once_and_comes_back(tree: Tree) -> None:
    with tree:
        first = pids_of(tree)
        tree.kill()
        assert not any(is_alive(pid) for pid in first)

        pids_of(tree, without=first)


def test_nothing_is_left_when_the_block_ends(tree: Tree) -> None:
    with tree:
        pids_of(tree)

    assert members(tree.mark) == []
    assert tree.exits == []
