"""A broker and a backend that fail now and then: nothing is lost, and each task has one outcome."""

import re
from collections import Counter

import anyio
import pytest
from anyio import fail_after

from asyncq import outages
from asyncq.app import App
from asyncq.client import waiters
from asyncq.client.context import Context
from asyncq.client.gathering import gather
from asyncq.drivers.memory.broker import MemoryConsumer
from asyncq.errors import BrokerUnavailable, TaskFailed
from asyncq.language.message import Status, Succeeded, new_id
from asyncq.language.policies import Retry
from tests.client.given import PATIENCE, until, until_status
from tests.worker.faulty import FaultyBackend, FaultyBroker

SHORT = Retry(times=0, base=0.001, ceiling=0.005)
TASKS = 200


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch, faulty_drivers: None) -> None:
    monkeypatch.setattr(outages, "AWAY", SHORT)
    monkeypatch.setattr(waiters, "REREAD", 0.1)


def backend_url(kind: str, seed: int, name: str) -> str:
    return f"faulty://{seed}.{name}" if kind == "faulty" else f"memory://{seed}.{name}"


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("kind", ["memory", "faulty"])
async def test_every_task_ends_once_whatever_the_store_does(seed: int, kind: str) -> None:
    name = new_id()
    app = App(f"faulty://{seed}.{name}", backend=backend_url(kind, seed, name))
    runs: Counter[int] = Counter()

    @app.task(retry=Retry(times=5, base=0.0))
    async def square(ctx: Context, n: int) -> int:
        runs[n] += 1
        await anyio.sleep(0.001 * (n % 3))
        if n % 7 == 0 and ctx.attempt == 1:
            raise ValueError(n)
        return n * n

    with fail_after(30):
        async with app.worker(concurrency=20):
            results = await app.enqueue_many(square.s(n) for n in range(TASKS))
            values = await gather(*results)

    assert values == [n * n for n in range(TASKS)]
    assert all(runs[n] >= 1 + (n % 7 == 0) for n in range(TASKS))


@pytest.mark.parametrize("seed", range(5))
async def test_in_the_end_no_message_is_left_anywhere(seed: int) -> None:
    app = App(f"faulty://{seed}.{new_id()}", backend=f"faulty://{seed}.{new_id()}")

    @app.task
    async def note(n: int) -> int:
        return n

    with fail_after(30):
        async with app:
            broker, backend = app.client.broker, app.client.backend
            assert isinstance(broker, FaultyBroker)
            assert isinstance(backend, FaultyBackend)
            async with app.worker(concurrency=10):
                results = await app.enqueue_many(note.s(n) for n in range(TASKS))
                await gather(*results)

            depth = await broker.depth("default")
            outcomes = {record.id: record.outcome for record in backend.stored}
            assert broker.chance.failures > 0
            assert backend.chance.failures > 0

    assert (depth.ready, depth.in_flight, depth.delayed, depth.dead) == (0, 0, 0, 0)
    assert len(outcomes) == TASKS
    assert all(isinstance(outcome, Succeeded) for outcome in outcomes.values())


async def test_what_was_interrupted_says_after_how_long_it_goes_on(
    caplog: pytest.LogCaptureFixture,
) -> None:
    app = App(f"faulty://1.{new_id()}", backend=f"memory://{new_id()}")

    @app.task
    async def note(n: int) -> int:
        return n

    with fail_after(30):
        async with app.worker():
            for n in range(40):
                assert await (await note.enqueue(n)).get(timeout=PATIENCE) == n

    for fails, works in (
        ("publishing is interrupted", "publishing goes on"),
        ("queue default is not consumed", "queue default is consumed again"),
        ("settling tasks is interrupted", "settling tasks goes on"),
    ):
        lines = [text for text in caplog.messages if text.startswith((fails, works))]
        assert lines[0].startswith(f"{fails}, trying again: ")
        assert re.fullmatch(rf"{works} after \d+\.\d s", lines[1])


async def test_two_stores_work_as_one(app: App) -> None:
    app = App(app.url.reveal(), backend=f"memory://{new_id()}")

    @app.task(retry=Retry(times=1, base=0.0))
    async def task(ctx: Context, kind: str) -> str:
        if kind == "fail" or (kind == "retry" and ctx.attempt == 1):
            raise ValueError(kind)
        return kind

    async with app.worker():
        good, again, bad = [await task.enqueue(kind) for kind in ("good", "retry", "fail")]
        assert await good.get(timeout=PATIENCE) == "good"
        assert await again.get(timeout=PATIENCE) == "retry"
        with pytest.raises(TaskFailed, match="ValueError: fail"):
            await bad.get(timeout=PATIENCE)

        assert await good.status() is Status.SUCCEEDED
        assert await bad.status() is Status.FAILED


async def test_without_a_backend_tasks_run_and_results_are_unknown(app: App) -> None:
    app = App(app.url.reveal(), backend="null://")
    ran: list[int] = []

    @app.task
    async def note(n: int) -> None:
        ran.append(n)

    async with app.worker():
        result = await note.enqueue(1)
        await until(lambda: ran == [1])
        await until_status(result, Status.UNKNOWN)

    assert ran == [1]


async def test_pauses_do_not_grow_while_the_broker_answers_in_between(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    failures_in_a_row: list[int] = []

    class Pauses:
        def pause(self, failures: int) -> float:
            failures_in_a_row.append(failures)
            return 0.0

    async def fail(_: MemoryConsumer) -> None:
        raise BrokerUnavailable("for a moment")

    monkeypatch.setattr(outages, "AWAY", Pauses())
    monkeypatch.setattr(MemoryConsumer, "wait", fail)
    app = App(f"memory://{new_id()}")

    @app.task
    async def work() -> None: ...

    async with app.worker():
        await gather(*[await work.enqueue() for _ in range(20)], timeout=PATIENCE)
        await until(lambda: len(failures_in_a_row) >= 5)

    assert set(failures_in_a_row) == {1}
