"""``app.queues`` and ``app.dead``: what an operator asks and does, from Python."""

import pytest
from anyio import fail_after

from asyncq import App, ConfigurationError, Retry, TaskFailed


async def test_a_queue_is_measured_looked_into_and_emptied() -> None:
    app = App("memory://operated")

    @app.task(name="mail", queue="mail")
    async def mail(_to: str) -> None: ...

    async with app:
        first = await mail.enqueue("one")
        await mail.options(delay=100).enqueue("two")

        assert app.queues.declared == ["mail"]
        assert list(await app.queues.list()) == ["mail"]
        assert await app.queues.is_there("mail")
        assert not await app.queues.is_there("post")
        depth = await app.queues.depth("mail")
        assert (depth.ready, depth.delayed, depth.in_flight, depth.dead) == (1, 1, 0, 0)
        assert [each.envelope.id for each in await app.queues.peek("mail", limit=1)] == [first.id]
        assert await app.queues.purge("mail") == 2
        assert (await app.queues.depth("mail")).ready == 0


async def test_dead_letters_are_listed_run_again_and_forgotten() -> None:
    app = App("memory://buried")
    runs: list[int] = []

    @app.task(name="fail", retry=Retry(times=0))
    async def fail(n: int) -> None:
        runs.append(n)
        raise ValueError(n)

    with fail_after(10):
        async with app, app.worker():
            results = [await fail.enqueue(n) for n in range(2)]
            for result in results:
                with pytest.raises(TaskFailed):
                    await result
            ids = [result.id for result in results]

            assert [each.envelope.id for each in await app.dead.list("default")] == ids
            assert list(await app.dead.among("default", [ids[1], "other"])) == [ids[1]]
            assert list(await app.dead.replay("default", [ids[0], "other"])) == [ids[0]]
            with pytest.raises(TaskFailed):
                await app.result(ids[0])
            assert await app.dead.delete("default", ids) == 2
            assert not await app.dead.list("default")
    assert runs == [0, 1, 0]


async def test_what_is_declared_is_known_before_the_app_is_connected_and_the_rest_is_not() -> None:
    app = App("memory://apart", routes={"*": "routed"})

    @app.task
    async def work() -> None: ...

    assert app.queues.declared == ["routed"]
    with pytest.raises(ConfigurationError, match="async with app"):
        await app.queues.list()
    with pytest.raises(ConfigurationError, match="async with app"):
        await app.dead.list("routed")
