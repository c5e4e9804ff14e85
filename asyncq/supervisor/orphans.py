"""Orphans: processes that tasks have started and left behind, where we are who inherits them.

In a container the supervisor is process 1, to which every process falls whose parent is gone; if
nobody takes note of their end, the dead fill the table of processes.
"""

import os
from collections.abc import Callable, Collection
from contextlib import suppress

import anyio

EVERY = 1.0  # seconds


async def reap_orphans(ours: Callable[[], Collection[int]]) -> None:
    """Take note of the end of every child but ``ours`` (whose own watchers do), until cancelled."""
    if not hasattr(os, "waitid"):  # macOS before Python 3.13; it has no containers of its own
        return
    while True:
        await anyio.sleep(EVERY)
        while _reap_one(ours()):
            pass


def _reap_one(ours: Collection[int]) -> bool:
    """Whether there was one to release."""
    try:
        # Only looked at: how one of ours has ended is for who waits for that.
        found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return False
    if found is None or found.si_pid in ours:
        return False  # one of ours is taken note of at once, and does not stand in the way for long
    with suppress(ChildProcessError):
        os.waitpid(found.si_pid, os.WNOHANG)
    return True
