"""A program that cancels every task of its loop: servers told twice to stop, `asyncio.run`."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import anyio
import pytest

from asyncq.app import App
from asyncq.client.context import Context
from asyncq.language.message import Status
from asyncq.language.policies import Retry
from tests.worker.combinations import any_app

__all__ = ["any_app"]  # a fixture

PATIENCE = 20.0  # seconds
LASTING = ["sqlite", "redis", "redis+redis", "rabbitmq+sqlite", "rabbitmq+redis"]
SEVERAL = 12  # tasks: in which order they hear that they are cancelled is chance

Program = Callable[[App], Coroutine[Any, Any, None]]


async def beside(app: App) -> None:
    """As a web server's lifespan has it."""
    async with app, app.worker(concurrency=2 * SEVERAL, grace=30.0):
        await asyncio.Event().wait()


async def alone(app: App) -> None:
    await app.run_worker(concurrency=2 * SEVERAL, grace=30.0)


async def never_left(app: App) -> None:
    """Nobody ever leaves the app; and the worker is a task that nobody waits for."""
    await app.__aenter__()
    worker = app.run_worker(concurrency=2 * SEVERAL, grace=30.0)
    run = asyncio.get_running_loop().create_task(worker)
    await asyncio.Event().wait()
    await run


def run_and_cancel_all(program: Program, app: App, when: asyncio.Event) -> None:
    """Run it until ``when``; then do as aiohttp's `run_app` does, told to stop again."""
    loop = asyncio.new_event_loop()
    told: list[dict[str, Any]] = []
    loop.set_exception_handler(lambda _, context: told.append(context))

    try:
        main = loop.create_task(program(app))
        loop.run_until_complete(_told(when))
        assert not main.done()
        tasks = asyncio.all_tasks(loop)
        for task in tasks:
            task.cancel()
        loop.run_until_complete(asyncio.wait(tasks))
        assert not asyncio.all_tasks(loop)
        loop.run_until_complete(loop.shutdown_asyncgens())
    finally:
        loop.close()
    assert told == []


async def _told(when: asyncio.Event) -> None:
    with anyio.fail_after(PATIENCE):
        await when.wait()


@pytest.mark.parametrize("any_app", LASTING, indirect=True)
@pytest.mark.parametrize("program", [beside, alone, never_left])
def test_what_runs_is_given_back_and_what_has_ended_is_settled(
    any_app: App, program: Program, caplog: pytest.LogCaptureFixture
) -> None:
    app = any_app
    all_run = asyncio.Event()
    begun: list[str] = []
    attempts: list[int] = []  # of those that were given back
    runs = 0

    def begin(name: str) -> None:
        begun.append(name)
        if len(begun) == 2 * SEVERAL:
            all_run.set()

    @app.task(retry=Retry(times=5))
    async def hold(ctx: Context, name: str) -> str:
        if name in begun:
            attempts.append(ctx.attempt)
        else:
            begin(name)
            await asyncio.Event().wait()
        return name

    @app.task
    async def save(name: str) -> str:
        """Ends well although it is cancelled."""
        nonlocal runs
        runs += 1
        begin(name)
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            await asyncio.sleep(0)
        return name

    async def enqueue() -> tuple[list[str], list[str]]:
        async with app:
            held = [(await hold.enqueue(f"hold-{n}")).id for n in range(SEVERAL)]
            saved = [(await save.enqueue(f"save-{n}")).id for n in range(SEVERAL)]
            return held, saved

    async def run_the_rest() -> None:
        async with app:
            await app.run_worker(burst=True)

    async def look(ids: list[str]) -> set[Status]:
        async with app:
            return {await app.result(id).status() for id in ids}

    held, saved = asyncio.run(enqueue())
    run_and_cancel_all(program, app, all_run)

    assert asyncio.run(look(saved)) == {Status.SUCCEEDED}
    assert runs == SEVERAL
    asyncio.run(run_the_rest())
    assert asyncio.run(look(held)) == {Status.SUCCEEDED}
    assert attempts == [1] * SEVERAL  # none was taken for a failure, or a crash
    for word in ("ignores its cancellation", "fenced", "could not be settled", "failed"):
        assert word not in caplog.text
