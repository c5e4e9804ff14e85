"""A program that cancels every task of its loop: servers told twice to stop, `asyncio.run`."""

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any

import anyio
import pytest

from asyncq.app import App
from asyncq.client.context import Context
from asyncq.language.message import Status
from asyncq.language.policies import Retry
from asyncq.testing.contracts.given import MAIL, new_lease
from asyncq.worker.completer import Completer
from asyncq.worker.latches import Latches
from asyncq.worker.worker import Worker
from tests.client.given import new_app
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


def run_and_cancel_all(program: Program, app: App, when: asyncio.Event, *gaps: float) -> None:
    """Run it until ``when``; then do as aiohttp's `run_app` does, told to stop again.

    After each of these gaps, cancel once more what is left.
    """
    loop = asyncio.new_event_loop()
    told: list[dict[str, Any]] = []
    loop.set_exception_handler(lambda _, context: told.append(context))

    try:
        main = loop.create_task(program(app))
        loop.run_until_complete(_told(when))
        assert not main.done()
        tasks = asyncio.all_tasks(loop)
        for gap in (*gaps, PATIENCE):
            for task in tasks:
                task.cancel()
            with suppress(KeyboardInterrupt):
                loop.run_until_complete(asyncio.wait(tasks, timeout=gap))
        assert not asyncio.all_tasks(loop)
        loop.run_until_complete(loop.shutdown_asyncgens())
    finally:
        loop.close()
    assert told == []


async def _told(when: asyncio.Event) -> None:
    with anyio.fail_after(PATIENCE):
        await when.wait()


class Work:
    """Tasks that end only when they are cancelled, and what became of them."""

    def __init__(self, app: App) -> None:
        self.app = app
        self.all_run = asyncio.Event()
        self.begun: list[str] = []
        self.attempts: list[int] = []  # of those that were given back
        self.saves = 0
        self.may_be_told_twice = False

        @app.task(retry=Retry(times=5))
        async def hold(context: Context, name: str) -> str:
            if name in self.begun:
                self.attempts.append(context.attempt)
            else:
                self._begin(name)
                await asyncio.Event().wait()
            return name

        @app.task
        async def save(name: str) -> str:
            """Ends well although it is cancelled."""
            self.saves += 1
            self._begin(name)
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

        self.held, self.saved = asyncio.run(enqueue())

    def _begin(self, name: str) -> None:
        self.begun.append(name)
        if len(self.begun) == 2 * SEVERAL:
            self.all_run.set()

    def assert_well(self) -> None:
        """What was given back runs again, and what had ended does not."""
        assert asyncio.run(self._statuses(self.saved)) == {Status.SUCCEEDED}
        asyncio.run(self._run_the_rest())
        assert self.saves == SEVERAL
        assert asyncio.run(self._statuses(self.held)) == {Status.SUCCEEDED}
        assert set(self.attempts) == {1}  # none was taken for a failure, or a crash
        assert len(self.attempts) == SEVERAL or self.may_be_told_twice

    async def _statuses(self, ids: list[str]) -> set[Status]:
        async with self.app:
            return {await self.app.result(id).status() for id in ids}

    async def _run_the_rest(self) -> None:
        async with self.app:
            await self.app.run_worker(burst=True)


def assert_no_harm(caplog: pytest.LogCaptureFixture) -> None:
    for word in ("ignores its cancellation", "fenced", "could not be settled", "failed"):
        assert word not in caplog.text


@pytest.mark.parametrize("any_app", LASTING, indirect=True)
@pytest.mark.parametrize("gaps", [(), (0.0,), (0.002, 0.002)], ids=["once", "twice", "thrice"])
@pytest.mark.parametrize("program", [beside, alone, never_left])
def test_what_runs_is_given_back_and_what_has_ended_is_settled(
    any_app: App, program: Program, gaps: tuple[float, ...], caplog: pytest.LogCaptureFixture
) -> None:
    work = Work(any_app)
    # RabbitMQ may have got what it is told again, as its confirms were cut off.
    work.may_be_told_twice = bool(gaps) and any_app.url.scheme == "amqp"

    run_and_cancel_all(program, any_app, work.all_run, *gaps)

    work.assert_well()
    assert_no_harm(caplog)


@pytest.mark.parametrize("any_app", LASTING, indirect=True)
def test_a_ctrl_c_that_is_raised_where_a_worker_is_left_leaves_nothing_running(
    any_app: App, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As the second one to `asyncio.run`, wherever that is by then."""
    work, real = Work(any_app), Worker.stop

    def stop(_: Worker) -> None:
        monkeypatch.setattr(Worker, "stop", real)
        raise KeyboardInterrupt

    async def program() -> None:
        async with any_app, any_app.worker(concurrency=2 * SEVERAL, grace=30.0):
            await work.all_run.wait()
            monkeypatch.setattr(Worker, "stop", stop)

    with pytest.raises(KeyboardInterrupt):
        asyncio.run(program())

    work.assert_well()
    assert_no_harm(caplog)


@pytest.mark.parametrize("any_app", LASTING, indirect=True)
def test_a_worker_that_goes_on_as_its_app_is_left_is_ended(
    any_app: App, caplog: pytest.LogCaptureFixture
) -> None:
    work = Work(any_app)

    async def program() -> None:
        async with any_app:
            worker = any_app.make_worker(concurrency=2 * SEVERAL, grace=30.0)
            run = asyncio.get_running_loop().create_task(worker.run())
            await work.all_run.wait()
        with anyio.fail_after(PATIENCE):
            await asyncio.wait({run})

    asyncio.run(program())

    work.assert_well()
    assert_no_harm(caplog)


@pytest.mark.parametrize("any_app", LASTING, indirect=True)
def test_what_is_cancelled_with_all_but_its_worker_is_no_failure(any_app: App) -> None:
    work = Work(any_app)

    async def program() -> None:
        async with any_app:
            run = asyncio.get_running_loop().create_task(
                any_app.run_worker(concurrency=2 * SEVERAL, grace=30.0)
            )
            await work.all_run.wait()
            others = asyncio.all_tasks() - {asyncio.current_task(), run}
            for task in others:
                task.cancel()
            with anyio.fail_after(PATIENCE):
                await asyncio.wait({run})

    asyncio.run(program())

    work.assert_well()


async def test_settling_waits_for_no_owner_for_ever_once_it_was_cancelled(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A Ctrl-C may have ended him at any point."""
    monkeypatch.setattr("asyncq.worker.completer.CLOSED_WITHIN", 0.1)
    app = new_app()
    async with app, app.client.broker.consume(MAIL, lease := new_lease()) as consumer:
        backend, publish = app.client.backend, app.client.send
        latches = Latches(backend, publish)
        completer = Completer(consumer, backend, lease, publish, latches, unified=True, room=10)
        settling = asyncio.get_running_loop().create_task(completer.run())
        await asyncio.sleep(0.01)
        settling.cancel()
        with anyio.fail_after(PATIENCE):
            await asyncio.wait({settling})
