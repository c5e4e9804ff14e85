"""Threads that go on after their task's time limit: it is told in time, and they count as stuck."""

import threading
import time

import pytest

from asyncq.client.context import Context
from asyncq.errors import TaskFailed, TimeLimitExceeded
from asyncq.language.message import Status
from asyncq.language.policies import Retry
from tests.client.given import PATIENCE, new_app, until

LIMIT = 0.05  # seconds
IN_TIME = 2.0  # seconds


class Stuck:
    """Where threads wait and no exception is raised."""

    def __init__(self) -> None:
        self.attempts: list[int] = []
        self.returned: list[int] = []
        self._gate = threading.Event()

    def wait(self, attempt: int) -> None:
        self.attempts.append(attempt)
        self._gate.wait()
        self.returned.append(attempt)

    def open(self) -> None:
        self._gate.set()


async def test_a_stuck_thread_is_told_in_time_and_what_it_does_later_changes_nothing() -> None:
    app, stuck = new_app(grace=1.0, max_stuck=2), Stuck()

    @app.task(time_limit=LIMIT)
    def hang(context: Context) -> str:
        try:
            stuck.wait(context.attempt)
        except TimeLimitExceeded:
            stuck.returned.append(context.attempt)
        return "nobody wants to know"

    @app.task
    def next_one() -> str:
        return "has a slot"

    async with app, app.worker(concurrency=1) as worker:
        try:
            began = time.monotonic()
            results = [await hang.enqueue() for _ in range(2)]
            for count, result in enumerate(results, start=1):
                with pytest.raises(TaskFailed) as caught:
                    await result.get(timeout=PATIENCE)
                assert caught.value.is_a(TimeLimitExceeded)
                await until(lambda: worker.slots.threads.left == count)  # noqa: B023 - at once
                assert bool(worker.worn) is (count == 2)
            assert time.monotonic() - began < IN_TIME
            assert worker.worn == "has 2 tasks that did not end when told to"
            assert await (await next_one.enqueue()).get(timeout=PATIENCE) == "has a slot"
            assert worker.slots.free == 1
        finally:
            stuck.open()
        await until(lambda: worker.slots.threads.left == 0)
        assert worker.worn == ""
        assert stuck.returned == [1, 1]
        for result in results:
            assert await result.status() is Status.FAILED
            with pytest.raises(TaskFailed, match="time limit"):
                await app.result(result.id).get(timeout=PATIENCE)
        assert len(await app.dead.list("default")) == 2


async def test_the_next_attempt_may_run_beside_what_a_stuck_thread_still_does() -> None:
    app, stuck = new_app(grace=1.0), Stuck()

    @app.task(time_limit=LIMIT, retry=Retry(1, base=0))
    def hang_first(context: Context) -> int:
        if context.attempt == 1:
            stuck.wait(context.attempt)
        return context.attempt

    async with app, app.worker(concurrency=1) as worker:
        try:
            result = await hang_first.enqueue()
            assert await result.get(timeout=PATIENCE) == 2
            assert stuck.attempts == [1]
            assert worker.slots.threads.left == 1
        finally:
            stuck.open()
        await until(lambda: worker.slots.threads.left == 0)
        assert await app.result(result.id).get(timeout=PATIENCE) == 2
