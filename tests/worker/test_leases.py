"""A worker that lost its lease: what it ran is cancelled, nothing it did counts, it begins anew."""

import asyncio
import logging
import re
import threading
import time
from collections.abc import Sequence
from typing import Any

import anyio
import pytest
from anyio import fail_after

from asyncq.app import App
from asyncq.client.context import Context
from asyncq.client.values.encoding import encode
from asyncq.config import Config
from asyncq.drivers.memory.backend import MemoryBackend
from asyncq.drivers.memory.broker import MemoryBroker, MemoryLeaseRenewer
from asyncq.drivers.memory.queue import MemoryQueue
from asyncq.drivers.memory.store import open_store
from asyncq.errors import (
    BackendUnavailable,
    BrokerError,
    BrokerUnavailable,
    ConfigurationError,
    TaskFailed,
)
from asyncq.language.message import Status, Succeeded, new_id
from asyncq.language.record import Record
from asyncq.seams.broker import Broker, Lease, QueueSpec
from asyncq.worker import leases, stalls
from tests.client.given import PATIENCE, Gate, new_app, until


def queue_of(app: App, name: str = "default") -> MemoryQueue:
    return open_store(app.url).queue(name)


def end_leases(app: App, name: str = "default") -> None:
    """Every worker's lease is over, as if none had been renewed."""
    for holder in queue_of(app, name)._holders.values():  # pyright: ignore[reportPrivateUsage]
        holder.ends = 0.0


def incarnations(app: App) -> set[str]:
    return set(queue_of(app)._holders)  # pyright: ignore[reportPrivateUsage]


async def crash(app: App, ids: Sequence[str]) -> None:
    """A worker dies with the next message in its hands, which must be one of ``ids``."""
    broker: Broker = app.client.broker
    assert isinstance(broker, MemoryBroker)
    async with broker.consume(QueueSpec("default"), Lease(new_id(), 60.0)) as consumer:
        [delivery] = await consumer.receive(1)
        assert delivery.envelope.id in ids
        end_leases(app)
        assert await broker.sweep("default") == 1


@pytest.fixture
def short_lease() -> App:
    return new_app(grace=1.0, lease=0.3)


async def test_what_ran_is_cancelled_and_a_new_incarnation_goes_on(
    short_lease: App, caplog: pytest.LogCaptureFixture
) -> None:
    app = short_lease
    gate = Gate()
    told: list[str] = []

    @app.task
    async def work(ctx: Context) -> str:
        if gate.reached.is_set():
            return "second"
        try:
            await gate.pass_through()
        except asyncio.CancelledError:
            told.append("cancelled")
            raise
        return "first"

    with fail_after(PATIENCE):
        async with app.worker():
            before = incarnations(app)
            result = await work.enqueue()
            await gate.until_reached()
            end_leases(app)
            assert await result == "second"

            assert told == ["cancelled"]
            assert not before & incarnations(app)

    assert "lost its lease: restarting under a new one" in caplog.text


async def test_the_outcome_of_a_fenced_worker_does_not_count(short_lease: App) -> None:
    app = short_lease
    gate = Gate()
    runs: list[str] = []

    @app.task
    async def work() -> str:
        runs.append("run")
        if len(runs) == 1:
            try:
                await gate.pass_through()
            except asyncio.CancelledError:
                return "fenced"  # it ends well, but too late
        return "counts"

    with fail_after(PATIENCE):
        async with app.worker():
            result = await work.enqueue()
            await gate.until_reached()
            end_leases(app)
            broker = app.client.broker
            assert isinstance(broker, MemoryBroker)
            assert await broker.sweep("default") == 1

            assert await result == "counts"
    assert len(runs) == 2


async def test_a_lease_that_cannot_be_renewed_is_lost_where_the_backend_is_another_store(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = Config(lease=0.3, grace=1.0)
    app = App(f"memory://{new_id()}", backend=f"memory://{new_id()}", config=config)
    renew = MemoryLeaseRenewer.renew
    first: list[str] = []
    lost = threading.Event()

    def refuse(self: MemoryLeaseRenewer, incarnation: str, *args: Any) -> bool:
        first.append(incarnation)
        if incarnation == first[0]:
            lost.set()
            return False
        return renew(self, incarnation, *args)

    monkeypatch.setattr(MemoryLeaseRenewer, "renew", refuse)
    gate = Gate()

    @app.task
    async def work(ctx: Context) -> str:
        if not lost.is_set():
            try:
                await gate.pass_through()
            except asyncio.CancelledError:
                return "too late"
        return "in time"

    with fail_after(PATIENCE):
        async with app.worker():
            result = await work.enqueue()

            assert await result == "in time"


@pytest.mark.parametrize("kind", [BrokerUnavailable, BrokerError, ConfigurationError])
async def test_a_broker_that_is_away_or_refuses_does_not_cost_the_lease(
    short_lease: App,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    kind: type[Exception],
) -> None:
    app = short_lease
    renew = MemoryLeaseRenewer.renew
    calls: list[int] = []

    def away(self: MemoryLeaseRenewer, *args: Any) -> bool:
        calls.append(1)
        if len(calls) in (1, 2):
            raise kind("the lease could not be renewed just now")
        return renew(self, *args)

    monkeypatch.setattr(MemoryLeaseRenewer, "renew", away)
    monkeypatch.setattr(leases, "TURN_EVERY", 0.01)

    @app.task
    async def work() -> int:
        return 1

    async with app.worker():
        before = incarnations(app)
        await until(lambda: len(calls) > 4)
        assert await (await work.enqueue()).get(timeout=PATIENCE) == 1
        assert incarnations(app) == before

    assert caplog.text.count("could not be renewed just now") == 1
    assert "is renewed again" in caplog.text


async def test_a_loop_that_stands_still_keeps_its_lease_and_is_logged(
    short_lease: App, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    app = short_lease
    monkeypatch.setattr(stalls, "TURN_EVERY", 0.01)
    monkeypatch.setattr(stalls, "STALL", 0.1)

    @app.task
    async def block() -> str:
        time.sleep(1.0)  # noqa: ASYNC251 - the point
        return "unharmed"

    with caplog.at_level(logging.WARNING):
        async with app.worker():
            before = incarnations(app)
            result = await block.enqueue()
            assert await result.get(timeout=PATIENCE) == "unharmed"
            await until(lambda: "event loop runs again, after" in caplog.text)

            assert incarnations(app) == before

    assert f"blocked for 0.1 s in task {block.name}[{result.id}]" in caplog.text
    assert "in block" in caplog.text


async def test_a_loop_that_stands_still_for_too_long_is_given_up(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    app = new_app(grace=1.0, lease=0.2, stall_limit=0.1)
    monkeypatch.setattr(leases, "TURN_EVERY", 0.01)

    @app.task
    async def block() -> None:
        time.sleep(0.8)  # noqa: ASYNC251 - the point

    async with app.worker():
        before = incarnations(app)
        await (await block.enqueue()).get(timeout=PATIENCE)
        await until(lambda: bool(incarnations(app) - before))

        assert not before & incarnations(app)

    assert "lost its lease: restarting under a new one" in caplog.text


async def test_what_a_dead_worker_held_runs_elsewhere(app: App) -> None:
    @app.task
    async def work(n: int) -> int:
        return n

    async with app:
        results = [await work.enqueue(n) for n in range(5)]
        ids = {result.id for result in results}
        broker = app.client.broker
        async with broker.consume(QueueSpec("default"), Lease(new_id(), 60.0)) as consumer:
            held = await consumer.receive(3)
            assert {delivery.envelope.id for delivery in held} <= ids
            end_leases(app)
            live = new_app(app.url.reveal(), lease=0.3, grace=1.0)
            live.tasks.update(app.tasks)
            async with live.worker():
                assert [await result.get(timeout=PATIENCE) for result in results] == list(range(5))


async def test_a_suspect_whose_outcome_is_recorded_does_not_run_again(app: App) -> None:
    runs: list[int] = []

    @app.task
    async def work() -> str:
        runs.append(1)
        return "run again"

    async with app:
        result = await work.enqueue()
        await crash(app, [result.id])
        record = Record(result.id, Succeeded(encode("stored, not settled")))
        await app.client.backend.store_records([record])
        with fail_after(PATIENCE):
            await app.make_worker(burst=True).run()

        assert await result.get(timeout=PATIENCE) == "stored, not settled"
        assert not runs


async def test_a_message_that_kills_its_workers_is_a_dead_letter_with_an_outcome(app: App) -> None:
    runs: list[int] = []

    @app.task
    async def deadly() -> None:
        runs.append(1)

    async with app:
        result = await deadly.enqueue()
        for _ in range(app.config.max_crashes):
            await crash(app, [result.id])
        async with app.worker():
            with pytest.raises(TaskFailed, match="3 workers died while they ran it") as caught:
                await result.get(timeout=PATIENCE)
        broker = app.client.broker
        assert isinstance(broker, MemoryBroker)
        [dead] = await broker.dead_letters("default")

    assert caught.value.type == "WorkerCrashed"
    assert (dead.crashes, dead.envelope.id) == (3, result.id)
    assert not runs


async def test_a_dead_letter_that_is_replayed_has_a_new_chance(app: App) -> None:
    @app.task
    async def healed() -> str:
        return "well"

    async with app:
        result = await healed.enqueue()
        for _ in range(app.config.max_crashes):
            await crash(app, [result.id])
        await app.make_worker(burst=True).run()
        assert await result.status() is Status.FAILED

        assert await app.dead.replay("default", [result.id]) == [result.id]
        async with app.worker():
            assert await app.result(result.id).get(timeout=PATIENCE) == "well"


@pytest.mark.parametrize(("max_crashes", "most"), [(3, 5), (2, 1)])
async def test_suspects_run_together_until_their_last_chance(max_crashes: int, most: int) -> None:
    app = new_app(max_crashes=max_crashes)
    together: list[int] = []
    running: set[int] = set()

    @app.task
    async def work(n: int) -> int:
        running.add(n)
        together.append(len([m for m in running if m < 5]))
        await anyio.sleep(0.001)
        running.discard(n)
        return n

    async with app:
        results = [await work.enqueue(n) for n in range(10)]
        broker = app.client.broker
        assert isinstance(broker, MemoryBroker)
        async with broker.consume(QueueSpec("default"), Lease(new_id(), 60.0)) as consumer:
            assert len(await consumer.receive(5)) == 5
            end_leases(app)
            await broker.sweep("default")
        async with app.worker(concurrency=10):
            assert [await result.get(timeout=PATIENCE) for result in results] == list(range(10))

    assert max(together) == most


async def test_a_suspect_that_cannot_be_judged_waits(
    app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without its backend a worker cannot tell whether a message has an outcome."""
    fetch = MemoryBackend.fetch
    failures = iter([1])

    async def away(self: MemoryBackend, ids: Sequence[str]) -> Sequence[Record | None]:
        for _ in failures:
            raise BackendUnavailable("away")
        return await fetch(self, ids)

    @app.task
    async def work() -> str:
        return "ran"

    async with app:
        result = await work.enqueue()
        await crash(app, [result.id])
        monkeypatch.setattr(MemoryBackend, "fetch", away)
        async with app.worker():
            assert await result.get(timeout=PATIENCE) == "ran"


async def test_a_stall_that_the_watching_thread_slept_through_is_named_when_it_is_over(
    app: App, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def sleep_through(_self: stalls.LoopWatch) -> None:
        pass

    monkeypatch.setattr(stalls, "TURN_EVERY", 0.01)
    monkeypatch.setattr(stalls, "STALL", 0.1)
    monkeypatch.setattr(stalls.LoopWatch, "_watch", sleep_through)
    gate = Gate()

    @app.task
    async def block() -> None:
        time.sleep(0.5)  # noqa: ASYNC251 - the point
        await gate.pass_through()

    async with app.worker():
        result = await block.enqueue()
        await until(
            lambda: any("runs again" in line and result.id in line for line in caplog.messages)
        )
        gate.open()
        await result.get(timeout=PATIENCE)

    # Once: a busy machine may stop the loop at other times, too, but not for as long.
    assert sum("runs again" in line and result.id in line for line in long(caplog.messages)) == 1


def long(stalls_told: Sequence[str]) -> list[str]:
    """Those of stalls that lasted as long as the task blocks."""
    seconds = {line: re.search(r"blocked for ([\d.]+) s", line) for line in stalls_told}
    return [line for line, found in seconds.items() if found and float(found[1]) >= 0.5]
