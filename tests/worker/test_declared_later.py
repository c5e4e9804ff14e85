"""Tasks that are declared while a worker of their app runs, as at a prompt."""

import pytest
from anyio import fail_after

from asyncq.app import App
from tests.client.given import PATIENCE, new_app


def declare(app: App) -> None:
    @app.task(name="late")
    async def late() -> str:  # pyright: ignore[reportUnusedFunction] - by its name
        return "here"


async def test_a_task_that_is_declared_while_the_worker_runs_is_run(app: App) -> None:
    async with app.worker(queues=["default"]):

        @app.task
        async def late(n: int) -> int:
            return 2 * n

        assert await (await late.enqueue(2)).get(timeout=PATIENCE) == 4


async def test_a_task_whose_message_came_before_it_was_declared_is_run_once_it_is() -> None:
    app = new_app(unknown_delay=0.02)
    other = App(app.url.reveal())
    declare(other)

    async with app.worker(queues=["default"]), other:
        result = await other.tasks["late"].enqueue()
        with pytest.raises(TimeoutError):
            await result.get(timeout=0.2)
        declare(app)

        with fail_after(PATIENCE):
            assert await result == "here"
