"""What ends a task comes twice at the same turn of the loop: one outcome, by a rule.

A cancellation goes before all else. The worker's end goes before a limit of time: it costs nothing,
as the task runs again elsewhere.
"""

import asyncio
from collections.abc import Callable, Mapping

import anyio
import pytest
from anyio.abc import TaskStatus

from asyncq.errors import SoftTimeLimitExceeded, TaskCancelled, TaskFailed, TimeLimitExceeded
from asyncq.language.marks import Mark
from asyncq.language.message import Status, new_id
from asyncq.worker.worker import Worker
from tests.worker.virtual import on_virtual_time, virtual_app

LIMIT = 5.0  # seconds
ENDLESS = float("inf")


@pytest.mark.parametrize("is_first", [True, False])
@pytest.mark.parametrize(
    ("one", "other", "wanted"),
    [
        ("cancel", "hard", "cancel"),
        ("cancel", "soft", "cancel"),
        ("cancel", "stop", "cancel"),
        ("stop", "cancel", "cancel"),
        ("stop", "hard", "stop"),
        ("stop", "soft", "stop"),
    ],
)
@on_virtual_time
async def test_one_outcome_by_the_rule_in_either_order(
    one: str, other: str, wanted: str, *, is_first: bool
) -> None:
    app, id = virtual_app(grace=1.0), new_id()
    loop = asyncio.get_running_loop()
    begun = asyncio.Event()

    @app.task
    async def work() -> None:
        begun.set()
        await anyio.sleep_forever()

    async with app:
        worker = app.make_worker(concurrency=2)
        ways: Mapping[str, Callable[[], None]] = {
            "cancel": lambda: worker.cancellations._apply(  # pyright: ignore[reportPrivateUsage]
                Mark(at=1e12, reason="enough", ids=(id,))
            ),
            "stop": worker.hurry,
        }
        async with anyio.create_task_group() as group:
            await group.start(run, worker)
            moment = loop.time() + LIMIT  # nothing of what follows takes any time
            mine = [ways[each] for each in (one, other) if each in ways]

            def end() -> None:
                for way in mine:
                    way()

            if is_first:
                loop.call_at(moment, end)
            call = work.options(
                id=id,
                time_limit=LIMIT if other == "hard" else ENDLESS,
                soft_time_limit=LIMIT if other == "soft" else ENDLESS,
            )
            await call.enqueue()
            await begun.wait()
            if not is_first:
                loop.call_at(moment, end)
            await asyncio.sleep(2 * LIMIT)
            worker.hurry()
        result = app.result(id)
        how = "stop" if await result.status() is Status.QUEUED else ""
        if not how:
            with pytest.raises((TaskCancelled, TaskFailed)) as caught:
                await result
            how = kind_of(caught.value)
    assert how == wanted


def kind_of(error: TaskCancelled | TaskFailed) -> str:
    if isinstance(error, TaskCancelled):
        assert error.reason == "enough"
        return "cancel"
    if error.is_a(TimeLimitExceeded):
        return "hard"
    return "soft" if error.is_a(SoftTimeLimitExceeded) else error.type


async def run(worker: Worker, *, task_status: TaskStatus[None]) -> None:
    await worker.run(task_status=task_status)
