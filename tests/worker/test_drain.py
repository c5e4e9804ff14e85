"""What a worker that was told to stop says of what it waits for."""

import threading
from functools import partial
from typing import Any

import anyio
import pytest
from anyio import fail_after

from asyncq.app import App
from asyncq.worker import drain
from tests.client.given import PATIENCE, Gate, until
from tests.worker.virtual import on_virtual_time, virtual_app


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What the log says of waiting."""
    return [line for line in caplog.messages if " waits " in line]


@on_virtual_time
async def test_within_a_second_a_draining_worker_names_what_runs_by_task_and_id(
    caplog: pytest.LogCaptureFixture,
) -> None:
    app = virtual_app(grace=30.0)
    gate = Gate()

    @app.task(name="mail.send")
    async def send() -> None:
        await gate.pass_through()

    async with app:
        async with app.worker() as worker:
            result = await send.enqueue()
            await gate.until_reached()
            worker.stop()
            await anyio.sleep(0.9)
            said = lines(caplog)
            gate.open()
        await anyio.sleep(60)

    assert said == [
        f"worker {worker.name} is stopping and waits for 1 task: mail.send[{result.id}], up to 30 s"
    ]
    assert lines(caplog) == said  # and nothing when it has ended


@on_virtual_time
async def test_what_a_drain_waits_for_is_said_again_while_its_grace_runs(
    caplog: pytest.LogCaptureFixture,
) -> None:
    app = virtual_app(grace=30.0)

    @app.task(name="sleep")
    async def sleep(seconds: float) -> None:
        await anyio.sleep(seconds)

    async with app, app.worker() as worker:
        await app.enqueue_many(sleep.s(seconds) for seconds in (*(3.0,) * 6, 20.0))
        await until(lambda: worker.slots.running == 7)
        worker.stop()

    first, second, third = lines(caplog)
    assert "waits for 7 tasks: sleep[" in first
    assert first.count("sleep[") == drain.MOST_NAMED
    assert " and 2 more, up to 30 s" in first
    assert "still waits after 5 s for 1 task: sleep[" in second
    assert "up to 25 s" in second
    assert "still waits after 15 s for 1 task: sleep[" in third


async def test_a_task_in_a_thread_is_said_to_be_in_one(
    app: App, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(drain, "SOON", 0.01)
    begun, release = threading.Event(), threading.Event()

    @app.task(name="count")
    def count() -> None:
        begun.set()
        release.wait(PATIENCE)

    async with app:
        with fail_after(PATIENCE):
            async with app.worker(grace=0.1) as worker:
                result = await count.enqueue()
                await until(begun.is_set)
                worker.stop()
                await until(lambda: bool(lines(caplog)))
                await until(lambda: any("run on past the grace" in m for m in caplog.messages))
                release.set()

    assert f"for 1 task: count[{result.id}] (in a thread)" in lines(caplog)[0]
    [past] = [line for line in caplog.messages if "run on past the grace" in line]
    assert f"1 task (count[{result.id}])" in past


@on_virtual_time
async def test_a_hook_that_keeps_a_worker_is_named(caplog: pytest.LogCaptureFixture) -> None:
    app = virtual_app(grace=30.0)

    @app.on_shutdown
    async def say_goodbye(_state: dict[str, Any]) -> None:
        await anyio.sleep(3)

    async with app, app.worker() as worker:
        worker.stop()

    [line] = lines(caplog)
    assert line.startswith(f"worker {worker.name} is stopping and waits for the shutdown hook ")
    assert line.endswith(".say_goodbye")


@on_virtual_time
async def test_a_hook_that_keeps_a_worker_from_its_start_is_named(
    caplog: pytest.LogCaptureFixture,
) -> None:
    app = virtual_app(grace=30.0)
    begun = anyio.Event()

    @app.on_startup
    async def warm_up(_state: dict[str, Any]) -> None:
        begun.set()
        await anyio.sleep(3)

    async with app:
        worker = app.make_worker()
        async with anyio.create_task_group() as group:
            group.start_soon(partial(worker.run))
            await begun.wait()
            worker.stop()

    [line] = lines(caplog)
    assert line.endswith(".warm_up")
    assert "the start-up hook " in line


@on_virtual_time
async def test_a_worker_that_holds_nothing_stops_without_a_word(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with virtual_app() as app, app.worker() as worker:
        worker.stop()

    await anyio.sleep(10)
    assert not lines(caplog)
