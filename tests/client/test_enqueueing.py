"""Sending: one by one, many at once, and from any kind of iterable."""

from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import anyio
import pytest
from anyio import fail_after

from asyncq.app import App
from asyncq.client.context import Context
from asyncq.client.task import Task
from asyncq.language.message import Status
from asyncq.language.signature import Signature
from asyncq.seams.broker import MAX_BATCH
from tests.client.given import PATIENCE, watched


@pytest.fixture
def note(watched_app: App) -> Task[[int], int]:
    @watched_app.task(name="note")
    async def note(n: int) -> int:
        return n

    return note


async def test_a_hundred_at_once_travel_in_a_handful_of_calls(
    watched_app: App, note: Task[[int], int]
) -> None:
    async with watched_app:
        with fail_after(PATIENCE):
            async with anyio.create_task_group() as group:
                for n in range(100):
                    group.start_soon(note.enqueue, n)

        broker = watched(watched_app)
        assert sum(len(batch) for batch in broker.batches) == 100
        assert broker.calls <= 4


async def test_one_alone_travels_at_once(watched_app: App, note: Task[[int], int]) -> None:
    async with watched_app:
        result = await note.enqueue(1)

        assert watched(watched_app).batches == [[result.id]]


async def test_many_are_streamed_and_not_collected_first(
    watched_app: App, note: Task[[int], int]
) -> None:
    ahead: list[int] = []

    def source() -> Iterator[Signature[int]]:
        for n in range(5_000):
            ahead.append(n - sum(len(batch) for batch in watched(watched_app).batches))
            yield note.s(n)

    async with watched_app:
        results = await watched_app.enqueue_many(source())

        broker = watched(watched_app)
        assert [len(batch) for batch in broker.batches] == [MAX_BATCH] * 10
        assert [id for batch in broker.batches for id in batch] == [r.id for r in results]

    assert max(ahead) < 3 * MAX_BATCH  # one on its way, one being made


async def test_many_may_come_from_an_asynchronous_source(
    watched_app: App, note: Task[[int], int]
) -> None:
    async def source() -> AsyncIterator[Signature[int]]:
        for n in range(1_200):
            if n % 100 == 0:
                await anyio.lowlevel.checkpoint()
            yield note.s(n)

    async with watched_app:
        results = await watched_app.enqueue_many(source())

        assert [len(batch) for batch in watched(watched_app).batches] == [500, 500, 200]
        assert len({result.id for result in results}) == 1_200


async def test_of_none_nothing_is_sent(watched_app: App) -> None:
    async with watched_app:
        assert await watched_app.enqueue_many([]) == []

        assert watched(watched_app).calls == 0


async def test_a_long_source_leaves_the_loop_to_others(
    watched_app: App, note: Task[[int], int]
) -> None:
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await anyio.lowlevel.checkpoint()

    async with watched_app, anyio.create_task_group() as group:
        group.start_soon(count)
        await watched_app.enqueue_many(note.s(n) for n in range(10_000))
        group.cancel_scope.cancel()

    assert turns > 20


async def test_a_source_that_fails_has_sent_what_came_before(
    watched_app: App, note: Task[[int], int]
) -> None:
    def source() -> Iterator[Signature[int]]:
        for n in range(1_000):
            yield note.s(n)
        raise OSError("disk full")

    async with watched_app:
        with pytest.raises(OSError, match="disk full"):
            await watched_app.enqueue_many(source())
        await note.enqueue(1)  # behind what was on its way

        assert [len(batch) for batch in watched(watched_app).batches][:1] == [MAX_BATCH]


async def test_many_different_tasks_are_sent_together(watched_app: App) -> None:
    @watched_app.task
    async def number(n: int) -> int:
        return n

    @watched_app.task
    async def text(n: int) -> str:
        return str(n)

    async with watched_app.worker():
        results = await watched_app.enqueue_many([number.s(1), text.s(2)])

        assert [await result.get(timeout=PATIENCE) for result in results] == [1, "2"]


async def test_a_message_knows_which_message_sent_it_and_where_all_began(app: App) -> None:
    @app.task
    async def leaf(ctx: Context) -> list[str | None]:
        return [ctx.root_id, ctx.parent_id]

    @app.task
    async def middle(ctx: Context) -> list[str | None]:
        result = await leaf.enqueue()
        return [ctx.root_id, ctx.parent_id, ctx.id, *await result]

    @app.task
    async def root(ctx: Context) -> list[str | None]:
        assert ctx.parent_id is None
        return await (await middle.enqueue())

    async with app.worker():
        result = await root.enqueue()
        root_id, parent, middle_id, leaf_root, leaf_parent = await result.get(timeout=PATIENCE)

    assert root_id == leaf_root == parent == result.id
    assert leaf_parent == middle_id


async def test_tasks_are_sent_to_the_queue_that_their_options_say(app: App) -> None:
    @app.task(queue="slow")
    async def slow(ctx: Context) -> str:
        return ctx.queue

    async with app, app.worker(queues=["slow", "elsewhere"]):
        there = await slow.enqueue()
        elsewhere = await slow.options(queue="elsewhere").enqueue()
        nowhere = await slow.options(queue="nowhere").enqueue()

        assert await there.get(timeout=PATIENCE) == "slow"
        assert await elsewhere.get(timeout=PATIENCE) == "elsewhere"
        assert await nowhere.status() is Status.QUEUED


GIVEN: list[tuple[Callable[[Any], Any], str]] = [
    (lambda task: task, r"written add\.s\(\.\.\.\): <task .*> is a task without its arguments"),
    (lambda task: task.options(priority=1), r"task\.s\(\.\.\.\)"),
    (lambda task: task(1, 2), r"add\.s\(1, 2\): what add\(1, 2\) makes would run here"),
    (lambda _: "add", r"add\.s\(1, 2\): 'add' is none"),
    (lambda _: None, r"add\.s\(1, 2\): None is none"),
    (lambda task: [task.s(1, 2)], r"add\.s\(1, 2\)"),
]


@pytest.mark.parametrize(("given", "complaint"), GIVEN)
async def test_what_is_no_call_is_told_how_calls_are_written(
    app: App, given: Callable[[Any], Any], complaint: str
) -> None:
    async def add(x: int, y: int) -> int:
        return x + y

    task = app.task(name="shop.add")(add)

    async with app:
        with pytest.raises(TypeError, match=complaint):
            await app.enqueue(given(task))
        with pytest.raises(TypeError, match=complaint):
            await app.enqueue_many([given(task)])


async def test_many_calls_that_are_none_are_told_how_calls_are_written(app: App) -> None:
    @app.task
    async def add(x: int, y: int) -> int:
        return x + y

    many: Any = app.enqueue_many
    async with app:
        with pytest.raises(TypeError, match=r"enqueue_many\(\[call\]\)"):
            await many(add.s(1, 2))
        with pytest.raises(TypeError, match="takes a list of calls"):
            await many(add)
        with pytest.raises(TypeError, match="takes a list of calls"):
            await many(None)
