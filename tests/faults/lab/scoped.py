"""Tasks and scripts that send others within scopes, and note which."""

from typing import Any, Literal, NoReturn

import anyio

import asyncq
from asyncq import App, Result, current_context
from asyncq.language.message import new_id
from tests.faults.lab.ledger import Accepted, Attempted, Begun, Cancelling, Ledger, Started, now
from tests.faults.lab.runs import ledger, noted

APP = "app"  # where workers keep it in their state, for tasks that send others
PARTS = "LAB_PARTS"  # the environment variable of a script: what it sends

Part = dict[str, Any]
"""Some calls that are alike, as `part` describes them."""


class Broken(Exception):
    """Leaves a scope."""


def leave_by_error() -> NoReturn:
    raise Broken


def part(task: str = "work", count: int = 1, delay: float | None = None, **kwargs: Any) -> Part:
    return {"task": task, "count": count, "delay": delay, "kwargs": kwargs}


async def begin(app: App, book: Ledger, run: str, *parts: Part) -> list[Result[Any]]:
    """Send these from where we are, in the name of that run."""
    sent: list[Result[Any]] = []
    for each in parts:
        asked, kwargs = app.tasks[each["task"]], each["kwargs"]
        ids = [new_id() for _ in range(each["count"])]
        calls = [asked.options(id=id, delay=each["delay"]).s(**kwargs) for id in ids]
        book.write(Attempted(ids, now()))
        book.write(Begun(run, ids))
        sent += await app.enqueue_many(calls)
        book.write(Accepted(ids, now()))
    return sent


async def beget(parts: list[Part], seconds: float = 0.0) -> str:
    """Send these, which belong to our scopes if we do to any; go on for so long."""
    with noted() as run:
        await begin(_app(), ledger(), run, *parts)
        await anyio.sleep(seconds)
    return run


async def own(
    parts: list[Part],
    again: list[Part] | None = None,
    seconds: float = 0.0,
    end: Literal["wait", "cancel", "break"] = "wait",
) -> str:
    """Have these in a scope of our own, or those of ``again`` when we have run before; after so
    long, see to its end."""
    context = current_context()
    before = [e for e in ledger().entries() if isinstance(e, Started) and e.id == context.id]
    with noted() as run:
        try:
            async with asyncq.scope() as scope:
                await begin(
                    _app(), ledger(), run, *(again if before and again is not None else parts)
                )
                await anyio.sleep(seconds)
                if end == "break":
                    leave_by_error()
                if end == "cancel":
                    await scope.cancel()
                    ledger().write(Cancelling(run, now()))
        except Broken:
            ledger().write(Cancelling(run, now()))
    return run


def _app() -> App:
    return current_context().state[APP]
