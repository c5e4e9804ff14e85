"""What a caller hears of a queue's bounds."""

import pytest
from anyio import fail_after
from anyio.lowlevel import checkpoint

from asyncq.app import App
from asyncq.client import waiters
from asyncq.errors import QueueFull, TaskFailed
from asyncq.language.message import Status, new_id
from asyncq.language.topology import Binding, Exchange, Queue
from tests.client.given import PATIENCE, watched

NEWS = Exchange("news", "fanout")


def bounded(*queues: Queue, scheme: str = "memory") -> App:
    name = new_id()
    return App(f"{scheme}://{name}", backend=f"memory://{name}", queues=queues)


async def test_a_full_queue_is_the_error_of_those_it_has_no_room_for() -> None:
    app = bounded(Queue("q", max_length=3))

    @app.task(queue="q")
    async def task(n: int) -> int:
        return n

    async with app:
        for n in range(3):
            await task.enqueue(n)
        with pytest.raises(QueueFull, match="queue q is full"):
            await task.enqueue(3)
        await task.options(queue="other").enqueue(4)
        async with app.worker(queues=["q"]):
            with fail_after(PATIENCE):
                while (await app.queues.depth("q")).ready:
                    await checkpoint()
            assert await (await task.enqueue(5)).get(timeout=PATIENCE) == 5


@pytest.mark.usefixtures("watched_app")  # which makes watched:// a scheme
async def test_many_calls_hear_of_a_full_queue_in_few_trips() -> None:
    app = bounded(Queue("q", max_length=3), scheme="watched")

    @app.task(queue="q")
    async def task(n: int) -> int:
        return n

    async with app:
        with pytest.raises(QueueFull) as caught:
            await app.enqueue_many(task.s(n) for n in range(400))

        assert len(caught.value.envelope_ids) == 397
        assert (await app.queues.depth("q")).ready == 3
        assert watched(app).calls < 5


async def test_a_full_queue_of_a_fanout_is_the_callers_error() -> None:
    app = bounded(
        Queue("a", bindings=[Binding(NEWS)]), Queue("b", bindings=[Binding(NEWS)], max_length=1)
    )

    @app.task(exchange="news")
    async def task() -> None: ...

    async with app:
        await task.enqueue()
        with pytest.raises(QueueFull, match="queue b is full"):
            await task.enqueue()


async def test_who_waits_for_what_gave_way_hears_of_the_dead_letter(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(waiters, "REREAD", 0.05)
    app = bounded(Queue("q", max_length=1, overflow="drop-head"))

    @app.task(queue="q")
    async def task() -> None: ...

    async with app:
        first, _ = await task.enqueue(), await task.enqueue()

        assert await first.status() is Status.FAILED
        with pytest.raises(TaskFailed, match="dead letters have it") as caught:
            await first.get(timeout=PATIENCE)
        assert caught.value.type == "DeadLetter"


async def test_two_clients_may_declare_the_same_queues() -> None:
    name = new_id()
    apps = [App(f"memory://{name}", queues=[Queue("q", max_length=1)]) for _ in range(2)]

    @apps[1].task(queue="q")
    async def task() -> None: ...

    async with apps[0], apps[1]:
        await task.enqueue()
        with pytest.raises(QueueFull):
            await task.enqueue()
