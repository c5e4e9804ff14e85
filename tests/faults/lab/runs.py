"""What a run of a task notes in the ledger, wherever its task is."""

import os
from collections.abc import Generator
from contextlib import contextmanager
from functools import cache
from itertools import count
from pathlib import Path

from asyncq import current_context
from tests.faults.lab.ledger import Broken, Ended, Ledger, Started, now

LEDGER = "LAB_LEDGER"  # the environment variable that says where it is

_runs = count(1)


@cache
def ledger() -> Ledger:
    return Ledger(Path(os.environ[LEDGER]))


@contextmanager
def noted() -> Generator[str]:
    """Note that the current task begins and how it ends; the name of this run is in between."""
    context, book = current_context(), ledger()
    run = f"{os.getpid()}-{next(_runs)}"
    book.write(Started(context.id, run, context.attempt, os.getpid(), now()))
    try:
        yield run
    except BaseException:
        book.write(Broken(context.id, run, now()))
        raise
    book.write(Ended(context.id, run, now()))
