"""What a broker buries or removes while a workflow waits for its end: the workflow is told."""

import pytest
from anyio import sleep

from asyncq.app import App
from asyncq.client.context import Context
from asyncq.errors import TaskFailed
from asyncq.language.message import FailureType, derived_id
from asyncq.language.signature import Signature
from asyncq.language.topology import Queue
from tests.chords import begin
from tests.client.given import PATIENCE, until
from tests.worker.combinations import any_app
from tests.worker.test_latches import Tasks

__all__ = ["any_app"]  # a fixture

BURIES = {
    FailureType.WAITED_TOO_LONG: Queue("narrow", ttl=0.05),
    FailureType.OVERFLOWED: Queue("narrow", max_length=1, overflow="drop-head"),
    FailureType.PURGED: Queue("narrow"),
}


@pytest.mark.parametrize("kind", [*BURIES])
async def test_the_chord_of_a_part_that_was_buried_fails_at_once(
    any_app: App, kind: FailureType
) -> None:
    app = App(
        any_app.url.reveal(),
        backend=any_app.backend_url.reveal(),
        queues=[BURIES[kind]],
    )
    tasks = Tasks(app)

    @app.task
    async def start(context: Context) -> str:
        buried: Signature[int] = tasks.square.options(queue="narrow").s(2)
        begin(context, tasks.chord(context.id, [tasks.square.s(1), buried]))
        return context.id

    async with app:
        started = await start.enqueue()
        async with app.worker(queues=["default"]):
            root = await started.get(timeout=PATIENCE)
            await until(lambda: tasks.ran == ["square 1"])
        match kind:
            case FailureType.OVERFLOWED:
                await tasks.square.options(queue="narrow").enqueue(3)
            case FailureType.PURGED:
                assert await app.queues.purge("narrow") == 1
            case _:
                await sleep(0.1)

        async with app.worker():
            await until(lambda: "failed" in tasks.ran)
            with pytest.raises(TaskFailed) as caught:
                await app.result(derived_id(root, "1")).get(timeout=PATIENCE)
            assert caught.value.type == kind

            letters = list(await app.dead.list("narrow"))
            if kind == FailureType.PURGED:
                assert letters == []  # it was to be gone
                return
            [letter] = letters
            assert letter.envelope.id == derived_id(root, "1")
            assert "body" not in tasks.ran
            if kind == FailureType.OVERFLOWED:
                await app.dead.replay("narrow", [letter.envelope.id])
                assert await tasks.done(root) == [1, 4]


async def test_many_parts_that_were_purged_are_told(any_app: App) -> None:
    app, count = any_app, 300
    tasks = Tasks(app)

    @app.task
    async def start(context: Context) -> str:
        part: Signature[int] = tasks.square.options(queue="narrow").s(2)
        begin(context, tasks.chord(context.id, [part] * count, policy="collect"))
        return context.id

    async with app:
        started = await start.enqueue()
        async with app.worker(queues=["default"]):
            root = await started.get(timeout=PATIENCE)
        assert await app.queues.purge("narrow") == count

        async with app.worker(queues=["default", "narrow"]):
            assert await tasks.done(root) == ["Failed"] * count
        assert tasks.ran == ["body"]
