"""The points of a delivery's path at which a worker can be made to die, as by SIGKILL.

They are set from outside, by wrapping what the worker calls; nothing in asyncq knows of them. Each
is met a few times before it kills, so that work is under way.
"""

import os
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from functools import wraps
from importlib import import_module
from inspect import iscoroutinefunction
from itertools import count
from typing import Any, Literal

import msgspec

from asyncq import App
from asyncq.seams.broker import Consumer, Lease, QueueSpec
from tests.faults.lab.ledger import Died, now
from tests.faults.lab.runs import ledger

DIE_AT = "LAB_DIE_AT"  # the environment variable that names a point
DIED = 86  # the exit code
MET = 3  # the time that kills
LEAVING = "leaving"  # the point that is met only by a worker that was told to stop

When = Literal["before", "after"]


class Point(msgspec.Struct, frozen=True):
    """Before or after a call: of a driver (``role``), or of a function of the worker's modules."""

    when: When
    names: tuple[str, ...]
    role: Literal["broker", "backend", "consumer"] | None = None


WORKER = "asyncq.worker"
POINTS = {
    "claim-asked": Point("before", ("receive", "wait_and_receive"), "consumer"),
    "claim-arrived": Point("after", ("receive", "wait_and_receive"), "consumer"),
    "slot-filled": Point("before", (f"{WORKER}.pool:Pool.start",)),
    "run-created": Point("after", (f"{WORKER}.pool:Pool.start",)),
    "run-begun": Point("before", (f"{WORKER}.executor:Executor._completion",)),
    "message-read": Point("after", (f"{WORKER}.executor:Executor._open",)),
    "task-called": Point("before", (f"{WORKER}.executor:call",)),
    "task-returned": Point("after", (f"{WORKER}.executor:call",)),
    "outcome-made": Point("after", (f"{WORKER}.executor:Executor._end",)),
    "retry-made": Point("after", (f"{WORKER}.executor:Executor._retry",)),
    "next-sent": Point("before", ("publish",), "broker"),
    "next-stored": Point("after", ("publish",), "broker"),
    "completion-added": Point("after", (f"{WORKER}.completer:Completer.add",)),
    "batch-taken": Point("before", (f"{WORKER}.completer:Completer._complete",)),
    "settling": Point("before", ("settle", "complete"), "consumer"),
    "settled": Point("after", ("settle", "complete"), "consumer"),
    "sweeping": Point("before", ("sweep",), "broker"),
    "swept": Point("after", ("sweep",), "broker"),
    LEAVING: Point("before", (), "consumer"),
}
APART = {  # only where outcomes are stored in a step of their own
    "storing": Point("before", ("store_records",), "backend"),
    "stored": Point("after", ("store_records",), "backend"),
}
FOLLOWING = {  # only where something follows from a task
    "following": Point("before", (f"{WORKER}.followups:FollowUps.send",)),
    "followed": Point("before", (f"{WORKER}.followups:FollowUps._end",)),
}
LATCHES = {  # only where something arrives at a latch
    "applying": Point("before", (f"{WORKER}.latches:Latches.apply",)),
    "applied": Point("after", (f"{WORKER}.latches:Latches.apply",)),
    "releasing": Point("before", (f"{WORKER}.latches:Latches.release",)),
    "page-read": Point("before", (f"{WORKER}.releases:Releases._send",)),
    "page-sent": Point("after", (f"{WORKER}.releases:Releases._send",)),
    "released": Point("after", (f"{WORKER}.latches:Latches.release",)),
    "going-on": Point("before", (f"{WORKER}.followups:FollowUps._applied",)),
}
CANCELLING = {  # only where something is cancelled
    "mark-heard": Point("before", (f"{WORKER}.cancellations:Cancellations._apply",)),
    "asked-to-end": Point("after", (f"{WORKER}.cancellations:Cancellations.cancel",)),
    "mark-found": Point("after", (f"{WORKER}.cancellations:Cancellations.mark_of",)),
    "cancelled": Point("after", (f"{WORKER}.executor:Executor._cancelled",)),
}
CLIENT = "asyncq.client"
SCOPES = {  # only where something belongs to a scope
    "opening": Point("before", (f"{CLIENT}.owner:Owner.open",)),
    "opened": Point("after", (f"{CLIENT}.owner:Owner.open",)),
    "closing": Point("before", (f"{CLIENT}.owner:Owner.close",)),
    "closed": Point("after", (f"{CLIENT}.owner:Owner.close",)),
    "scope-looked-up": Point("before", (f"{WORKER}.scopes:Scopes.mark_of",)),
    "scope-stands": Point("after", (f"{WORKER}.scopes:Scopes.mark_of",)),
    "scope-entered": Point("after", (f"{WORKER}.scopes:Scopes.enter",)),
    "begun-told": Point("before", (f"{WORKER}.executor:_begun",)),
}
ENDED_SCOPES = {  # only where a scope is cancelled, or left by an error
    "scope-ending": Point("before", (f"{CLIENT}.owner:Owner.end",)),
    "scope-unmarked": Point("after", (f"{CLIENT}.cancelling:_end_scope",)),
    "scope-marked": Point("before", (f"{CLIENT}.cancelling:Canceller._end",)),
    "scope-ended": Point("after", (f"{CLIENT}.owner:Owner.end",)),
    "scope-over": Point("after", (f"{WORKER}.scopes:Scopes._mark_of",)),
}
REOPENED = {  # only where a task runs again that has opened a scope
    "earlier-found": Point("before", (f"{WORKER}.scopes:opened_by",)),
    "earlier-ended": Point("after", (f"{WORKER}.unrun:Unrun.judge",)),
}
ALL = POINTS | APART | FOLLOWING | LATCHES | CANCELLING | SCOPES | ENDED_SCOPES | REOPENED
SWEEPING = ("sweeping", "swept")  # only where workers look for those that are gone
# In this order, with nobody else there: the second is to recover what the first has left.
ALONE = ("run-begun", "swept")


def set_death(name: str, app: App) -> None:
    """Die at this point; ``app`` is connected."""
    point = (POINTS | APART | FOLLOWING | LATCHES | CANCELLING | SCOPES | ENDED_SCOPES | REOPENED)[
        name
    ]
    die = _death(1 if name in {LEAVING, "swept", *REOPENED} else MET)
    if point.role == "broker":
        _wrap_all(app.client.broker, point, die)
    elif point.role == "backend":
        _wrap_all(app.client.backend, point, die)
    elif point.role == "consumer":
        _reach_consumers(app.client.broker, point, die)
    else:
        for path in point.names:
            module, _, inside = path.partition(":")
            *owners, attribute = inside.split(".")
            owner: Any = import_module(module)
            for part in owners:
                owner = getattr(owner, part)
            _wrap(owner, attribute, point.when, die)


def _death(times: int) -> Callable[[], None]:
    met = count(1)

    def die() -> None:
        if next(met) >= times:
            ledger().write(Died(os.getpid(), now()))
            os._exit(DIED)

    return die


def _reach_consumers(broker: Any, point: Point, die: Callable[[], None]) -> None:
    consume = broker.consume

    @asynccontextmanager
    async def consume_and_die(queue: QueueSpec, lease: Lease) -> AsyncGenerator[Consumer]:
        async with consume(queue, lease) as consumer:
            _wrap_all(consumer, point, die)
            yield consumer
            if not point.names:
                die()

    broker.consume = consume_and_die


def _wrap_all(owner: Any, point: Point, die: Callable[[], None]) -> None:
    for name in point.names:
        if hasattr(owner, name):
            _wrap(owner, name, point.when, die)


def _wrap(owner: Any, name: str, when: When, die: Callable[[], None]) -> None:
    """Die before the call, or after one that came to something."""
    real = getattr(owner, name)

    @wraps(real)
    async def awaited(*args: Any, **kwargs: Any) -> Any:
        if when == "before":
            die()
        result = await real(*args, **kwargs)
        if when == "after" and _came_to_something(name, result):
            die()
        return result

    @wraps(real)
    def called(*args: Any, **kwargs: Any) -> Any:
        if when == "before":
            die()
        result = real(*args, **kwargs)
        if when == "after":
            die()
        return result

    setattr(owner, name, awaited if iscoroutinefunction(real) else called)


def _came_to_something(name: str, result: Any) -> bool:
    """Whether there was anything to claim, to recover, or that is over."""
    return bool(result) or name not in {"receive", "wait_and_receive", "sweep", "_mark_of"}
